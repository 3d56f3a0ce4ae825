import asyncio

import orjson
import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)

from tailrace.services.offline_model import OfflineModel, next_message

HITS = [
    {"source": "file:a.md", "title": "A", "text": "The river feeds the dam. Cats sleep."},
    {"source": "file:b.md", "title": "B", "text": "River."},
]


def conversation(goal: str, **answers: str) -> list[BaseMessage]:
    told = [ToolMessage(text, name=name, tool_call_id=name) for name, text in answers.items()]
    return [HumanMessage(goal), *told]


def called(message: AIMessage) -> list[tuple[str, dict[str, str]]]:
    return [(call["name"], call["args"]) for call in message.tool_calls]


@pytest.mark.parametrize(
    ("goal", "call"),
    [
        ("Calculate (6*7)+1 please", ("calculate", {"expression": "(6*7)+1"})),
        ("What is 2 ** 3?", ("calculate", {"expression": "2 ** 3"})),
        ("How many documents are there?", ("count", {})),
        ("What does the river feed?", ("search", {"query": "river feed"})),
    ],
)
def test_goal_decides_the_tool(goal: str, call: tuple[str, dict[str, str]]) -> None:
    assert called(next_message(conversation(goal))) == [call]


def test_best_document_is_read_before_the_answer() -> None:
    found = orjson.dumps(HITS).decode()
    read = next_message(conversation("river?", search=found))
    assert called(read) == [("read", {"source": "file:a.md"})]
    answer = next_message(conversation("river?", search=found, read="River runs. Dogs bark."))
    assert answer.content == (
        "A says: The river feeds the dam. River runs. 1 more documents mention it."
    )


def test_only_prose_is_quoted() -> None:
    found = orjson.dumps(HITS).decode()
    answer = next_message(conversation("river?", search=found, read="| river |\n# River\nRiver!"))
    assert answer.content == (
        "A says: The river feeds the dam. River! 1 more documents mention it."
    )


@pytest.mark.parametrize("found", ["[]", "index.db: broken"])
def test_nothing_found_is_said(found: str) -> None:
    answer = next_message(conversation("zebra?", search=found))
    assert answer.content == "I found nothing about zebra."


def test_several_wishes_are_answered_in_turn() -> None:
    goal = "how many documents, and 1+1"
    assert called(next_message(conversation(goal, calculate="2"))) == [("count", {})]
    answer = next_message(conversation(goal, calculate="2", count="5"))
    assert answer.content == "The result is 2.\n\nThere are 5 ingested documents."


def test_goal_without_words_is_answered_with_help() -> None:
    assert str(next_message(conversation("?!")).text).startswith("Ask me")
    assert str(next_message([]).text).startswith("Ask me")


async def test_paced_stream_gives_each_word_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    stream = OfflineModel(pace=0.25).astream(conversation("1+1", calculate="2"))
    assert len([word async for word in stream if word.content]) == 4
    assert waited == [0.25] * 4


async def test_stream_is_the_message_word_by_word() -> None:
    model = OfflineModel()
    bound = model.bind_tools([])
    words = [chunk async for chunk in bound.astream(conversation("1+1", calculate="2"))]
    assert "".join(str(word.text) for word in words) == "The result is 2."
    assert len([word for word in words if word.content]) == 4
    (call, *_) = [chunk async for chunk in model.astream("1+1")]
    assert isinstance(call, AIMessageChunk)
    assert called(call) == [("calculate", {"expression": "1+1"})]
    assert called(model.invoke("1+1")) == called(call)

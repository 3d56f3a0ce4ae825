import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from indexed import put
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from recording_events import RecordingEvents
from talking_model import Talking

from tailrace.schemas import ParameterError
from tailrace.services.agent import AgentJob, AgentService, agent_graph, chat_model
from tailrace.services.errors import QueueFullError
from tailrace.services.index import SearchIndex
from tailrace.services.lifecycle import Capacity
from tailrace.services.offline_model import OfflineModel
from tailrace.services.runs import Status
from tailrace.services.store import RunStore

Start: TypeAlias = Callable[..., AbstractAsyncContextManager[AgentService]]


class Holding(OfflineModel):
    """Says nothing until it is cancelled."""

    async def _astream(self, *_: object, **__: object) -> AsyncIterator[object]:  # type: ignore[override]
        await asyncio.Event().wait()
        yield None


class Restless(OfflineModel):
    """Never stops calling a tool that is not there."""

    async def _astream(self, *_: object, **__: object) -> AsyncIterator[object]:  # type: ignore[override]
        call = tool_call_chunk(name="dance", args="{}", id="c", index=0)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[call]))


def broken_model() -> BaseChatModel:
    def before() -> object:
        raise ConnectionError("no such host")

    return Unbound(words=["x"], before=before)


class Unbound(Talking):
    """Takes tools and never calls one."""

    def bind_tools(self, *_: object, **__: object) -> "Unbound":
        return self


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore[AgentJob]]:
    with RunStore(tmp_path / "runs.db", AgentJob) as store:
        yield store


@pytest.fixture
def start(tmp_path: Path, store: RunStore[AgentJob], events: RecordingEvents) -> Start:
    @asynccontextmanager
    async def started(
        model: BaseChatModel | None = None, max_runs: int = 10, max_steps: int = 25
    ) -> AsyncIterator[AgentService]:
        with SearchIndex(tmp_path / "index.db", max_bytes=1 << 22) as index:
            put(index, "p", "a.md", "# River\nThe river feeds the dam.")
            async with AgentService(
                store=store,
                index=index,
                model=model or OfflineModel(),
                events=events,
                capacity=Capacity(max_runs=max_runs),
                max_steps=max_steps,
            ) as service:
                yield service

    return started


async def test_run_tells_steps_node_states_and_messages(
    start: Start, events: RecordingEvents, store: RunStore[AgentJob]
) -> None:
    async with start() as service:
        run = await service.submit("p", "What does the river feed?")
        last = await events.ended(run.id)
    assert {(e.kind, e.project) for e in events.emitted} == {("agent", "p")}
    messages = events.bodies("agent.message.appended")
    assert [(m["role"], m.get("name") or m.get("node")) for m in messages] == [
        ("user", None),
        ("assistant", "think"),
        ("tool", "search"),
        ("assistant", "think"),
        ("tool", "read"),
        ("assistant", "think"),
    ]
    assert last.type == "agent.run.completed"
    assert last.body["answer"] == messages[-1]["content"] == "a.md says: The river feeds the dam."
    assert (last.body["progress"], last.body["steps_done"]) == (1.0, 5)
    assert store.get("p", run.id).model_dump(mode="json") == last.body
    done = [s["name"] for s in events.bodies("agent.step.updated") if s["status"] == "completed"]
    assert done == ["think", "act", "think", "act", "think"]
    assert events.bodies("agent.step.updated")[-1]["text"] == last.body["answer"]
    assert [s["node"] for s in events.bodies("workflow.node_state.updated")] == done


async def test_progress_grows_and_stage_follows_the_nodes(
    start: Start, events: RecordingEvents
) -> None:
    async with start() as service:
        run = await service.submit("p", "1+1")
        await events.ended(run.id)
    updates = events.bodies("agent.run.updated")
    assert list(dict.fromkeys(u["stage"] for u in updates)) == ["think", "act"]
    progress = [u["progress"] for u in updates]
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert progress[-1] < 1


async def test_run_is_cancelled_in_the_middle_of_a_node(
    start: Start, events: RecordingEvents
) -> None:
    async with start(Holding()) as service:
        run = await service.submit("p", "river")
        await events.until(lambda e: e.type == "agent.step.updated")
        assert (await service.cancel("p", run.id)).status is Status.CANCELLED
    told = [(e.type, e.body["status"]) for e in events.emitted[-3:]]
    assert told == [
        ("agent.step.updated", "cancelled"),
        ("workflow.node_state.updated", "cancelled"),
        ("agent.run.cancelled", "cancelled"),
    ]


async def test_draining_leaves_a_node_in_the_middle(start: Start, events: RecordingEvents) -> None:
    async with start(Holding(), max_runs=1) as service:
        run = await service.submit("p", "river")
        with pytest.raises(QueueFullError, match=r"^1 runs are waiting"):
            await service.submit("p", "dam")
        await events.until(lambda e: e.type == "agent.step.updated")
    assert (await events.ended(run.id)).error == "interrupted"


async def test_failing_model_fails_the_run_with_its_message(
    start: Start, events: RecordingEvents
) -> None:
    async with start(broken_model()) as service:
        last = await events.ended((await service.submit("p", "river")).id)
    assert (last.type, last.error) == ("agent.run.failed", "no such host")
    assert events.bodies("agent.step.updated")[-1]["error_message"] == "no such host"


async def test_run_that_never_ends_is_stopped_by_its_bound(
    start: Start, events: RecordingEvents
) -> None:
    async with start(Restless(), max_steps=4) as service:
        last = await events.ended((await service.submit("p", "river")).id)
    assert last.error == "it did not come to its end in 4 steps"
    answers = [
        m["content"] for m in events.bodies("workflow.node_state.updated")[1]["values"]["messages"]
    ]
    assert answers == ["there is no tool 'dance', only search, read, count, calculate"]


async def test_any_chat_model_will_do() -> None:
    class Listed(FakeListChatModel):
        def bind_tools(self, *_: object, **__: object) -> "Listed":
            return self

    graph = agent_graph(Listed(responses=["hello"]), [])
    last = await graph.ainvoke({"messages": [HumanMessage("hi")]})
    assert isinstance(last["messages"][-1], AIMessage)
    assert last["messages"][-1].text == "hello"


def test_chat_model_is_the_offline_one_unless_set() -> None:
    assert isinstance(chat_model(None), OfflineModel)
    made = chat_model("tailrace.services.offline_model:OfflineModel")
    assert isinstance(made, OfflineModel)


@pytest.mark.parametrize(
    "setting", ["no_such_module:x", "json:no_such", "json:loads", "json", "builtins:dict", ":x"]
)
def test_unusable_chat_model_is_refused(setting: str) -> None:
    with pytest.raises(ParameterError, match=r"^chat_model: "):
        chat_model(setting)

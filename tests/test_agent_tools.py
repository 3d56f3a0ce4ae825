from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from indexed import put
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from tailrace.services.agent_tools import tools_of
from tailrace.services.index import SearchIndex


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[dict[str, BaseTool]]:
    with SearchIndex(tmp_path / "index.db", max_bytes=1 << 22) as index:
        put(index, "p", "a.md", "# River\nThe river feeds the dam. " + "water " * 500)
        put(index, "q", "b.md", "Another river")
        yield {tool.name: tool for tool in tools_of(index, "p")}


def ask(tool: BaseTool, **arguments: str) -> ToolMessage:
    call = ToolCall(name=tool.name, args=arguments, id="c", type="tool_call")
    answer = tool.invoke(call)
    assert isinstance(answer, ToolMessage)
    return answer


def test_search_quotes_passages_of_the_project_only(tools: dict[str, BaseTool]) -> None:
    hits = orjson.loads(str(ask(tools["search"], query="river").text))
    assert {hit["source"] for hit in hits} == {"file:a.md"}
    assert len(hits[0]["text"]) <= 600


def test_read_gives_the_text_of_a_document(tools: dict[str, BaseTool]) -> None:
    assert "feeds the dam" in str(ask(tools["read"], source="file:a.md").text)


def test_count_and_calculate(tools: dict[str, BaseTool]) -> None:
    assert ask(tools["count"]).content == "1"
    assert ask(tools["calculate"], expression="6*7").content == "42"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("read", {"source": "file:b.md"}, "there is no document 'file:b.md'"),
        ("calculate", {"expression": "x"}, "expression: is not arithmetic"),
    ],
)
def test_what_goes_wrong_is_an_answer(
    tools: dict[str, BaseTool], name: str, arguments: dict[str, str], message: str
) -> None:
    answer = ask(tools[name], **arguments)
    assert (answer.status, answer.content) == ("error", message)


def test_model_is_told_what_a_tool_takes(tools: dict[str, BaseTool]) -> None:
    assert list(tools["search"].args) == ["query"]
    assert tools["search"].description.startswith("Find passages")

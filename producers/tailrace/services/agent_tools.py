"""The tools that the agent may use: over one project's documents, and a calculator."""

from collections.abc import Callable
from functools import wraps
from typing import Annotated

import orjson
from langchain_core.tools import BaseTool, StructuredTool, ToolException

from tailrace.schemas import TailraceError
from tailrace.services.calculator import calculate
from tailrace.services.index import SearchIndex

__all__ = ["tools_of"]

_HITS = 5
_QUOTE_CHARS = 600
_CHUNKS = 4


def tools_of(index: SearchIndex, project_id: str) -> list[BaseTool]:
    """Return the tools for a project. They block; LangChain runs them in threads.

    What goes wrong in one becomes its answer, for the model to read.
    """

    def search(query: Annotated[str, "plain words"]) -> str:
        """Find passages of the ingested documents that hold some of the words, best first."""
        passages = index.search(project_id, query, _HITS)
        hits = [passage._asdict() | {"text": passage.text[:_QUOTE_CHARS]} for passage in passages]
        return orjson.dumps(hits).decode()

    def read(source: Annotated[str, "as found by search"]) -> str:
        """Read the beginning of a document."""
        return index.read(project_id, source, _CHUNKS)

    def count() -> str:
        """Count the ingested documents."""
        return str(index.count(project_id))

    def calculator(expression: Annotated[str, "numbers, + - * / // % ** and parentheses"]) -> str:
        """Calculate the value of an arithmetic expression."""
        return str(calculate(expression))

    return [
        _tool("search", search),
        _tool("read", read),
        _tool("count", count),
        _tool("calculate", calculator),
    ]


def _tool(name: str, function: Callable[..., str]) -> BaseTool:
    @wraps(function)
    def told(**arguments: str) -> str:
        try:
            return function(**arguments)
        except TailraceError as exc:
            raise ToolException(str(exc)) from exc

    return StructuredTool.from_function(told, name=name, handle_tool_error=True)

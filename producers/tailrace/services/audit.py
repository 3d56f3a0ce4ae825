"""The workflow ``audit``: do the documents of a project say what they must?

Give it the words that must be found. It fails on input that it cannot work with, on purpose in its
first node, and so shows a failure.
"""

import asyncio
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tailrace.services.index import Document, SearchIndex
from tailrace.services.workflow import checked, documents_of

__all__ = ["audit"]

_MAX_DOCUMENTS = 1000
_PLANNED = 3

_Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    require: list[_Word] = Field(min_length=1, max_length=50)
    """Words that some document must hold."""


class _State(TypedDict, total=False):
    input: dict[str, Any]
    planned: int
    require: list[str]
    documents: list[Document]
    missing: list[str]
    output: dict[str, Any]


def audit(index: SearchIndex, project_id: str) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph for a project."""

    async def validate(state: _State) -> _State:
        wanted = checked(_Input, state["input"])
        documents = await documents_of(index, project_id, _MAX_DOCUMENTS)
        return {"require": wanted.require, "documents": documents, "planned": _PLANNED}

    def missing(words: list[str]) -> list[str]:
        return [word for word in words if not index.search(project_id, word, 1)]

    async def inspect(state: _State) -> _State:
        return {"missing": await asyncio.to_thread(missing, state["require"])}

    graph = StateGraph(_State)
    graph.add_node("validate", validate)
    graph.add_node("inspect", inspect)
    graph.add_node("judge", _judge)
    graph.add_edge(START, "validate")
    graph.add_edge("validate", "inspect")
    graph.add_edge("inspect", "judge")
    graph.add_edge("judge", END)
    return graph.compile(name="audit")


def _judge(state: _State) -> _State:
    output = {
        "passed": not state["missing"],
        "missing": state["missing"],
        "documents": len(state["documents"]),
    }
    return {"output": output}

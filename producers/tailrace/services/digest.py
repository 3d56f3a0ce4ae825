"""The workflow ``digest``: condense each document of a project, then put them together.

::

    plan ─┬─ summarise (read → condense) ─┬─ reduce ── check ─┬─ deliver
          ├─ summarise                    ┤            │      │ (tried again when it fails)
          └─ …, one for each document ────┘            revise ┘ (once, when too little is said)
"""

import asyncio
import operator
from typing import Annotated, Any, NamedTuple, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy, Send
from pydantic import BaseModel, ConfigDict, Field

from tailrace.schemas import UnavailableError
from tailrace.services.index import Document, SearchIndex
from tailrace.services.summary import condensed, coverage, keywords
from tailrace.services.workflow import checked, documents_of

__all__ = ["DeliveryError", "digest"]

_CHUNKS = 20
_KEYWORDS = 10
_RETRY_SECONDS = 0.05
_ENOUGH = 0.5
"""Which share of its keywords a summary must hold, on average."""


class DeliveryError(UnavailableError):
    """The digest could not be handed over this time."""


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")

    documents: int = Field(default=20, ge=1, le=100)
    """How many documents are read."""
    sentences: int = Field(default=2, ge=1, le=10)
    """How much is kept of each."""
    failures: int = Field(default=1, ge=0, le=5)
    """How often handing over fails, to show how that is tried again: three times fail for good."""


class _Summary(NamedTuple):
    """What is kept of a document."""

    text: str
    keywords: list[str]
    """What the whole of it is about."""


class _State(TypedDict, total=False):
    input: dict[str, Any]
    wanted: _Input
    documents: list[Document]
    planned: int
    sentences: int
    summaries: Annotated[dict[str, _Summary], operator.or_]
    digest: str
    keywords: list[str]
    quality: float
    output: dict[str, Any]


class _One(TypedDict, total=False):
    """The state of the subgraph: one document."""

    document: Document
    sentences: int
    text: str
    summaries: dict[str, _Summary]


class _Summaries(TypedDict):
    summaries: dict[str, _Summary]


def digest(index: SearchIndex, project_id: str) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph for a project."""

    async def plan(state: _State) -> _State:
        wanted = checked(_Input, state["input"])
        documents = await documents_of(index, project_id, wanted.documents)
        planned = len(documents) + 4
        return {
            "wanted": wanted,
            "documents": documents,
            "planned": planned,
            "sentences": wanted.sentences,
        }

    async def read(state: _One) -> _One:
        source = state["document"].source
        return {"text": await asyncio.to_thread(index.read, project_id, source, _CHUNKS)}

    one = StateGraph(_One, output_schema=_Summaries)
    one.add_node("read", read)
    one.add_node("condense", _condense)
    one.add_edge(START, "read")
    one.add_edge("read", "condense")

    graph = StateGraph(_State)
    graph.add_node("plan", plan)
    graph.add_node("summarise", one.compile(name="summarise"))
    graph.add_node("reduce", _reduce)
    graph.add_node("check", _check)
    graph.add_node("revise", _revise)
    graph.add_node("deliver", _deliver, retry_policy=_RETRY)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", _each, ["summarise"])
    graph.add_edge("summarise", "reduce")
    graph.add_edge("reduce", "check")
    graph.add_conditional_edges("check", _verdict, ["revise", "deliver"])
    graph.add_conditional_edges("revise", _each, ["summarise"])
    graph.add_edge("deliver", END)
    return graph.compile(name="digest")


_RETRY = RetryPolicy(
    initial_interval=_RETRY_SECONDS, max_attempts=3, jitter=False, retry_on=DeliveryError
)


def _each(state: _State) -> list[Send]:
    size = state["sentences"]
    return [Send("summarise", {"document": d, "sentences": size}) for d in state["documents"]]


def _condense(state: _One) -> _One:
    text = state["text"]
    summary = _Summary(condensed(text, state["sentences"]), keywords([text], _KEYWORDS))
    return {"summaries": {state["document"].source: summary}}


def _reduce(state: _State) -> _State:
    summaries = state["summaries"]
    parts = [f"{d.title}: {summaries[d.source].text}" for d in state["documents"]]
    words = keywords((summary.text for summary in summaries.values()), _KEYWORDS)
    return {"digest": "\n\n".join(parts), "keywords": words}


def _check(state: _State) -> _State:
    """Measure how much of what the documents are about is said, on average."""
    held = [coverage(summary.keywords, summary.text) for summary in state["summaries"].values()]
    return {"quality": sum(held) / len(held)}


def _verdict(state: _State) -> str:
    revised = state["sentences"] > state["wanted"].sentences
    return "deliver" if revised or state["quality"] >= _ENOUGH else "revise"


def _revise(state: _State) -> _State:
    """Ask for more of each document, once."""
    again = len(state["documents"]) + 3
    return {"sentences": state["sentences"] + 2, "planned": state["planned"] + again}


def _deliver(state: _State, runtime: Runtime[None]) -> _State:
    attempt = runtime.execution_info.node_attempt if runtime.execution_info else 1
    if attempt <= state["wanted"].failures:
        raise DeliveryError(f"the digest could not be handed over, attempt {attempt}")
    output = {
        "digest": state["digest"],
        "documents": len(state["documents"]),
        "keywords": state["keywords"],
        "quality": state["quality"],
    }
    return {"output": output}

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from recording_events import RecordingEvents

from tailrace.producers.langgraph import tailrace_handler
from tailrace.producers.langgraph_stream import StreamChunk, tailrace_astream


class State(TypedDict, total=False):
    seen: Annotated[list[str], operator.add]


Graph = CompiledStateGraph[State, None, State, State]


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


def graph_of(checkpointer: InMemorySaver | None = None, **nodes: Any) -> Graph:
    graph = StateGraph(State)
    before = START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph.compile(checkpointer=checkpointer)


async def consume(
    graph: Graph, events: RecordingEvents, state: object = None, **options: Any
) -> list[StreamChunk]:
    state = {"seen": []} if state is None else state
    stream = tailrace_astream(graph, state, "p", "r", events=events, **options)
    return [chunk async for chunk in stream]


def story(events: RecordingEvents) -> list[tuple[str, object, object, object]]:
    return [
        (e.type, e.body.get("path"), e.body["status"], e.body.get("values")) for e in events.emitted
    ]


async def test_stream_tells_what_the_handler_tells(events: RecordingEvents) -> None:
    graph = graph_of(one=lambda _: {"seen": ["a"]}, two=graph_of(inner=lambda _: {"seen": ["b"]}))
    handled = RecordingEvents()
    handler = tailrace_handler("p", "r", events=handled)
    await graph.ainvoke({"seen": []}, {"callbacks": [handler]})
    chunks = await consume(graph, events)
    assert story(events) == story(handled)
    assert {chunk.mode for chunk in chunks} == {"tasks", "updates"}
    assert ("updates", {"one": {"seen": ["a"]}}) in [chunk[1:] for chunk in chunks]


async def test_failure_is_told_and_raised(events: RecordingEvents) -> None:
    def bad(_: State) -> State:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await consume(graph_of(bad=bad), events)
    assert [(e.type, e.error) for e in events.emitted[-2:]] == [
        ("workflow.node.failed", "boom"),
        ("workflow.run.failed", "boom"),
    ]


async def test_interrupted_run_goes_on(events: RecordingEvents) -> None:
    graph = graph_of(InMemorySaver(), ask=lambda _: {"seen": [interrupt("?")]})
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    await consume(graph, events, config=config)
    assert [s[2] for s in story(events)[-2:]] == ["interrupted", "interrupted"]
    await consume(graph, events, Command(resume="yes"), config=config)
    assert events.types().count("workflow.run.created") == 1
    assert events.types()[-1] == "workflow.run.completed"


async def test_closing_the_stream_cancels_the_run(events: RecordingEvents) -> None:
    async def slow(_: State) -> State:
        await asyncio.Event().wait()
        return {}

    stream = tailrace_astream(graph_of(slow=slow), {"seen": []}, "p", "r", events=events)
    async with aclosing(stream):
        await anext(stream)
    assert [(kind, status) for kind, _, status, _ in story(events)[-2:]] == [
        ("workflow.node_state.updated", "cancelled"),
        ("workflow.run.cancelled", "cancelled"),
    ]


async def test_remote_graph_tells_failures_as_text(events: RecordingEvents) -> None:
    class Remote:
        async def astream(self, *_: object, **__: object) -> AsyncIterator[Any]:
            yield ((), "tasks", {"id": "1", "name": "one", "input": {}, "triggers": []})
            yield ((), "custom", "text")
            yield ((), "tasks", {"id": "1", "name": "one", "error": "boom", "result": {}})
            yield ((), "tasks", {"id": "2", "name": "unknown", "error": None, "result": {}})

    stream = tailrace_astream(Remote(), {}, "p", events=events, kind="agent", name="far")
    assert len([chunk async for chunk in stream]) == 4
    assert [e.type for e in events.emitted] == [
        "agent.run.created",
        "agent.run.updated",
        "agent.step.updated",
        "agent.step.updated",
        "agent.run.completed",
    ]
    assert events.bodies("agent.step.updated")[-1]["error_message"] == "boom"

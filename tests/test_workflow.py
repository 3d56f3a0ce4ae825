import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import pytest
from indexed import put
from langgraph.graph import START, StateGraph
from recording_events import RecordingEvents

from tailrace.services.audit import audit
from tailrace.services.digest import digest
from tailrace.services.errors import NotFoundError
from tailrace.services.index import SearchIndex
from tailrace.services.lifecycle import Capacity
from tailrace.services.runs import Status
from tailrace.services.store import RunStore
from tailrace.services.workflow import Workflow, WorkflowJob, WorkflowService

Start: TypeAlias = Callable[..., AbstractAsyncContextManager[WorkflowService]]


class State(TypedDict, total=False):
    input: dict[str, Any]
    planned: int


def one_node(node: Any) -> Workflow:
    def made(_index: SearchIndex, _project_id: str) -> Any:
        graph = StateGraph(State)
        graph.add_node("only", node)
        graph.add_edge(START, "only")
        return graph.compile()

    return made


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore[WorkflowJob]]:
    with RunStore(tmp_path / "runs.db", WorkflowJob) as store:
        yield store


@pytest.fixture
def start(tmp_path: Path, store: RunStore[WorkflowJob], events: RecordingEvents) -> Start:
    @asynccontextmanager
    async def started(**workflows: Workflow) -> AsyncIterator[WorkflowService]:
        with SearchIndex(tmp_path / "index.db", max_bytes=1 << 22) as index:
            put(index, "p", "a.md", "The river feeds the dam.")
            async with WorkflowService(
                store=store,
                index=index,
                workflows={"audit": audit, "digest": digest, **workflows},
                events=events,
                capacity=Capacity(),
            ) as service:
                yield service

    return started


async def test_run_tells_its_nodes_and_how_far_it_is(
    start: Start, events: RecordingEvents, store: RunStore[WorkflowJob]
) -> None:
    async with start() as service:
        run = await service.submit("p", "audit", {"require": ["river"]})
        last = await events.ended(run.id)
    assert last.type == "workflow.run.completed"
    assert last.body["output"] == {"passed": True, "missing": [], "documents": 1}
    assert {e.kind for e in events.emitted} == {"workflow"}
    assert [n["node"] for n in events.bodies("workflow.node.completed")] == [
        "validate",
        "inspect",
        "judge",
    ]
    updates = events.bodies("workflow.run.updated")
    assert [(u["stage"], round(u["progress"], 2)) for u in updates] == [
        ("validate", 0.0),
        ("validate", 0.33),
        ("inspect", 0.33),
        ("inspect", 0.67),
        ("judge", 0.67),
        ("judge", 1.0),
    ]
    assert store.get("p", run.id).model_dump(mode="json") == last.body


async def test_digest_grows_to_its_end_even_when_it_fails_at_first(
    start: Start, events: RecordingEvents
) -> None:
    async with start() as service:
        run = await service.submit("p", "digest", {})
        last = await events.ended(run.id)
    assert last.type == "workflow.run.completed"
    progress = [u["progress"] for u in events.bodies("workflow.run.updated")]
    assert progress == sorted(progress)
    assert len(events.bodies("workflow.node.failed")) == 1


async def test_bad_input_fails_run_and_node_with_the_reason(
    start: Start, events: RecordingEvents
) -> None:
    async with start() as service:
        run = await service.submit("p", "audit", {"require": "river"})
        last = await events.ended(run.id)
    assert last.type == "workflow.run.failed"
    assert last.error == "input.require: Input should be a valid list"
    assert [n["error_message"] for n in events.bodies("workflow.node.failed")] == [last.error]
    assert last.body["progress"] == 0.0


async def test_run_is_cancelled_in_the_middle_of_a_node(
    start: Start, events: RecordingEvents
) -> None:
    async def hold(state: State) -> State:
        await asyncio.Event().wait()
        return state

    async with start(held=one_node(hold)) as service:
        run = await service.submit("p", "held", {})
        await events.until(lambda e: e.type == "workflow.node.started")
        assert (await service.cancel("p", run.id)).status is Status.CANCELLED
    assert [(e.type, e.body["status"]) for e in events.emitted[-2:]] == [
        ("workflow.node_state.updated", "cancelled"),
        ("workflow.run.cancelled", "cancelled"),
    ]


async def test_thread_of_a_node_does_not_hold_up_a_cancel(
    start: Start, events: RecordingEvents
) -> None:
    go = threading.Event()

    def hold(state: State) -> State:
        go.wait()
        return state

    try:
        async with start(held=one_node(hold)) as service:
            run = await service.submit("p", "held", {})
            await events.until(lambda e: e.type == "workflow.node.started")
            assert (await service.cancel("p", run.id)).status is Status.CANCELLED
    finally:
        go.set()


async def test_any_exception_of_a_node_is_the_runs_error(
    start: Start, events: RecordingEvents
) -> None:
    def bad(state: State) -> State:
        raise KeyError(*state["input"])

    async with start(bad=one_node(bad)) as service:
        run = await service.submit("p", "bad", {"river": 1})
        assert (await events.ended(run.id)).error == "'river'"


async def test_unknown_workflow_is_not_found(start: Start, events: RecordingEvents) -> None:
    async with start() as service:
        with pytest.raises(NotFoundError, match=r"^there is no workflow 'x'$"):
            await service.submit("p", "x", {})
    assert events.emitted == []

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from recording_events import RecordingEvents

from tailrace.producers.langgraph import tailrace_handler
from tailrace.services.graph_service import GraphService, Pace, StepsRun
from tailrace.services.lifecycle import Active, Capacity, utc_now
from tailrace.services.store import RunStore


class State(TypedDict, total=False):
    share: float


def says(share: float) -> Any:
    return lambda _: {"share": share}


def graph_of(shares: Mapping[str, float], **subgraphs: Any) -> Any:
    """Return a graph whose nodes run one after the other."""
    graph = StateGraph(State)
    before = START
    for name, node in {**{n: says(share) for n, share in shares.items()}, **subgraphs}.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph.compile()


class Service(GraphService[StepsRun]):
    """Runs one graph; each node says how much is done."""

    def __init__(
        self,
        store: RunStore[StepsRun],
        events: RecordingEvents,
        capacity: Capacity,
    ) -> None:
        super().__init__(store, capacity, utc_now)
        self._events = events
        self.nodes: dict[str, float] = {}
        self.max_steps = 10

    async def submit(self) -> StepsRun:
        return await self._take(
            lambda i: StepsRun(id=i, project_id="p", created_at="", updated_at="")
        )

    async def _perform(self, active: Active[StepsRun]) -> None:
        handler = tailrace_handler("p", active.run.id, own_runs=False, events=self._events)
        await self._drive(active, graph_of(self.nodes), {}, handler, self.max_steps)

    def _share(self, steps_done: int, state: Mapping[str, Any]) -> float:
        assert steps_done > 0
        share: float = state["share"]
        return share

    def _emit(self, run: StepsRun, what: str) -> None:
        self._events.emit_workflow_event("p", f"workflow.run.{what}", run, run.error_message)


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore[StepsRun]]:
    with RunStore(tmp_path / "runs.db", StepsRun) as store:
        yield store


@pytest.fixture
def service(store: RunStore[StepsRun], events: RecordingEvents) -> Service:
    return Service(store, events, Capacity(workers=1))


async def test_progress_never_falls_and_never_passes_the_end(
    service: Service, events: RecordingEvents
) -> None:
    service.nodes = {"a": 0.5, "b": 0.2, "c": 7.0}
    async with service:
        run = await service.submit()
        await events.ended(run.id)
    updates = events.bodies("workflow.run.updated")
    assert [(u["stage"], u["progress"], u["steps_done"]) for u in updates] == [
        ("a", 0.0, 0),
        ("a", 0.5, 1),
        ("b", 0.5, 1),
        ("b", 0.5, 2),
        ("c", 0.5, 2),
        ("c", 1.0, 3),
    ]


async def test_each_node_waits_its_pace_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    inner = graph_of({"inner": 0.1})
    graph = graph_of({"a": 0.5, "b": 0.6}, sub=inner)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await graph.ainvoke({}, {"callbacks": [Pace(2.0)]})
    assert len(waited) == 4
    assert all(1.0 <= seconds <= 3.0 for seconds in waited)


async def test_paced_run_is_cancelled_while_it_waits(
    store: RunStore[StepsRun], events: RecordingEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    service = Service(store, events, Capacity(pace=1.0))
    service.nodes = {"a": 0.5}
    monkeypatch.setattr(asyncio, "sleep", sleep)
    async with service:
        run = await service.submit()
        await waits.wait()
        await service.cancel("p", run.id)
    assert [(e.type, e.body["status"]) for e in events.emitted[-2:]] == [
        ("workflow.node_state.updated", "cancelled"),
        ("workflow.run.cancelled", "cancelled"),
    ]


async def test_too_many_steps_fail_the_run(service: Service, events: RecordingEvents) -> None:
    service.nodes = {"a": 0.1, "b": 0.2, "c": 0.3}
    service.max_steps = 2
    async with service:
        last = await events.ended((await service.submit()).id)
    assert last.error == "it did not come to its end in 2 steps"

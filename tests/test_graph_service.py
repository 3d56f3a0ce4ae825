from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from recording_events import RecordingEvents

from tailrace.producers.langgraph import tailrace_handler
from tailrace.services.graph_service import GraphService, StepsRun
from tailrace.services.lifecycle import Active, utc_now
from tailrace.services.store import RunStore


class State(TypedDict, total=False):
    share: float


def says(share: float) -> Any:
    return lambda _: {"share": share}


class Service(GraphService[StepsRun]):
    """Runs one graph; each node says how much is done."""

    def __init__(self, store: RunStore[StepsRun], events: RecordingEvents) -> None:
        super().__init__(store, workers=1, max_runs=1, pace=0, now=utc_now)
        self._events = events
        self.nodes: dict[str, float] = {}
        self.max_steps = 10

    async def submit(self) -> StepsRun:
        return await self._take(
            lambda i: StepsRun(id=i, project_id="p", created_at="", updated_at="")
        )

    def _graph(self) -> Any:
        graph = StateGraph(State)
        before = START
        for name, share in self.nodes.items():
            graph.add_node(name, says(share))
            graph.add_edge(before, name)
            before = name
        return graph.compile()

    async def _perform(self, active: Active[StepsRun]) -> None:
        handler = tailrace_handler("p", active.run.id, own_runs=False, events=self._events)
        await self._drive(active, self._graph(), {}, handler, self.max_steps)

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
def service(tmp_path: Path, events: RecordingEvents) -> Iterator[Service]:
    with RunStore(tmp_path / "runs.db", StepsRun) as store:
        yield Service(store, events)


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


async def test_too_many_steps_fail_the_run(service: Service, events: RecordingEvents) -> None:
    service.nodes = {"a": 0.1, "b": 0.2, "c": 0.3}
    service.max_steps = 2
    async with service:
        last = await events.ended((await service.submit()).id)
    assert last.error == "it did not come to its end in 2 steps"

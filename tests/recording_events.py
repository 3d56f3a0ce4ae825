"""An in-memory stand-in for StreamingService that remembers and can be waited for."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from tailrace.producers import EmitterStats


def no_stats() -> EmitterStats:
    """Counts of an emitter that was never used."""
    return EmitterStats(*[0] * len(EmitterStats._fields))


class Emitted(NamedTuple):
    project: str
    type: str
    body: dict[str, Any]
    error: object
    kind: str


class RecordingEvents:
    """Takes snapshots like the real one, from any thread. Wait on the loop that emits."""

    def __init__(self) -> None:
        self.emitted: list[Emitted] = []
        self._more = asyncio.Event()

    def emit_ingest_event(
        self, project_id: str, event_type: str, job: object, error: object = None
    ) -> None:
        self._add("ingest", project_id, event_type, job, error)

    def emit_agent_event(
        self, project_id: str, event_type: str, data: object, error: object = None
    ) -> None:
        self._add("agent", project_id, event_type, data, error)

    def emit_workflow_event(
        self, project_id: str, event_type: str, data: object, error: object = None
    ) -> None:
        self._add("workflow", project_id, event_type, data, error)

    def _add(
        self, kind: str, project_id: str, event_type: str, data: object, error: object
    ) -> None:
        assert isinstance(data, BaseModel)
        body = data.model_dump(mode="json")
        self.emitted.append(Emitted(project_id, event_type, body, error, kind))
        self._more.set()

    def types(self, run_id: str | None = None) -> list[str]:
        return [e.type for e in self.emitted if run_id is None or e.body["id"] == run_id]

    def bodies(self, event_type: str) -> list[dict[str, Any]]:
        return [e.body for e in self.emitted if e.type == event_type]

    async def until(self, wanted: Callable[[Emitted], bool]) -> Emitted:
        """Return the first event that is wanted, as soon as it was emitted."""
        while True:
            found = next(filter(wanted, self.emitted), None)
            if found is not None:
                return found
            self._more.clear()
            await self._more.wait()

    async def ended(self, run_id: str) -> Emitted:
        ends = ("completed", "failed", "cancelled")
        runs = ("ingest.job", "agent.run", "workflow.run")
        types = {f"{run}.{end}" for run in runs for end in ends}
        return await self.until(lambda e: e.body["id"] == run_id and e.type in types)

    async def first_chunk(self, job_id: str) -> Emitted:
        return await self.until(lambda e: e.body["id"] == job_id and e.body["chunks_done"] >= 1)

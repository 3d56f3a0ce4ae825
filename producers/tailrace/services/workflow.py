"""WorkflowService: named graphs that work on a project's documents."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel, JsonValue, ValidationError

from tailrace.producers.graph_run import GraphEvents
from tailrace.producers.langgraph import tailrace_handler
from tailrace.services.errors import NotFoundError, RunFailedError
from tailrace.services.graph_service import GraphService, StepsRun
from tailrace.services.index import Document, SearchIndex
from tailrace.services.lifecycle import Active, Capacity, utc_now
from tailrace.services.runs import changed, moment
from tailrace.services.store import RunStore

__all__ = ["Workflow", "WorkflowJob", "WorkflowService", "checked", "documents_of"]

_MAX_STEPS = 100

Workflow: TypeAlias = Callable[[SearchIndex, str], CompiledStateGraph[Any, Any, Any, Any]]
"""Makes the graph for a project. Its state begins as ``{"input": …}`` and ends with ``output``, a
JSON object; ``planned`` in it says how many nodes at the top there will be."""

_Model = TypeVar("_Model", bound=BaseModel)


class WorkflowJob(StepsRun):
    """A run of a workflow. Its progress is the share of its planned nodes that are done."""

    workflow: str
    input: dict[str, JsonValue]
    output: dict[str, JsonValue] | None = None


def checked(model: type[_Model], given: object) -> _Model:
    """Return the input of a workflow, checked by `model`.

    Raises:
        RunFailedError: It is not what the model allows; the message says where and why.
    """
    try:
        return model.model_validate(given)
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("input", *problem["loc"]))
        raise RunFailedError(f"{where}: {problem['msg']}") from exc


async def documents_of(index: SearchIndex, project_id: str, limit: int) -> list[Document]:
    """Return up to `limit` documents of a project.

    Raises:
        RunFailedError: There is none to work on.
    """
    documents = await asyncio.to_thread(index.documents, project_id, limit)
    if not documents:
        raise RunFailedError("the project has no documents: ingest some first")
    return documents


class WorkflowService(GraphService[WorkflowJob]):
    """Runs workflows; see `RunService`. A run's nodes are facts of its channel.

    Args:
        store: The runs.
        index: The documents.
        workflows: What can be run, by name.
        events: Where to emit.
        capacity: How much it takes on at once.
        now: The clock, in UTC.
    """

    def __init__(
        self,
        *,
        store: RunStore[WorkflowJob],
        index: SearchIndex,
        workflows: Mapping[str, Workflow],
        events: GraphEvents,
        capacity: Capacity,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(store, capacity, now)
        self._index = index
        self._workflows = workflows
        self._events = events

    async def submit(
        self, project_id: str, name: str, given: Mapping[str, JsonValue]
    ) -> WorkflowJob:
        """Queue a run of a workflow and return it. Its first node checks the input.

        Raises:
            NotFoundError: There is no workflow of that name.
            DrainingError: The service is shutting down.
            QueueFullError: As many runs wait or are worked on as the capacity allows.
            StorageError: The run cannot be saved.
        """
        if name not in self._workflows:
            raise NotFoundError("workflow", name)
        return await self._take(lambda run_id: self._new(run_id, project_id, name, given))

    def _new(
        self, run_id: str, project_id: str, name: str, given: Mapping[str, JsonValue]
    ) -> WorkflowJob:
        at = moment(self._now())
        return WorkflowJob(
            id=run_id,
            project_id=project_id,
            workflow=name,
            input=dict(given),
            created_at=at,
            updated_at=at,
        )

    async def _perform(self, active: Active[WorkflowJob]) -> None:
        run = active.run
        graph = self._workflows[run.workflow](self._index, run.project_id)
        handler = tailrace_handler(run.project_id, run.id, own_runs=False, events=self._events)
        last = await self._drive(active, graph, {"input": run.input}, handler, _MAX_STEPS)
        active.run = changed(active.run, self._now(), progress=1.0, output=last.get("output"))

    def _share(self, steps_done: int, state: Mapping[str, Any]) -> float:
        planned = state.get("planned")
        return steps_done / planned if isinstance(planned, int) and planned > 0 else 0.0

    def _emit(self, run: WorkflowJob, what: str) -> None:
        self._events.emit_workflow_event(
            run.project_id, f"workflow.run.{what}", run, error=run.error_message
        )

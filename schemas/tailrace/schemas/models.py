"""The pydantic models that services emit.

Only `id` is required and extra members are kept, so that a service can use these as they are,
subclass them, or emit models of its own: see `tailrace.producers` for what is read from a payload.
"""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "MODEL_MEMBERS",
    "AgentMessage",
    "AgentNodeState",
    "AgentRun",
    "AgentStep",
    "IngestJob",
    "WorkflowRun",
]


def _id_text(value: object) -> object:
    """Accept the ids that databases hand out, numbers and UUIDs, beside text."""
    return str(value) if isinstance(value, int | UUID) and not isinstance(value, bool) else value


Id = Annotated[str, BeforeValidator(_id_text)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="null")

    id: Id


class IngestJob(_Model):
    """A document ingest job. Its id is the run id."""

    project_id: Id | None = None
    status: str | None = None
    stage: str | None = None
    progress: float | None = None
    """0 … 1."""
    error_message: str | None = None


class AgentRun(_Model):
    """One run of an agent. Its id is the run id."""

    project_id: Id | None = None
    status: str | None = None
    progress: float | None = None
    error_message: str | None = None


class AgentNodeState(_Model):
    """The state of one node of a run's graph."""

    run_id: Id | None = None
    node: str | None = None
    status: str | None = None
    error_message: str | None = None


class AgentStep(_Model):
    """One step of an agent run, with the states of the nodes that it touched."""

    run_id: Id | None = None
    name: str | None = None
    status: str | None = None
    error_message: str | None = None
    node_states: list[AgentNodeState] = Field(default_factory=list)


class AgentMessage(_Model):
    """One message of an agent run's conversation."""

    run_id: Id | None = None
    role: str | None = None
    content: str | None = None


class WorkflowRun(_Model):
    """One run of a workflow. Its id is the run id."""

    project_id: Id | None = None
    workflow: str | None = None
    status: str | None = None
    progress: float | None = None
    error_message: str | None = None


MODEL_MEMBERS: dict[type[BaseModel], str] = {
    IngestJob: "job",
    AgentRun: "run",
    AgentStep: "step",
    AgentNodeState: "nodeState",
    AgentMessage: "message",
    WorkflowRun: "run",
}
"""Our models -> the member of the event JSON each goes under, whatever the event's type."""

"""Reference services that do real work and emit every step of it: ingest, agent, workflow."""

from tailrace.services.agent import AgentJob, AgentService
from tailrace.services.app import ServicesEvents, create_app
from tailrace.services.errors import (
    DocumentError,
    DrainingError,
    NotFoundError,
    PathForbiddenError,
    QueueFullError,
    RunEndedError,
    RunFailedError,
    StorageError,
    TooLargeError,
    UnsupportedTypeError,
)
from tailrace.services.files import FileRoot
from tailrace.services.index import Document, Passage, SearchIndex
from tailrace.services.ingest import IngestEvents, IngestService
from tailrace.services.jobs import Job, Stage
from tailrace.services.runs import Status
from tailrace.services.settings import ServicesSettings
from tailrace.services.store import RunStore
from tailrace.services.workflow import Workflow, WorkflowJob, WorkflowService

__all__ = [
    "AgentJob",
    "AgentService",
    "Document",
    "DocumentError",
    "DrainingError",
    "FileRoot",
    "IngestEvents",
    "IngestService",
    "Job",
    "NotFoundError",
    "Passage",
    "PathForbiddenError",
    "QueueFullError",
    "RunEndedError",
    "RunFailedError",
    "RunStore",
    "SearchIndex",
    "ServicesEvents",
    "ServicesSettings",
    "Stage",
    "Status",
    "StorageError",
    "TooLargeError",
    "UnsupportedTypeError",
    "Workflow",
    "WorkflowJob",
    "WorkflowService",
    "create_app",
]

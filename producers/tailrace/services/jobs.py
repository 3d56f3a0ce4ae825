"""What an ingest job is. Pure."""

from datetime import datetime
from enum import StrEnum

from tailrace.services.runs import Run, changed, moment

__all__ = ["Job", "Stage", "advanced", "new_job"]


class Stage(StrEnum):
    """What a running job does, in this order."""

    PREPROCESSING = "PREPROCESSING"
    CHUNKING = "CHUNKING"
    INDEXING = "INDEXING"


class Job(Run):
    """An ingest job. Its progress is the share of its chunks that are indexed."""

    stage: Stage | None = None
    path: str | None = None
    """Relative to the ingest root; None when the text came with the request."""
    title: str
    chunks_done: int = 0
    chunks_total: int | None = None
    """Known from the stage INDEXING on."""

    @property
    def source(self) -> str:
        """What the job's document is called in the index: a later one of the same name replaces it.

        A text without a path is a document of its own.
        """
        return f"text:{self.id}" if self.path is None else f"file:{self.path}"


def new_job(
    job_id: str,
    project_id: str,
    now: datetime,
    *,
    path: str | None = None,
    title: str | None = None,
) -> Job:
    """Return a queued job. Without a title it is called by its path, or "text"."""
    at = moment(now)
    name = title or path or "text"
    return Job(
        id=job_id, project_id=project_id, path=path, title=name, created_at=at, updated_at=at
    )


def advanced(job: Job, done: int, total: int, now: datetime) -> Job:
    """Return the job with `done` of `total` chunks indexed; `total` is at least 1."""
    return changed(job, now, progress=done / total, chunks_done=done, chunks_total=total)

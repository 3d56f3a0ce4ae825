"""What a job of any service is, and the steps that its life can take. Pure."""

from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

__all__ = ["Run", "RunT", "Status", "changed", "ended", "moment", "staged"]


class Status(StrEnum):
    """Where a run stands; the last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing can follow it."""
        return self not in {Status.QUEUED, Status.RUNNING}


class Run(BaseModel):
    """A run, as it is stored, emitted and answered. It never changes: steps give copies."""

    model_config = ConfigDict(frozen=True)

    id: str
    """A UUIDv7: ids sort by age."""
    project_id: str
    status: Status = Status.QUEUED
    stage: str | None = None
    progress: float = 0.0
    """0 … 1, never less than before."""
    error_message: str | None = None
    created_at: str
    updated_at: str
    """ISO 8601, UTC, microseconds."""


RunT = TypeVar("RunT", bound=Run)


def staged(run: RunT, stage: str, now: datetime) -> RunT:
    """Return the run running in `stage`."""
    return changed(run, now, status=Status.RUNNING, stage=stage)


def ended(run: RunT, status: Status, now: datetime, error: str | None = None) -> RunT:
    """Return the run at its end. Stage and progress stay, to show how far it came."""
    return changed(run, now, status=status, error_message=error)


def changed(run: RunT, now: datetime, **update: object) -> RunT:
    """Return the run with some members changed now."""
    return run.model_copy(update={**update, "updated_at": moment(now)})


def moment(now: datetime) -> str:
    """Return a time as runs have it."""
    return now.isoformat(timespec="microseconds")

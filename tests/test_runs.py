from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from tailrace.services.runs import Run, Status, changed, ended, moment, staged

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T1 = datetime(2026, 1, 2, 3, 4, 6, 7, tzinfo=UTC)
RUN = Run(id="r", project_id="p", created_at=moment(T0), updated_at=moment(T0))


def test_new_run_waits() -> None:
    assert (RUN.status, RUN.stage, RUN.progress) == (Status.QUEUED, None, 0.0)


def test_steps_give_copies_that_know_their_time() -> None:
    running = staged(RUN, "one", T1)
    assert (running.status, running.stage) == (Status.RUNNING, "one")
    assert running.updated_at == "2026-01-02T03:04:06.000007+00:00"
    assert RUN.stage is None
    with pytest.raises(ValidationError, match="frozen"):
        RUN.progress = 1.0


def test_end_keeps_how_far_it_came() -> None:
    run = ended(changed(staged(RUN, "one", T0), T0, progress=0.5), Status.FAILED, T1, "why")
    assert (run.stage, run.progress, run.status, run.error_message) == (
        "one",
        0.5,
        Status.FAILED,
        "why",
    )


def test_only_the_last_three_are_ends() -> None:
    assert [status.value for status in Status if status.is_end] == [
        "completed",
        "failed",
        "cancelled",
    ]

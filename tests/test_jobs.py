from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from tailrace.services.jobs import Job, Stage, advanced, new_job
from tailrace.services.runs import Status, ended, staged

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T1 = datetime(2026, 1, 2, 3, 4, 6, 7, tzinfo=UTC)


def test_new_job_waits() -> None:
    assert new_job("j1", "p", T0, path="a.md").model_dump(mode="json") == {
        "id": "j1",
        "project_id": "p",
        "status": "queued",
        "stage": None,
        "progress": 0.0,
        "error_message": None,
        "path": "a.md",
        "title": "a.md",
        "chunks_done": 0,
        "chunks_total": None,
        "created_at": "2026-01-02T03:04:05.000000+00:00",
        "updated_at": "2026-01-02T03:04:05.000000+00:00",
    }


def test_job_without_path_or_title_is_called_text() -> None:
    assert new_job("j1", "p", T0).title == "text"
    assert new_job("j1", "p", T0, path="a.md", title="A").title == "A"


def test_same_path_is_the_same_source_and_each_text_its_own() -> None:
    assert new_job("j1", "p", T0, path="a").source == new_job("j2", "p", T0, path="a").source
    assert new_job("j1", "p", T0).source != new_job("j2", "p", T0).source


def test_steps_give_copies() -> None:
    job = new_job("j1", "p", T0)
    running = staged(job, Stage.INDEXING, T1)
    assert (job.status, job.stage) == (Status.QUEUED, None)
    assert (running.status, running.stage) == (Status.RUNNING, Stage.INDEXING)
    assert running.updated_at == "2026-01-02T03:04:06.000007+00:00"
    with pytest.raises(ValidationError, match="frozen"):
        job.progress = 1.0


def test_progress_is_the_share_of_chunks() -> None:
    job = advanced(new_job("j1", "p", T0), 1, 4, T1)
    assert (job.progress, job.chunks_done, job.chunks_total) == (0.25, 1, 4)


def test_failed_job_shows_why_and_how_far_it_came() -> None:
    running = advanced(staged(new_job("j1", "p", T0), Stage.INDEXING, T0), 1, 2, T0)
    job = ended(running, Status.FAILED, T1, "reason")
    assert (job.status, job.error_message) == (Status.FAILED, "reason")
    assert (job.stage, job.progress) == (Stage.INDEXING, 0.5)


def test_job_survives_its_json() -> None:
    job = staged(new_job("j1", "p", T0), Stage.CHUNKING, T1)
    assert Job.model_validate_json(job.model_dump_json()) == job

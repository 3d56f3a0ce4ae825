from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tailrace.services.errors import NotFoundError, StorageError
from tailrace.services.jobs import Job, new_job
from tailrace.services.runs import Status, ended
from tailrace.services.store import RunStore

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore[Job]]:
    with RunStore(tmp_path / "jobs.db", Job, noun="job", max_ended=2) as store:
        yield store


def save(
    store: RunStore[Job], job_id: str, project: str = "p", status: Status | None = None
) -> Job:
    job = new_job(job_id, project, NOW)
    job = job if status is None else ended(job, status, NOW)
    store.save(job)
    return job


def test_last_saved_state_is_returned(store: RunStore[Job]) -> None:
    save(store, "j1")
    job = save(store, "j1", status=Status.CANCELLED)
    assert store.get("p", "j1") == job


def test_job_of_another_project_is_not_found(store: RunStore[Job]) -> None:
    save(store, "j1")
    with pytest.raises(NotFoundError, match=r"^there is no job 'j1'$"):
        store.get("q", "j1")


def test_newest_jobs_of_the_project_come_first(store: RunStore[Job]) -> None:
    for job_id in ("j1", "j3", "j2"):
        save(store, job_id)
    save(store, "j4", "q")
    assert [job.id for job in store.newest("p", 2)] == ["j3", "j2"]


def test_unfinished_jobs_of_all_projects_are_found_oldest_first(store: RunStore[Job]) -> None:
    save(store, "j2", "q")
    save(store, "j1", "p")
    save(store, "j3", "p", Status.FAILED)
    assert [job.id for job in store.unfinished()] == ["j1", "j2"]


def test_oldest_ended_jobs_are_forgotten_and_unfinished_ones_never(store: RunStore[Job]) -> None:
    save(store, "j0")
    for job_id in ("j1", "j2", "j3"):
        save(store, job_id, status=Status.COMPLETED)
    assert [job.id for job in store.newest("p", 10)] == ["j3", "j2", "j0"]


def test_jobs_survive_a_restart(tmp_path: Path) -> None:
    with RunStore(tmp_path / "jobs.db", Job) as store:
        job = save(store, "j1")
    with RunStore(tmp_path / "jobs.db", Job) as store:
        assert store.unfinished() == [job]


def test_second_process_is_refused(store: RunStore[Job], tmp_path: Path) -> None:
    save(store, "j1")
    with pytest.raises(StorageError, match="another process uses it"):
        RunStore(tmp_path / "jobs.db", Job)

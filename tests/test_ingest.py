import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pytest
from recording_events import RecordingEvents

from tailrace.services import documents
from tailrace.services.errors import (
    DocumentError,
    DrainingError,
    NotFoundError,
    QueueFullError,
    RunEndedError,
    StorageError,
)
from tailrace.services.files import FileRoot
from tailrace.services.index import SearchIndex
from tailrace.services.ingest import IngestService
from tailrace.services.jobs import Job, Stage, new_job
from tailrace.services.lifecycle import LIST_LIMIT, Capacity
from tailrace.services.runs import Status, staged
from tailrace.services.store import RunStore

FOREVER = 3600.0
LONG = "\n\n".join(f"# Part {n}\n" + "river " * 100 for n in range(4))
Start: TypeAlias = Callable[..., AbstractAsyncContextManager[IngestService]]


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore[Job]]:
    with RunStore(tmp_path / "jobs.db", Job) as store:
        yield store


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    with SearchIndex(tmp_path / "index.db", max_bytes=4 * 1024 * 1024) as index:
        yield index


@pytest.fixture
def start(
    tmp_path: Path, store: RunStore[Job], index: SearchIndex, events: RecordingEvents
) -> Start:
    (tmp_path / "long.md").write_text(LONG)
    (tmp_path / "binary.md").write_bytes(b"\0")
    files = FileRoot(tmp_path, max_bytes=100_000)

    @asynccontextmanager
    async def started(
        *, workers: int = 2, max_jobs: int = 10, pace: float = 0.0
    ) -> AsyncIterator[IngestService]:
        async with IngestService(
            store=store,
            index=index,
            files=files,
            events=events,
            capacity=Capacity(workers, max_jobs, pace),
        ) as service:
            yield service

    return started


async def test_job_emits_its_whole_life_in_order(start: Start, events: RecordingEvents) -> None:
    async with start() as service:
        job = await service.submit("p", path="long.md", title="Long")
        await events.ended(job.id)
    total = len(documents.chunk(documents.clean(LONG)))
    seen = [
        (e.type, e.body["status"], e.body["stage"], e.body["chunks_done"]) for e in events.emitted
    ]
    assert seen == [
        ("ingest.job.created", "queued", None, 0),
        ("ingest.job.updated", "running", "PREPROCESSING", 0),
        ("ingest.job.updated", "running", "CHUNKING", 0),
        ("ingest.job.updated", "running", "INDEXING", 0),
        *[("ingest.job.updated", "running", "INDEXING", done + 1) for done in range(total)],
        ("ingest.job.completed", "completed", "INDEXING", total),
    ]
    assert total > 2
    assert {(e.project, e.body["title"], e.error) for e in events.emitted} == {("p", "Long", None)}
    progress = [e.body["progress"] for e in events.emitted]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


async def test_completed_job_is_searchable_and_saved(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
    store: RunStore[Job],
) -> None:
    async with start() as service:
        job = await service.submit("p", text="the river")
        last = await events.ended(job.id)
        assert (await service.get("p", job.id)).status is Status.COMPLETED
    assert [passage.text for passage in index.search("p", "river")] == ["the river"]
    assert store.get("p", job.id).model_dump(mode="json") == last.body


async def test_reingest_replaces_the_old_chunks(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
    tmp_path: Path,
) -> None:
    async with start() as service:
        for text in ("first river", "second river"):
            (tmp_path / "a.md").write_text(text)
            await events.ended((await service.submit("p", path="a.md")).id)
    assert [passage.text for passage in index.search("p", "river")] == ["second river"]


async def test_binary_file_fails_with_the_reason_in_job_and_event(
    start: Start,
    events: RecordingEvents,
) -> None:
    async with start() as service:
        job = await service.submit("p", path="binary.md")
        last = await events.ended(job.id)
        assert (await service.get("p", job.id)).error_message == last.error
    assert last.type == "ingest.job.failed"
    assert last.error == "binary.md is a binary file: it holds NUL bytes"
    assert last.body["error_message"] == last.error


async def test_failed_reingest_leaves_the_old_content(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
    tmp_path: Path,
) -> None:
    async with start() as service:
        await events.ended((await service.submit("p", path="long.md")).id)
        before = index.search("p", "river")
        (tmp_path / "long.md").write_bytes(b"\xff")
        last = await events.ended((await service.submit("p", path="long.md")).id)
    assert last.type == "ingest.job.failed"
    assert index.search("p", "river") == before


async def test_file_that_vanishes_before_its_job_runs_fails_it(
    start: Start,
    events: RecordingEvents,
    tmp_path: Path,
) -> None:
    async with start(workers=1, pace=FOREVER) as service:
        first = await service.submit("p", text="blocks the worker")
        job = await service.submit("p", path="long.md")
        (tmp_path / "long.md").unlink()
        await service.cancel("p", first.id)
        assert (await events.ended(job.id)).error == "there is no file 'long.md'"


async def test_bug_in_a_job_fails_that_job_only(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_job: Job) -> None:
        raise ZeroDivisionError

    async with start(workers=1) as service:
        with monkeypatch.context() as patched:
            patched.setattr(index, "begin", broken)
            job = await service.submit("p", text="one")
            assert (await events.ended(job.id)).error == "internal error"
        job = await service.submit("p", text="two")
        assert (await events.ended(job.id)).type == "ingest.job.completed"


async def test_full_index_fails_the_job_with_the_reason(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise StorageError("index.db", "database or disk is full")

    monkeypatch.setattr(index, "add", full)
    async with start() as service:
        job = await service.submit("p", text="one")
        assert (await events.ended(job.id)).error == "index.db: database or disk is full"


async def test_end_is_emitted_even_when_it_cannot_be_saved(
    start: Start,
    events: RecordingEvents,
    store: RunStore[Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with start(pace=FOREVER) as service:
        job = await service.submit("p", text="one")
        await events.first_chunk(job.id)

        def full(_job: Job) -> None:
            raise StorageError("jobs.db", "database or disk is full")

        monkeypatch.setattr(store, "save", full)
        assert (await service.cancel("p", job.id)).status is Status.CANCELLED
    assert events.types(job.id)[-1] == "ingest.job.cancelled"


async def test_job_that_cannot_be_saved_is_refused_without_an_event(
    start: Start,
    events: RecordingEvents,
    store: RunStore[Job],
) -> None:
    async with start() as service:
        store.close()
        with pytest.raises(StorageError):
            await service.submit("p", text="one")
    assert events.emitted == []


async def test_running_job_is_cancelled_at_once_and_leaves_nothing(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
) -> None:
    async with start(pace=FOREVER) as service:
        job = await service.submit("p", path="long.md")
        await events.first_chunk(job.id)
        cancelled = await service.cancel("p", job.id)
        assert (cancelled.status, cancelled.chunks_done) == (Status.CANCELLED, 1)
        assert events.types(job.id)[-1] == "ingest.job.cancelled"
        assert await service.get("p", job.id) == cancelled
    assert index.search("p", "river") == []


async def test_cancelled_reingest_leaves_the_old_content(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
    tmp_path: Path,
) -> None:
    async with start() as service:
        await events.ended((await service.submit("p", path="long.md")).id)
    before = index.search("p", "river")
    (tmp_path / "long.md").write_text("another river")
    async with start(pace=FOREVER) as service:
        job = await service.submit("p", path="long.md")
        await events.first_chunk(job.id)
        await service.cancel("p", job.id)
    assert index.search("p", "river") == before


async def test_waiting_job_is_cancelled_without_ever_running(
    start: Start,
    events: RecordingEvents,
) -> None:
    async with start(workers=1, max_jobs=2, pace=FOREVER) as service:
        first = await service.submit("p", text="one")
        await events.first_chunk(first.id)
        waiting = await service.submit("p", text="two")
        assert (await service.cancel("p", waiting.id)).stage is None
        again = await service.submit("p", text="its place is free")
        await service.cancel("p", first.id)
        await events.first_chunk(again.id)
    assert events.types(waiting.id) == ["ingest.job.created", "ingest.job.cancelled"]


async def test_two_who_cancel_one_job_both_see_it_cancelled(
    start: Start,
    events: RecordingEvents,
) -> None:
    async with start(pace=FOREVER) as service:
        job = await service.submit("p", text="one")
        await events.first_chunk(job.id)
        both = await asyncio.gather(service.cancel("p", job.id), service.cancel("p", job.id))
    assert [job.status for job in both] == [Status.CANCELLED, Status.CANCELLED]
    assert events.types(job.id).count("ingest.job.cancelled") == 1


async def test_cancel_that_comes_during_the_publishing_is_too_late(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    attempts: list[asyncio.Task[Job]] = []
    publish = index.publish

    async with start() as service:

        def cancel_and_publish(job_id: str) -> None:
            def attempt() -> None:
                attempts.append(loop.create_task(service.cancel("p", job_id)))

            loop.call_soon_threadsafe(attempt)
            publish(job_id)

        monkeypatch.setattr(index, "publish", cancel_and_publish)
        job = await service.submit("p", text="river")
        assert (await events.ended(job.id)).type == "ingest.job.completed"
        with pytest.raises(RunEndedError, match="completed"):
            await attempts[0]
    assert len(index.search("p", "river")) == 1


async def test_ended_job_cannot_be_cancelled(start: Start, events: RecordingEvents) -> None:
    async with start() as service:
        job = await service.submit("p", text="one")
        await events.ended(job.id)
        with pytest.raises(RunEndedError, match=r"already ended: completed$"):
            await service.cancel("p", job.id)


async def test_job_of_another_project_is_not_there(start: Start, events: RecordingEvents) -> None:
    async with start(pace=FOREVER) as service:
        job = await service.submit("p", text="one")
        await events.first_chunk(job.id)
        with pytest.raises(NotFoundError):
            await service.get("q", job.id)
        with pytest.raises(NotFoundError):
            await service.cancel("q", job.id)
        assert await service.newest("q") == []


async def test_several_jobs_run_at_once_and_no_more_than_workers(
    start: Start,
    events: RecordingEvents,
) -> None:
    async with start(workers=2, pace=FOREVER) as service:
        jobs = [await service.submit("p", text=f"text {n}") for n in range(3)]
        await events.first_chunk(jobs[0].id)
        await events.first_chunk(jobs[1].id)
        assert (await service.get("p", jobs[2].id)).status is Status.QUEUED


async def test_full_queue_refuses_until_a_job_ends(start: Start, events: RecordingEvents) -> None:
    async with start(max_jobs=1, pace=FOREVER) as service:
        job = await service.submit("p", text="one")
        with pytest.raises(QueueFullError):
            await service.submit("p", text="two")
        await service.cancel("p", job.id)
        await service.submit("p", text="three")
    assert events.types().count("ingest.job.created") == 2


async def test_bound_of_jobs_holds_against_a_rush(start: Start) -> None:
    async with start(max_jobs=3, pace=FOREVER) as service:
        answers = await asyncio.gather(
            *(service.submit("p", text=f"text {n}") for n in range(8)),
            return_exceptions=True,
        )
    assert sum(isinstance(answer, Job) for answer in answers) == 3
    assert sum(isinstance(answer, QueueFullError) for answer in answers) == 5


async def test_unusable_text_is_refused_at_once(start: Start, events: RecordingEvents) -> None:
    async with start() as service:
        with pytest.raises(DocumentError):
            await service.submit("p", text=" \n")
    assert events.emitted == []


async def test_list_shows_newest_first_with_live_progress(
    start: Start,
    events: RecordingEvents,
) -> None:
    async with start(pace=FOREVER) as service:
        jobs = [await service.submit("p", text=f"text {n}") for n in range(2)]
        for job in jobs:
            await events.first_chunk(job.id)
        listed = await service.newest("p")
    assert [job.id for job in listed] == [jobs[1].id, jobs[0].id]
    assert [job.progress for job in listed] == [1.0, 1.0]
    assert len(listed) <= LIST_LIMIT


async def test_ids_sort_by_age(start: Start) -> None:
    async with start() as service:
        ids = [(await service.submit("p", text="one")).id for _ in range(5)]
    assert ids == sorted(ids)


async def test_drain_ends_running_and_waiting_jobs_as_interrupted(
    start: Start,
    events: RecordingEvents,
    store: RunStore[Job],
    index: SearchIndex,
) -> None:
    async with start(workers=1, pace=FOREVER) as service:
        running = await service.submit("p", text="river")
        await events.first_chunk(running.id)
        waiting = await service.submit("p", text="dam")
        await service.drain()
        with pytest.raises(DrainingError):
            await service.submit("p", text="late")
        await service.drain()
    for job in (running, waiting):
        assert events.types(job.id)[-1] == "ingest.job.failed"
        assert store.get("p", job.id).error_message == "interrupted"
    assert events.types(waiting.id) == ["ingest.job.created", "ingest.job.failed"]
    assert index.search("p", "river dam") == []


async def test_unfinished_jobs_of_an_earlier_process_fail_as_interrupted(
    start: Start,
    events: RecordingEvents,
    store: RunStore[Job],
    index: SearchIndex,
    killed: list[Job],
) -> None:
    async with start() as service:
        for job in killed:
            assert (await service.get("p", job.id)).error_message == "interrupted"
    assert [(e.type, e.body["status"], e.error) for e in events.emitted] == [
        ("ingest.job.failed", "failed", "interrupted"),
    ] * 2
    assert store.unfinished() == []
    with index.transaction() as transaction:
        assert left_of(transaction, killed[1]) == 0


async def test_job_killed_after_publishing_is_completed_at_the_next_start(
    start: Start,
    events: RecordingEvents,
    index: SearchIndex,
    killed: list[Job],
) -> None:
    index.publish(killed[1].id)
    async with start() as service:
        assert (await service.get("p", killed[1].id)).status is Status.COMPLETED
    assert events.types(killed[1].id) == ["ingest.job.completed"]
    assert len(index.search("p", "river")) == 1


@pytest.fixture
def killed(store: RunStore[Job], index: SearchIndex) -> list[Job]:
    """A waiting and a running job, as a killed process leaves them."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    waiting = new_job("01", "p", now)
    running = staged(new_job("02", "p", now), Stage.INDEXING, now)
    store.save(waiting)
    store.save(running)
    index.begin(running)
    index.add(running.id, 0, documents.Chunk("river", ""))
    return [waiting, running]


def left_of(transaction: sqlite3.Connection, job: Job) -> int:
    row = transaction.execute("SELECT count(*) FROM chunks WHERE job_id = ?", (job.id,)).fetchone()
    return int(row[0])

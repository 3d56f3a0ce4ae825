"""IngestService: files and texts become searchable chunks."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import PurePosixPath
from typing import ClassVar, Protocol

from tailrace.services.documents import Chunk, chunk, clean, extract
from tailrace.services.files import FileRoot
from tailrace.services.index import SearchIndex
from tailrace.services.jobs import Job, Stage, advanced, new_job
from tailrace.services.lifecycle import Active, Capacity, RunService, utc_now
from tailrace.services.runs import Status
from tailrace.services.store import RunStore

__all__ = ["IngestEvents", "IngestService"]


class IngestEvents(Protocol):
    """Where the service tells what happens. `StreamingService` is one."""

    def emit_ingest_event(
        self, project_id: str, event_type: str, job: object, error: object = None
    ) -> None:
        """Take a snapshot of `job` and return at once; never raise."""


class IngestService(RunService[Job]):
    """Turns files and texts into searchable chunks and emits every step of it; see `RunService`.

    The index and the files belong to the caller, who closes them afterwards. There is one
    ``ingest.job.updated`` for each stage and each chunk; the pace is kept after each chunk. All
    blocking work is done in threads, at most one per worker. A cancelled job stops before its next
    chunk, and what an earlier job put into the index stays.

    Args:
        store: The jobs.
        index: The chunks.
        files: The files that may be read.
        events: Where to emit.
        capacity: How much it takes on at once.
        now: The clock, in UTC.
    """

    noun: ClassVar[str] = "job"

    def __init__(
        self,
        *,
        store: RunStore[Job],
        index: SearchIndex,
        files: FileRoot,
        events: IngestEvents,
        capacity: Capacity,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(store, capacity, now)
        self._index = index
        self._files = files
        self._events = events

    async def submit(
        self,
        project_id: str,
        *,
        path: str | None = None,
        text: str | None = None,
        title: str | None = None,
    ) -> Job:
        """Queue a job for a file or for a text and return it; give exactly one of them.

        The file is looked at now and read when the job runs: what only its content shows becomes
        the failure of the job.

        Raises:
            DocumentError: The text cannot be ingested.
            DrainingError: The service is shutting down.
            QueueFullError: As many jobs wait or run as the capacity allows.
            StorageError: The job cannot be saved.
            TailraceError: The file cannot be ingested, see `FileRoot.locate`.
        """
        if path is not None:
            path = await asyncio.to_thread(self._files.locate, path)
        if text is not None:
            text = await asyncio.to_thread(clean, text)
        return await self._take(
            lambda job_id: new_job(job_id, project_id, self._now(), path=path, title=title), text
        )

    async def _recover(self) -> None:
        await super()._recover()
        await asyncio.to_thread(self._index.discard_unpublished)

    async def _end_of_killed(self, run: Job) -> tuple[Status, str | None]:
        # Killed between publishing and saving: then the job did do its work.
        if await asyncio.to_thread(self._index.is_published, run.id):
            return Status.COMPLETED, None
        return await super()._end_of_killed(run)

    async def _perform(self, active: Active[Job]) -> None:
        await self._enter(active, Stage.PREPROCESSING)
        text = await asyncio.to_thread(self._text_of, active)
        await self._enter(active, Stage.CHUNKING)
        chunks = await asyncio.to_thread(chunk, text)
        await self._enter(active, Stage.INDEXING)
        await self._index_all(active, chunks)

    def _text_of(self, active: Active[Job]) -> str:
        if active.text is not None:
            return active.text
        path = active.run.path
        assert path is not None, "a job has a text or a path"
        return extract(PurePosixPath(path).name, self._files.read(path))

    async def _index_all(self, active: Active[Job], chunks: list[Chunk]) -> None:
        job_id, total = active.run.id, len(chunks)
        await asyncio.to_thread(self._index.begin, active.run)
        for number, piece in enumerate(chunks):
            active.check()
            await asyncio.to_thread(self._index.add, job_id, number, piece)
            active.run = advanced(active.run, number + 1, total, self._now())
            self._emit(active.run, "updated")
            await self._rest(active)
        active.check()
        await asyncio.to_thread(self._index.publish, job_id)

    async def _undo(self, run: Job) -> None:
        await asyncio.to_thread(self._index.discard, run.id)

    def _emit(self, run: Job, what: str) -> None:
        self._events.emit_ingest_event(
            run.project_id, f"ingest.job.{what}", run, error=run.error_message
        )

"""The life of runs, the same for every service: wait, run, be cancelled, end, survive a restart."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import structlog
import uuid_utils

from tailrace.schemas import TailraceError
from tailrace.services.errors import (
    DrainingError,
    QueueFullError,
    RunEndedError,
    RunFailedError,
    RunStoppedError,
    StorageError,
)
from tailrace.services.runs import RunT, Status, ended, staged
from tailrace.services.store import RunStore

__all__ = ["INTERRUPTED", "LIST_LIMIT", "Active", "Capacity", "RunService", "utc_now"]

INTERRUPTED = "interrupted"
"""The error of a run that the end of its process cut short."""

LIST_LIMIT = 100
"""How many runs a list holds at most."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Capacity(NamedTuple):
    """How much a service takes on at once."""

    workers: int = 2
    """How many runs are worked on at once."""
    max_runs: int = 100
    """How many runs wait or are worked on at once; more are refused."""
    pace: float = 0.0
    """Seconds to wait at each step of a run. For demonstrations."""


class Active(Generic[RunT]):
    """A run that waits or runs, with what is needed to run it. Touched by the loop only."""

    __slots__ = ("cancelled", "ended", "run", "stop", "text")

    def __init__(self, run: RunT, text: str | None = None) -> None:
        self.run = run
        self.text = text
        """What came with the request and is not part of the run."""
        self.cancelled = False
        """Whether a person asked for the stop; otherwise the service ends."""
        self.stop = asyncio.Event()
        self.ended = asyncio.Event()

    def check(self) -> None:
        """Raise where the run is to stop."""
        if self.stop.is_set():
            raise RunStoppedError

    async def unless_stopped(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what `work` returns, or cancel it in the middle when the run is to stop.

        Raises:
            RunStoppedError: It was cancelled so.
            RunFailedError: It was cancelled from inside.
        """
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            task.cancel()  # does nothing to a task that is done
            await asyncio.wait({task, stop})
        if task.cancelled():
            self.check()
            raise RunFailedError("it was cancelled from inside")
        return task.result()


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class RunService(ABC, Generic[RunT]):
    """Takes on runs, works on a few at once, and emits every step of each.

    Use it as ``async with``: entering ends what an earlier process left unfinished, leaving drains.
    The store belongs to the caller, who closes it afterwards.

    For each run, in this order: created, updated, and exactly one of completed, failed and
    cancelled. A state is saved before it is emitted; progress inside a stage is emitted only.

    Args:
        store: The runs.
        capacity: How much it takes on at once.
        now: The clock, in UTC.
    """

    noun: ClassVar[str] = "run"

    def __init__(
        self,
        store: RunStore[RunT],
        capacity: Capacity,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._capacity = capacity
        self._now = now
        self._active: dict[str, Active[RunT]] = {}
        self._pending: deque[Active[RunT]] = deque()
        self._changed = asyncio.Condition()
        self._draining = False
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._recover()
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._capacity.workers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    async def cancel(self, project_id: str, run_id: str) -> RunT:
        """Stop a run and return it, cancelled, after its last event.

        A waiting run ends at once, a running one as soon as its work can be left.

        Raises:
            NotFoundError: The project has no such run.
            RunEndedError: It has ended already, or did before it could be stopped.
        """
        active = self._find(project_id, run_id)
        if active is None:
            run = await self.get(project_id, run_id)
            raise RunEndedError(self.noun, run.id, run.status)
        active.cancelled = True
        active.stop.set()
        if active in self._pending:
            self._pending.remove(active)
            await self._end(active, Status.CANCELLED)
        await active.ended.wait()
        if active.run.status is not Status.CANCELLED:
            raise RunEndedError(self.noun, run_id, active.run.status)
        return active.run

    async def get(self, project_id: str, run_id: str) -> RunT:
        """Return the newest state of a run.

        Raises:
            NotFoundError: The project has no such run, or it ended long ago.
        """
        active = self._find(project_id, run_id)
        if active is not None:
            return active.run
        return await asyncio.to_thread(self._store.get, project_id, run_id)

    async def newest(self, project_id: str) -> list[RunT]:
        """Return the newest runs of a project, newest first, at most `LIST_LIMIT`."""
        saved = await asyncio.to_thread(self._store.newest, project_id, LIST_LIMIT)
        return [self._active[run.id].run if run.id in self._active else run for run in saved]

    async def drain(self) -> None:
        """Take on nothing more, stop what waits and runs, and return when all of it has ended.

        What is stopped ends as failed, `INTERRUPTED`. May be called again.
        """
        self._draining = True
        async with self._changed:
            for active in self._active.values():
                active.stop.set()
            self._changed.notify_all()
        await asyncio.gather(*self._workers)

    @abstractmethod
    async def _perform(self, active: Active[RunT]) -> None:
        """Do the work of a run; a `TailraceError` fails it with that message."""

    @abstractmethod
    def _emit(self, run: RunT, what: str) -> None:
        """Emit a run: created, updated, completed, failed or cancelled."""

    async def _undo(self, run: RunT) -> None:
        """Remove what a run that did not complete has left behind."""

    async def _end_of_killed(self, run: RunT) -> tuple[Status, str | None]:  # noqa: ARG002 - for those who know more
        """Return the end, and its error, of a run whose process was killed."""
        return Status.FAILED, INTERRUPTED

    async def _take(self, make: Callable[[str], RunT], text: str | None = None) -> RunT:
        """Queue the run that `make` returns for a new id.

        Raises:
            DrainingError: The service is shutting down.
            QueueFullError: As many runs wait or are worked on as the capacity allows.
            StorageError: The run cannot be saved.
        """
        async with self._changed:  # also keeps `drain` waiting until the run is in its hands
            self._admit()
            run = make(str(uuid_utils.uuid7()))
            await asyncio.to_thread(self._store.save, run)
            self._active[run.id] = active = Active(run, text)
            self._pending.append(active)
            self._emit(run, "created")
            self._changed.notify()
        _log.info("run_created", what=type(run).__name__, project=run.project_id, run=run.id)
        return run

    async def _enter(self, active: Active[RunT], stage: str) -> None:
        """Save and emit a run in its next stage."""
        active.check()
        active.run = staged(active.run, stage, self._now())
        await asyncio.to_thread(self._store.save, active.run)
        self._emit(active.run, "updated")

    async def _rest(self, active: Active[RunT]) -> None:
        """Wait for the pace, or less when the run is to stop."""
        if self._capacity.pace:
            try:
                async with asyncio.timeout(self._capacity.pace):
                    await active.stop.wait()
            except TimeoutError:
                pass

    async def _recover(self) -> None:
        """End the runs that an earlier process left unfinished."""
        for run in await asyncio.to_thread(self._store.unfinished):
            status, error = await self._end_of_killed(run)
            last = ended(run, status, self._now(), error)
            await asyncio.to_thread(self._store.save, last)
            self._emit(last, status)
            _log.warning("run_recovered", run=run.id, status=status)

    def _admit(self) -> None:
        if self._draining:
            raise DrainingError
        if len(self._active) >= self._capacity.max_runs:
            raise QueueFullError(self._capacity.max_runs, self.noun)

    def _find(self, project_id: str, run_id: str) -> Active[RunT] | None:
        active = self._active.get(run_id)
        return active if active is not None and active.run.project_id == project_id else None

    async def _work(self) -> None:
        while (active := await self._next()) is not None:
            await self._attend(active)

    async def _next(self) -> Active[RunT] | None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending or self._draining)
            return self._pending.popleft() if self._pending else None

    async def _attend(self, active: Active[RunT]) -> None:
        """Run a run to its end, whatever happens on the way."""
        status, error = Status.COMPLETED, None
        try:
            active.check()
            await self._perform(active)
        except RunStoppedError:
            status = Status.CANCELLED if active.cancelled else Status.FAILED
            error = None if active.cancelled else INTERRUPTED
        except TailraceError as exc:
            status, error = Status.FAILED, str(exc)
        except Exception:  # noqa: BLE001 - the root of the run
            _log.exception("run_crashed", run=active.run.id)
            status, error = Status.FAILED, "internal error"
        await self._end(active, status, error)

    async def _end(self, active: Active[RunT], status: Status, error: str | None = None) -> None:
        active.run = run = ended(active.run, status, self._now(), error)
        try:
            if status is not Status.COMPLETED:
                await self._undo(run)
            await asyncio.to_thread(self._store.save, run)
        except StorageError:
            # Viewers still learn the end; the files learn it at the next start.
            _log.exception("run_not_saved", run=run.id, status=status)
        self._emit(run, status)
        del self._active[run.id]
        active.ended.set()
        _log.info("run_ended", project=run.project_id, run=run.id, status=status)

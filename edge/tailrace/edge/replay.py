"""Replay from Kafka, for viewers whose next record the journal holds no more.

One scan per partition serves all who wait there, each from their own place, and ends where the
journal begins: the backlog takes over from there.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from tailrace.edge.catchup import Catchup, Place, place_of
from tailrace.edge.channel import Viewer
from tailrace.edge.chunk import Record
from tailrace.edge.consumer import OffsetGoneError
from tailrace.edge.dialect import Break
from tailrace.edge.garbage import passing
from tailrace.edge.hub import Hub
from tailrace.edge.locate import Locator
from tailrace.edge.protocol import Gap
from tailrace.schemas import Position, UnavailableError

__all__ = ["Replay", "Scanner"]

_log = structlog.get_logger(__name__)
_SCANS = 2
_BYTES_PER_SECOND = 64 << 20
_RETRY_SECONDS = 1.0
_MAX_IDS = 100_000
_OVERLAP = 1000
"""Records that a scan reads of those that the journal holds, or half of them if it holds few."""


class _Scan(Protocol):
    @property
    def position(self) -> int: ...

    async def read(self) -> Sequence[Record]: ...


class Scanner(Protocol):
    """What opens readers of one partition."""

    def scan(self, partition: int, offset: int) -> AbstractAsyncContextManager[_Scan]:
        """Return a reader of the partition from an offset on."""


class Replay:
    """Scans of the log, one per partition and two at once at most, bounded in bytes per second.

    A viewer who is past the replay bound is given up.

    Args:
        hub: What they watch.
        scanner: Kafka.
        locator: Knows the bound.
        resume: Takes viewers back whom the journal can serve again.
        scans: Partition -> scans begun; counted into.
        gaps: Reason -> viewers who were told of a gap; counted into.
    """

    def __init__(
        self,
        hub: Hub,
        scanner: Scanner,
        locator: Locator,
        *,
        resume: Callable[[Viewer], None],
        scans: Counter[int],
        gaps: Counter[str],
    ) -> None:
        self._hub = hub
        self._scanner = scanner
        self._locator = locator
        self._resume = resume
        self._waiting: dict[int, dict[Viewer, None]] = {}
        self._slots = asyncio.Semaphore(_SCANS)
        self._changed = asyncio.Event()
        self._scans = scans
        self._gaps = gaps

    def add(self, viewer: Viewer) -> None:
        """Replay to a viewer from their position on."""
        if self._locator.within_bound(viewer.position):
            self._waiting.setdefault(viewer.position.partition, {})[viewer] = None
            self._changed.set()
        else:
            viewer.give_up()

    async def run(self) -> None:
        """Scan for whoever waits, until cancelled."""
        running: dict[int, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for partition in [p for p, task in running.items() if task.done()]:
                    del running[partition]
                for partition in self._waiting.keys() - running.keys():
                    running[partition] = tasks.create_task(self._partition(partition))

    async def _partition(self, partition: int) -> None:
        """Scan one partition until nobody waits there."""
        try:
            async with self._slots:
                while self._waiting.get(partition):
                    await self._attempt(partition)
        finally:
            if not self._waiting.get(partition):
                self._waiting.pop(partition, None)
            self._changed.set()

    async def _attempt(self, partition: int) -> None:
        viewers, self._waiting[partition] = self._waiting[partition], {}
        pass_ = _Passes(self._hub, partition, self._resume)
        pass_.admit(viewers)
        try:
            await self._scan(partition, pass_)
        except OffsetGoneError as gone:
            self._skip_gone(partition, pass_.viewers(), gone.earliest)
        except UnavailableError as error:
            _log.warning("replay interrupted", partition=partition, error=str(error))
            self._waiting[partition] |= dict.fromkeys(pass_.viewers())
            await asyncio.sleep(_RETRY_SECONDS)

    async def _scan(self, partition: int, passes: "_Passes") -> None:
        while passes:
            self._scans[partition] += 1
            with passing():
                await self._pass(partition, passes)

    async def _pass(self, partition: int, passes: "_Passes") -> None:
        """Scan once; a function of its own, so that nothing holds the scan when it is collected."""
        async with self._scanner.scan(partition, passes.first) as scan:
            await self._read(partition, scan, passes)

    async def _read(self, partition: int, scan: _Scan, passes: "_Passes") -> None:
        """Read until nobody waits any more, or somebody needs an earlier record once more."""
        while passes:
            position = scan.position
            records = await scan.read()
            self._let_in(partition, position, passes)
            if not passes.feed(records, scan.position):
                return
            size = sum(len(record.value or b"") for record in records)
            await asyncio.sleep(size / _BYTES_PER_SECOND)

    def _let_in(self, partition: int, position: int, passes: "_Passes") -> None:
        """Let those join who came meanwhile and wait for something from `position` on."""
        waiting = self._waiting[partition]
        fit = [viewer for viewer in waiting if viewer.position.offset + 1 >= position]
        passes.admit(fit)
        for viewer in fit:
            del waiting[viewer]

    def _skip_gone(self, partition: int, viewers: Sequence[Viewer], earliest: int) -> None:
        """Tell a gap to those whose next records Kafka has deleted meanwhile."""
        cursor = self._hub.at(partition, earliest - 1)
        for viewer in viewers:
            if viewer.position.offset < cursor.offset:
                viewer.gap = Break(viewer.channel.name, viewer.position, cursor, Gap.RETENTION)
                self._gaps[Gap.RETENTION] += 1
            self._resume(viewer)


class _Passes:
    """The passes that one scan feeds, one for each place where viewers began."""

    def __init__(self, hub: Hub, partition: int, resume: Callable[[Viewer], None]) -> None:
        self._hub = hub
        self._partition = partition
        self._resume = resume
        self._projects: dict[bytes, list[Catchup]] = {}
        self._ids: dict[bytes, dict[str, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._projects)

    @property
    def first(self) -> int:
        """The offset at which the scan must begin."""
        return min(p.reached.offset for ps in self._projects.values() for p in ps) + 1

    def viewers(self) -> list[Viewer]:
        return [v for ps in self._projects.values() for p in ps for v in p.viewers]

    def admit(self, viewers: Iterable[Viewer]) -> None:
        """Begin a pass for each place where viewers wait."""
        places: dict[Place, list[Viewer]] = {}
        for viewer in viewers:
            if viewer.open:
                places.setdefault(place_of(viewer), []).append(viewer)
        for place, waiting in places.items():
            project = place.channel.key.project_id.encode()
            catchup = Catchup(self._hub, place, waiting)
            self._projects.setdefault(project, []).append(catchup)

    def feed(self, records: Sequence[Record], position: int) -> bool:
        """Feed all passes; hand those over to the journal that it can go on with.

        Args:
            records: The next ones of the partition.
            position: Offset of what is read next.

        Returns:
            Whether to go on reading; False: begin again at `first`.
        """
        fed = all(self._feed_all(record) for record in records)
        if fed and position - 1 >= self._seam():
            fed = self._finish()
        self._projects = {
            project: left
            for project, passes in self._projects.items()
            if (left := [p for p in passes if any(viewer.open for viewer in p.viewers)])
        }
        return fed

    def _feed_all(self, record: Record) -> bool:
        passes = self._projects.get(record.key) if record.key else None
        if not passes or not record.key or self._retry(record.key, record):
            return True
        return all(self._feed(catchup, record) for catchup in passes)

    def _feed(self, catchup: Catchup, record: Record) -> bool:
        """Feed a pass with what is new to it; False if it must be read to once more."""
        if record.offset <= catchup.reached.offset or not catchup.viewers:
            return True
        if catchup.feed(record):
            return True
        if not self._hand_over(catchup, catchup.reached):
            return False
        return not catchup.viewers or catchup.feed(record)

    def _hand_over(self, catchup: Catchup, cursor: Position) -> bool:
        careful = catchup.careful
        catchup.hand_over(cursor)
        return careful or not catchup.careful

    def _seam(self) -> int:
        """Return the offset where the journal takes over, held with some that come before it.

        So it knows a retry just after the seam by its original just before.
        """
        journal = self._hub.journal
        floor, (head, _) = journal.floor(self._partition), journal.head(self._partition)
        return floor + min((head - floor) // 2, _OVERLAP)

    def _finish(self) -> bool:
        """Deliver all that is left, and let the backlog go on from the journal.

        Returns:
            False if it is not all over: somebody must be read to once more.
        """
        over = [self._over(p) for passes in self._projects.values() for p in passes]
        return all(over)

    def _over(self, catchup: Catchup) -> bool:
        floor = self._hub.at(self._partition, self._hub.journal.floor(self._partition))
        # Between the last record of its project and the floor there is none of it.
        cursor = catchup.reached if catchup.reached.offset > floor.offset else floor
        if cursor != catchup.prev and not self._hand_over(catchup, cursor):
            return False
        for viewer in catchup.viewers:
            self._resume(viewer)
        catchup.viewers = []
        return True

    def _retry(self, project: bytes, record: Record) -> bool:
        """Tell whether this scan has seen the record's event id before it.

        It remembers a bounded number of ids.
        """
        event_id = dict(record.headers).get("ce_id")
        if event_id is None:
            return False
        ids = self._ids.setdefault(project, {})
        text = event_id.decode(errors="replace")
        if len(ids) < _MAX_IDS:
            ids.setdefault(text, record.offset)
        return ids.get(text, record.offset) < record.offset

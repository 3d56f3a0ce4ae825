"""Bounded memory of the log: the newest part of each partition, of all projects, as raw records.

What a slow or returning viewer missed is read from here; what is older, from Kafka itself.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from tailrace.schemas import Subject

__all__ = ["UNKNOWN_TIMESTAMP", "Journal", "RunStart"]

UNKNOWN_TIMESTAMP = -1
"""Of a position whose record was not seen; Kafka's own value for "none"."""

R = TypeVar("R")
T = TypeVar("T")

_COMPACT_AT = 16
"""Forgotten items that a tail may hold whatever its length; small, for each project has one."""


class RunStart(NamedTuple):
    """Where the first record of a run is."""

    partition: int
    offset: int


class _Tail(Generic[T]):
    """Items by ascending offset that grow at the end and shrink at the front, both in O(1)."""

    __slots__ = ("_items", "_offsets", "_start")

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._items: list[T | None] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._items) - self._start

    def append(self, offset: int, item: T) -> None:
        self._offsets.append(offset)
        self._items.append(item)

    def popleft(self) -> tuple[int, T]:
        offset, item = self._offsets[self._start], self._items[self._start]
        assert item is not None, "only what is before the start is forgotten"
        self._items[self._start] = None
        self._start += 1
        if self._start >= _COMPACT_AT and self._start * 2 >= len(self._items):
            del self._offsets[: self._start]
            del self._items[: self._start]
            self._start = 0
        return offset, item

    def after(self, offset: int) -> Iterator[tuple[int, T]]:
        """Yield (offset, item) of what comes after `offset`."""
        for index in range(bisect_right(self._offsets, offset, self._start), len(self._items)):
            item = self._items[index]
            assert item is not None, "only what is before the start is forgotten"
            yield self._offsets[index], item

    def at(self, offset: int) -> T | None:
        index = bisect_right(self._offsets, offset, self._start) - 1
        if index >= self._start and self._offsets[index] == offset:
            return self._items[index]
        return None


class _Place(NamedTuple):
    timestamp_ms: int
    project: bytes
    size: int


class _Partition:
    """The order in which a partition's records came, for proof and eviction."""

    __slots__ = ("floor", "floor_timestamp_ms", "head", "head_timestamp_ms", "places", "size")

    def __init__(self, offset: int, timestamp_ms: int) -> None:
        self.places: _Tail[_Place] = _Tail()
        self.size = 0
        self.floor = self.head = offset
        self.floor_timestamp_ms = self.head_timestamp_ms = timestamp_ms


class _Project(Generic[R]):
    __slots__ = ("ids", "records", "retries")

    def __init__(self) -> None:
        self.records: _Tail[R] = _Tail()
        self.ids: dict[str, int] | None = None
        """Event id -> last offset held, while the project is watched."""
        self.retries: set[int] = set()
        """Offsets held of records whose id came before, while the project is watched."""


class Journal(Generic[R]):
    """The newest records of all partitions, within `max_bytes`.

    When they need more, the oldest records of the partition that holds most are forgotten.

    Args:
        max_bytes: Bound of the sizes given to `append`, which count what an object costs beside
            its bytes.
        id_of: The event id of a record, from its headers; None when they do not name it.
        max_runs: How many run starts are remembered; the least recently used one is forgotten.
    """

    def __init__(
        self, *, max_bytes: int, id_of: Callable[[R], str | None], max_runs: int = 100_000
    ) -> None:
        self._max_bytes = max_bytes
        self._id_of = id_of
        self._max_runs = max_runs
        self._partitions: dict[int, _Partition] = {}
        self._projects: dict[bytes, _Project[R]] = {}
        self._runs: OrderedDict[tuple[bytes, Subject], RunStart] = OrderedDict()
        self.size = 0
        """Bytes held."""

    def begin(self, partition: int, offset: int, timestamp_ms: int) -> None:
        """Start a partition anew, just after the record at `offset`: nothing before it is held."""
        old = self._partitions.get(partition)
        while old is not None and len(old.places):
            self._forget_oldest(old)
        self._partitions[partition] = _Partition(offset, timestamp_ms)

    def append(
        self, partition: int, offset: int, timestamp_ms: int, project: bytes, record: R, size: int
    ) -> bool:
        """Hold one more record, the next of its partition.

        All records of a project must be of one partition: keep misplaced ones out.

        Returns:
            False when it is a retry of one that is held; known of watched projects only. It stays
            one when the other is forgotten.
        """
        log = self._partitions[partition]
        log.head, log.head_timestamp_ms = offset, timestamp_ms
        log.places.append(offset, _Place(timestamp_ms, project, size))
        log.size += size
        self.size += size
        held = self._projects.get(project)
        if held is None:
            held = self._projects[project] = _Project()
        held.records.append(offset, record)
        first = held.ids is None or self._first(held, held.ids, offset, record)
        while self.size > self._max_bytes:
            self._forget_oldest(max(self._partitions.values(), key=_size))
        return first

    def advance(self, partition: int, offset: int, timestamp_ms: int) -> None:
        """Note that the log has been read up to `offset`, where nothing is worth holding."""
        log = self._partitions[partition]
        log.head, log.head_timestamp_ms = offset, timestamp_ms

    def _first(self, held: _Project[R], ids: dict[str, int], offset: int, record: R) -> bool:
        event_id = self._id_of(record)
        if event_id is None:
            return True
        first = event_id not in ids
        if not first:
            held.retries.add(offset)
        ids[event_id] = offset
        return first

    def _forget_oldest(self, log: _Partition) -> None:
        offset, place = log.places.popleft()
        log.floor, log.floor_timestamp_ms = offset, place.timestamp_ms
        log.size -= place.size
        self.size -= place.size
        held = self._projects[place.project]
        _, record = held.records.popleft()
        if held.ids is not None:
            held.retries.discard(offset)
            self._forget_id(held.ids, offset, record)
        elif not len(held.records):
            del self._projects[place.project]

    def _forget_id(self, ids: dict[str, int], offset: int, record: R) -> None:
        event_id = self._id_of(record)
        if event_id is not None and ids.get(event_id) == offset:
            del ids[event_id]

    def watch(self, project: bytes) -> None:
        """Know the retries of a project from now on, those that are held already included."""
        held = self._projects.setdefault(project, _Project())
        if held.ids is None:
            held.ids = {}
            for offset, record in held.records.after(-1):
                self._first(held, held.ids, offset, record)

    def unwatch(self, project: bytes) -> None:
        """Forget what `watch` made known."""
        held = self._projects[project]
        held.ids = None
        held.retries.clear()
        if not len(held.records):
            del self._projects[project]

    def range(self, project: bytes, after: int) -> Iterator[tuple[int, R]]:
        """Yield (offset, record) of a project after an offset, without retries if watched.

        Let go of the iterator before the journal changes, and ask again after the last offset.
        """
        held = self._projects.get(project)
        if held is None:
            return
        for offset, record in held.records.after(after):
            if offset not in held.retries:
                yield offset, record

    def floor(self, partition: int) -> int:
        """Return the offset after which every record is held."""
        return self._partitions[partition].floor

    def floor_timestamp(self, partition: int) -> int:
        """Return the timestamp (ms) of the record at the floor, if it is known."""
        return self._partitions[partition].floor_timestamp_ms

    def head(self, partition: int) -> tuple[int, int]:
        """Return offset and timestamp (ms) of the last record read."""
        log = self._partitions[partition]
        return log.head, log.head_timestamp_ms

    def timestamp(self, partition: int, offset: int) -> int:
        """Return the timestamp (ms) of the record at an offset; `UNKNOWN_TIMESTAMP` if not held."""
        log = self._partitions[partition]
        if offset == log.head:
            return log.head_timestamp_ms
        if offset == log.floor:
            return log.floor_timestamp_ms
        place = log.places.at(offset)
        return UNKNOWN_TIMESTAMP if place is None else place.timestamp_ms

    def proves(self, partition: int, offset: int, timestamp_ms: int) -> bool | None:
        """Tell whether a record with this timestamp is at this offset; None: not known here."""
        log = self._partitions[partition]
        known = {log.floor: log.floor_timestamp_ms, log.head: log.head_timestamp_ms}
        if offset in known:
            found = known[offset]
            return None if found == UNKNOWN_TIMESTAMP else found == timestamp_ms
        if not log.floor < offset < log.head:
            return None
        place = log.places.at(offset)
        return None if place is None else place.timestamp_ms == timestamp_ms

    def run_started(self, project: bytes, subject: Subject, start: RunStart) -> None:
        """Remember where a run begins; its first start counts."""
        runs = self._runs
        runs.setdefault((project, subject), start)
        if len(runs) > self._max_runs:
            runs.popitem(last=False)

    def run_start(self, project: bytes, subject: Subject) -> RunStart | None:
        """Return where a run begins, if that is remembered."""
        start = self._runs.get((project, subject))
        if start is not None:
            self._runs.move_to_end((project, subject))
        return start


def _size(log: _Partition) -> int:
    return log.size

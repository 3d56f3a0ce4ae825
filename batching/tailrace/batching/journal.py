"""Bounded memory of the log: the newest part of each partition, of all projects, as raw records.

What a slow or returning viewer missed is read from here; what is older, from Kafka itself.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from tailrace.batching.block import Block, Logged
from tailrace.batching.watched import Watched
from tailrace.schemas import Subject

__all__ = ["UNKNOWN_TIMESTAMP", "Journal", "RunStart"]

UNKNOWN_TIMESTAMP = -1
"""Of a position whose record was not seen; Kafka's own value for "none"."""

R = TypeVar("R", bound=Logged)

_BLOCK_RECORDS = 500
"""Records of one block at most: what one fetch brings, so that it need not be cut."""
_BLOCK_SHARE = 32
"""A block has at most this part of the journal, unless it is one record: the step of eviction."""


class RunStart(NamedTuple):
    """Where the first record of a run is."""

    partition: int
    offset: int


class _Log(Generic[R]):
    """The part of one partition that is held, in blocks: no two neighbours would fit in one."""

    __slots__ = ("blocks", "floor", "floor_timestamp_ms", "head", "size", "watched")

    def __init__(self) -> None:
        self.watched: dict[bytes, Watched[R]] = {}
        self.blocks: list[Block[R]] = []
        self.size = 0

    def begin(self, offset: int, timestamp_ms: int) -> None:
        self.floor, self.floor_timestamp_ms = self.head = offset, timestamp_ms

    def add(self, block: Block[R], max_bytes: int) -> None:
        self.size += block.size
        last = self.blocks[-1] if self.blocks else None
        if (
            last is None
            or len(last.records) + len(block.records) > _BLOCK_RECORDS
            or last.size + block.size > max_bytes
        ):
            self.blocks.append(block)
        else:
            self.size -= last.size + block.size
            last.extend(block)
            self.size += last.size

    def forget_oldest(self) -> int:
        """Forget the oldest block; return its size."""
        block = self.blocks.pop(0)
        last = block.records[-1]
        self.floor, self.floor_timestamp_ms = last.offset, last.timestamp
        self.size -= block.size
        for project in self.watched.keys() & block.by_key.keys():
            self.watched[project].forget(block.by_key[project])
        return block.size

    def from_block_of(self, offset: int) -> Iterator[Block[R]]:
        """Return the blocks from the first one that ends at an offset or after it."""
        return islice(self.blocks, bisect_left(self.blocks, offset, key=_end), None)

    def at(self, offset: int) -> R | None:
        block = next(self.from_block_of(offset), None)
        return None if block is None else block.at(offset)

    def timestamp(self, offset: int) -> int:
        if offset == self.head[0]:
            return self.head[1]
        if offset == self.floor:
            return self.floor_timestamp_ms
        record = self.at(offset)
        return UNKNOWN_TIMESTAMP if record is None else record.timestamp


def _end(block: Block[R]) -> int:
    return block.records[-1].offset


def _size(log: _Log[R]) -> int:
    return log.size


class Journal(Generic[R]):
    """The newest records of all partitions, within `max_bytes`.

    When they need more, the oldest records of the partition that holds most are forgotten, a block
    at a time: at most 500 records or `max_bytes` / 32, whichever is less. A record that is larger
    than `max_bytes` is not held, and nothing before it in its partition.

    A project is known by the key of its records. It is looked for in the one partition asked
    about, so that records of a key which stand in several partitions do no harm.

    A partition must have begun before any other method names it: KeyError.

    Args:
        max_bytes: Bound of `size`. The ids of watched projects come on top, about 200 bytes for
            each of their records held.
        id_of: The event id of a record, from its headers; None when they do not name it.
        max_runs: How many run starts are remembered; the least recently used one is forgotten.
    """

    def __init__(
        self, *, max_bytes: int, id_of: Callable[[R], str | None], max_runs: int = 100_000
    ) -> None:
        self._max_bytes = max_bytes
        self._block_bytes = max_bytes // _BLOCK_SHARE
        self._id_of = id_of
        self._max_runs = max_runs
        self._logs: dict[int, _Log[R]] = {}
        self._runs: OrderedDict[tuple[bytes, Subject], RunStart] = OrderedDict()
        self.size = 0
        """Bytes held: values, keys, headers, and what the objects cost beside those."""
        self.retries = 0
        """Records that `append` left out as retries, so far."""

    @property
    def partitions(self) -> Iterable[int]:
        """The partitions that have begun."""
        return self._logs.keys()

    def begin(self, partition: int, offset: int, timestamp_ms: int) -> None:
        """Start a partition, or start it anew, just after the record at an offset.

        Nothing before it is held and the run starts in this partition are forgotten; projects
        stay watched.

        Args:
            partition: Its number.
            offset: -1 is before the first record.
            timestamp_ms: Of the record at the offset, or `UNKNOWN_TIMESTAMP`.
        """
        log = self._logs.setdefault(partition, _Log())
        while log.blocks:
            self.size -= log.forget_oldest()
        log.begin(offset, timestamp_ms)
        for run in [run for run, start in self._runs.items() if start.partition == partition]:
            del self._runs[run]

    def append(self, partition: int, records: Sequence[R]) -> Mapping[bytes | None, Sequence[R]]:
        """Hold the next records of a partition.

        Those that are too large to be held, and those forgotten at once, are returned as well.

        Args:
            partition: Its number.
            records: Ascending by offset, all above the head; may be empty.

        Returns:
            The records by key, for each key in order, without the retries of watched projects: a
            record is one if its id is that of an earlier one which was held until now. It stays
            one when the other is forgotten.
        """
        log = self._logs[partition]
        if not records:
            return {}
        assert records[0].offset > log.head[0], "records come in order"
        fresh = Block(records)
        log.head = records[-1].offset, records[-1].timestamp
        by_key: dict[bytes | None, Sequence[R]] = {**fresh.by_key}
        self._leave_out_retries(log, by_key)
        self.size -= log.size
        for block in fresh.cut(_BLOCK_RECORDS, self._block_bytes):
            log.add(block, self._block_bytes)
        self.size += log.size
        while self.size > self._max_bytes:
            self.size -= max(self._logs.values(), key=_size).forget_oldest()
        return by_key

    def _leave_out_retries(self, log: _Log[R], by_key: dict[bytes | None, Sequence[R]]) -> None:
        for project in log.watched.keys() & by_key.keys():
            records = by_key[project]
            first = log.watched[project].admit(records)
            self.retries += len(records) - len(first)
            if first:
                by_key[project] = first
            else:
                del by_key[project]

    def watch(self, partition: int, project: bytes) -> None:
        """Know the retries of a project from now on, those that are held already included."""
        log = self._logs[partition]
        if project not in log.watched:
            watched = log.watched[project] = Watched(self._id_of)
            for block in log.blocks:
                watched.admit(block.by_key.get(project, []))

    def unwatch(self, partition: int, project: bytes) -> None:
        """Forget what `watch` and `reject` made known."""
        self._logs[partition].watched.pop(project, None)

    def range(self, partition: int, project: bytes, after: int) -> Iterator[R]:
        """Yield the records of a project after an offset, ascending.

        Those of a watched project come without retries and without what was rejected. Let go of
        the iterator before the journal changes, and ask again after the last offset.
        """
        log = self._logs[partition]
        watched = log.watched.get(project)
        for block in log.from_block_of(after + 1):
            records = block.after(project, after)
            yield from records if watched is None else watched.visible(records)

    def reject(self, partition: int, project: bytes, offset: int) -> bool:
        """Leave a record that proved undeliverable out of `range` from now on.

        Known until it is held no more or the project is watched no more; of a project that is not
        watched, or a record that is not held, nothing is noted.

        Returns:
            False if it is left out already; True of what is not known here.
        """
        log = self._logs[partition]
        watched = log.watched.get(project)
        record = log.at(offset)
        if watched is None or record is None or record.key != project:
            return True
        return watched.reject(offset)

    def floor(self, partition: int) -> int:
        """Return the offset after which every record is held."""
        return self._logs[partition].floor

    def floor_timestamp(self, partition: int) -> int:
        """Return the timestamp (ms) of the record at the floor; `UNKNOWN_TIMESTAMP` if unknown."""
        return self._logs[partition].floor_timestamp_ms

    def head(self, partition: int) -> tuple[int, int]:
        """Return offset and timestamp (ms) of the last record appended, or of `begin`."""
        return self._logs[partition].head

    def timestamp(self, partition: int, offset: int) -> int:
        """Return the timestamp (ms) of the record at an offset.

        `UNKNOWN_TIMESTAMP` if it is neither held nor at the floor or head.
        """
        return self._logs[partition].timestamp(offset)

    def proves(self, partition: int, offset: int, timestamp_ms: int) -> bool | None:
        """Tell whether a record with this timestamp is at this offset; None: not known here."""
        found = self._logs[partition].timestamp(offset)
        return None if found == UNKNOWN_TIMESTAMP else found == timestamp_ms

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

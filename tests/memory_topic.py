"""The in-memory twin of a topic and of the edge's `Consumer`: scripted, and it never sleeps."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import NamedTuple, Self

from tailrace.edge.consumer import (
    LOW_LATENCY,
    Fetch,
    Lag,
    OffsetGoneError,
    Topic,
    TopicChangedError,
)
from tailrace.schemas import UnavailableError

__all__ = ["MemoryConsumer", "MemoryScan", "MemoryTopic", "StubRecord"]

_MAX_RECORDS = 500


class StubRecord(NamedTuple):
    """A consumed Kafka record, as far as the edge reads it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class _Partition:
    def __init__(self) -> None:
        self.records: list[StubRecord] = []
        self.earliest = 0
        self.end = 0

    def after(self, position: int) -> list[StubRecord]:
        """Return the records from `position` on."""
        return self.records[bisect_left(self.records, position, key=_offset) :]


def _offset(record: StubRecord) -> int:
    return record.offset


class MemoryTopic:
    """Partitions of records, and what happens to them. What is done here, consumers see at once.

    Args:
        partitions: How many.
    """

    def __init__(self, partitions: int = 4) -> None:
        self.topic: Topic | None = Topic(1, partitions)
        """None while it is deleted."""
        self.unavailable = False
        """While set, questions and scans raise `UnavailableError` and polls return nothing."""
        self.lag = 0
        """Records that every partition claims to lag by, beside those that it does."""
        self.scans = 0
        """How many scans were begun."""
        self._partitions = [_Partition() for _ in range(partitions)]
        self._puts: list[tuple[int, int]] = []
        self._happened = asyncio.Event()
        self._last_id = 1

    def put(self, *records: StubRecord, partition: int = 0) -> None:
        """Append records; one poll returns them together, and nothing else.

        A record whose offset is taken gets the next one. One further on leaves a gap, as
        transaction markers do.
        """
        log = self._partitions[partition]
        for record in records:
            offset = max(record.offset, log.end)
            log.records.append(record._replace(offset=offset))
            log.end = offset + 1
        self._puts.append((partition, log.end))
        self.happen()

    def delete_before(self, offset: int, partition: int = 0) -> None:
        """Forget what is before `offset`, as retention does."""
        log = self._partitions[partition]
        log.records = log.after(offset)
        log.earliest = max(log.earliest, offset)
        self.happen()

    def delete(self) -> None:
        """Delete the topic."""
        self.topic = None
        self._partitions.clear()
        self._puts.clear()
        self.happen()

    def create(self, partitions: int = 4) -> None:
        """Create the topic again, empty and with an id of its own."""
        self._last_id += 1
        self.topic = Topic(self._last_id, partitions)
        self._puts.clear()
        self._partitions = [_Partition() for _ in range(partitions)]
        self.happen()

    def add_partitions(self, count: int) -> None:
        assert self.topic is not None, "deleted"
        self._partitions += [_Partition() for _ in range(count)]
        self.topic = self.topic._replace(partitions=len(self._partitions))
        self.happen()

    def happen(self) -> None:
        """Wake those who wait for something to happen; after setting `unavailable` too."""
        self._happened.set()
        self._happened = asyncio.Event()

    async def wait(self) -> None:
        await self._happened.wait()

    def partition(self, number: int) -> _Partition:
        """Return a partition as the broker would look at it for a client."""
        if self.unavailable or number >= len(self._partitions):
            raise UnavailableError("Kafka does not answer: told so")
        return self._partitions[number]

    def next_put(self, index: int, positions: Mapping[int, int]) -> int:
        """Return the index of the next put of which something is to be polled, from `index` on."""
        while index < len(self._puts):
            partition, end = self._puts[index]
            if positions[partition] < end:
                break
            index += 1
        return index

    def put_at(self, index: int) -> tuple[int, int] | None:
        """Return (partition, end offset) of a put, if there is one."""
        return self._puts[index] if index < len(self._puts) else None

    def at(self, partition: int, timestamp_ms: int) -> int:
        log = self.partition(partition)
        found = (r.offset for r in log.records if r.timestamp >= timestamp_ms)
        return next(found, log.end)


class MemoryScan:
    """The twin of `Scan`."""

    def __init__(self, log: MemoryTopic, partition: int, offset: int) -> None:
        self._log = log
        self._partition = partition
        self.position = offset

    async def read(self) -> Sequence[StubRecord]:
        """Return the next records, at most 500; none at once when there are none."""
        await asyncio.sleep(0)
        if self._log.unavailable:
            return []
        log = self._log.partition(self._partition)
        if not log.earliest <= self.position <= log.end:
            raise OffsetGoneError(log.earliest)
        records = log.after(self.position)[:_MAX_RECORDS]
        more = len(records) == _MAX_RECORDS
        self.position = records[-1].offset + 1 if more else log.end
        return records


class MemoryConsumer:
    """The twin of `Consumer`, on a `MemoryTopic`."""

    topic: Topic
    starts: Mapping[int, tuple[int, int]]
    targets: Mapping[int, int]

    def __init__(
        self,
        log: MemoryTopic | None = None,
        *,
        fetch: Fetch = LOW_LATENCY,
        warm_up_seconds: float = 600.0,
        warm_up_records: int = 262_144,
    ) -> None:
        self.log = log or MemoryTopic()
        self.fetch = fetch
        self._warm_up_seconds = warm_up_seconds
        self._warm_up_records = warm_up_records
        self._positions: dict[int, int] = {}
        self._last: dict[int, StubRecord] = {}
        self._put = 0
        self._warm = False

    async def __aenter__(self) -> Self:
        while self.log.topic is None or self.log.unavailable:
            await self.log.wait()
        self.topic = self.log.topic
        since_ms = int((time.time() - self._warm_up_seconds) * 1000)
        most = self._warm_up_records // self.topic.partitions
        starts, self._positions = {}, {}
        for number in range(self.topic.partitions):
            log = self.log.partition(number)
            start = max(log.earliest, self.log.at(number, since_ms), log.end - most)
            before = [r.timestamp for r in log.records if r.offset == start - 1]
            starts[number] = (start - 1, *(before or [-1]))[:2]
            self._positions[number] = start
        self.starts = {number: (offset, stamp) for number, (offset, stamp) in starts.items()}
        self.targets = {n: self.log.partition(n).end for n in range(self.topic.partitions)}
        self._put, self._warm = 0, False
        self._warm_up()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._positions = {}

    def put(self, *records: StubRecord, partition: int = 0) -> None:
        """Append records to the topic; one poll returns them."""
        self.log.put(*records, partition=partition)

    @property
    def partitions(self) -> int:
        return len(self._positions)

    @property
    def warm(self) -> bool:
        return self._warm

    async def poll(self, timeout: float) -> Mapping[int, Sequence[StubRecord]]:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                while not (fetched := self._fetch()):
                    await self.log.wait()
        except TimeoutError:
            return {}
        return fetched

    def _fetch(self) -> dict[int, list[StubRecord]]:
        if self.log.unavailable or self.log.topic is None:
            return {}
        if self.log.topic != self.topic:
            raise TopicChangedError(self.topic, self.log.topic)
        for number, position in self._positions.items():
            if position < self.log.partition(number).earliest:
                raise TopicChangedError(self.topic, self.topic, "retention")
        self._put = self.log.next_put(self._put, self._positions)
        put = self.log.put_at(self._put)
        return {} if put is None else self._take(*put)

    def _take(self, number: int, end: int) -> dict[int, list[StubRecord]]:
        waiting = self.log.partition(number).after(self._positions[number])
        records = [record for record in waiting if record.offset < end][:_MAX_RECORDS]
        self._positions[number] = records[-1].offset + 1
        self._last[number] = records[-1]
        self._warm_up()
        return {number: records}

    def _warm_up(self) -> None:
        reached = (self._positions[n] >= target for n, target in self.targets.items())
        self._warm = self._warm or all(reached)

    async def lags(self, now: float) -> dict[int, Lag]:
        return {number: self._lag(number, now) for number in self._positions}

    def _lag(self, number: int, now: float) -> Lag:
        known = self.log.topic == self.topic and not self.log.unavailable
        end = self.log.partition(number).end if known else self._positions[number]
        behind = max(0, end - self._positions[number]) + self.log.lag
        last = self._last.get(number)
        seconds = max(0.0, now - last.timestamp / 1000) if behind and last is not None else 0.0
        return Lag(behind, seconds)

    async def earliest(self, partition: int) -> int:
        return self.log.partition(partition).earliest

    async def reaches(self, partition: int, end: int) -> bool:
        return end <= self.log.partition(partition).end

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        return self.log.at(partition, timestamp_ms)

    @asynccontextmanager
    async def scan(self, partition: int, offset: int) -> AsyncIterator[MemoryScan]:
        self.log.partition(partition)
        self.log.scans += 1
        yield MemoryScan(self.log, partition, offset)

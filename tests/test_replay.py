import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from edge_harness import WAIT_SECONDS, make_event, numbers, record_of, until
from followers import Told
from log_twins import AnyConsumer, Log, MemoryLog, minutes_ago
from memory_node import Wire, settled
from memory_topic import StubRecord

from tailrace.edge import replay as replay_module
from tailrace.edge.backlog import Backlog
from tailrace.edge.channel import ChannelKey, Viewer
from tailrace.edge.dialect import Dialect
from tailrace.edge.hub import Hub
from tailrace.edge.hub import Log as Incarnation
from tailrace.edge.locate import Locator
from tailrace.edge.metrics import DeliveryHistogram
from tailrace.edge.pump import Pump
from tailrace.edge.replay import Replay
from tailrace.edge.session import Subscription
from tailrace.schemas import format_cursor

FACT = "ingest.job.created"
P1 = ChannelKey("p1", None)
P2 = ChannelKey("p2", None)
MINUTES_AGO = minutes_ago(30)
JOURNAL = 1 << 16
"""About forty records."""


def facts(*ns: int, project: str = "p1", size: int = 0) -> list[StubRecord]:
    """Return records of facts that no node reads back at its start."""
    data = '{"job":{"n":%d,"x":"%s"}}'
    events = [make_event(project, FACT, n=n, data=data % (n, "x" * size)) for n in ns]
    return [record_of(event)._replace(timestamp=MINUTES_AGO + event.seq) for event in events]


class Scans:
    """The scans of a consumer, each of whose reads may be held up."""

    def __init__(self, consumer: AnyConsumer) -> None:
        self._consumer = consumer
        self.open = 0
        self.most = 0
        """At once."""
        self.reads = 0
        self.begun: list[tuple[int, int]] = []
        """Partition and offset of each."""
        self._allowed = float("inf")
        self._changed = asyncio.Event()

    def allow(self, reads: float) -> None:
        """Hold up all reads after so many."""
        self._allowed = reads
        self.happen()

    def happen(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, *, reads: int = 0, opened: int = 0) -> None:
        """Wait for so many reads and open scans."""
        async with asyncio.timeout(WAIT_SECONDS):
            while self.reads < reads or self.open < opened:
                await self._changed.wait()

    async def until_closed(self) -> None:
        """Wait until no scan is open."""
        async with asyncio.timeout(WAIT_SECONDS):
            while self.open:
                await self._changed.wait()

    @asynccontextmanager
    async def scan(self, partition: int, offset: int) -> AsyncIterator["_Held"]:
        async with self._consumer.scan(partition, offset) as scan:
            self.begun.append((partition, offset))
            self.open += 1
            self.most = max(self.most, self.open)
            self.happen()
            try:
                yield _Held(self, scan)
            finally:
                self.open -= 1
                self.happen()

    async def allowed(self) -> None:
        while self.reads >= self._allowed:
            await self._changed.wait()


class _Held:
    def __init__(self, scans: Scans, scan: Any) -> None:
        self._scans = scans
        self._scan = scan

    @property
    def position(self) -> int:
        return int(self._scan.position)

    async def read(self) -> Sequence[Any]:
        await self._scans.allowed()
        records: Sequence[Any] = await self._scan.read()
        self._scans.reads += bool(records)
        self._scans.happen()
        return records


class Reader:
    """A hub that reads a log, with all that serves those who are behind."""

    def __init__(self, consumer: AnyConsumer, *, replay_max_bytes: int) -> None:
        self._consumer = consumer
        self.hub = Hub(journal_max_bytes=JOURNAL, skip=lambda *_: None)
        self.hub.begin(Incarnation(*consumer.topic), consumer.starts)
        self.scans = Scans(consumer)
        self.counted: Counter[int] = Counter()
        self.gaps: Counter[str] = Counter()
        self.backlog = Backlog(self.hub)
        self.pump = Pump(self.hub, self.backlog, DeliveryHistogram(), max_pending=1 << 24)
        self.replay = Replay(
            self.hub,
            self.scans,
            Locator(self.hub, consumer, replay_max_bytes=replay_max_bytes),
            resume=self.resume,
            scans=self.counted,
            gaps=self.gaps,
        )

    def resume(self, viewer: Viewer) -> None:
        self.backlog.add(viewer)
        self.pump.wake()

    async def consume(self) -> None:
        while True:
            for partition, records in (await self._consumer.poll(1.0)).items():
                self.hub.publish(partition, records, asyncio.get_running_loop().time())
            await self.pump.published()
            await asyncio.sleep(0)

    def watch(self, key: ChannelKey = P1, *, after: int, partition: int = 0) -> "Watcher":
        watcher = Watcher(self, key, partition, after)
        self.resume(watcher.viewer)
        return watcher


class Watcher:
    """A viewer in the v1 dialect."""

    def __init__(self, reader: Reader, key: ChannelKey, partition: int, after: int) -> None:
        self.wire = Wire()
        channel = reader.hub.open(key, partition, asyncio.get_running_loop().time())
        begin = reader.hub.at(partition, after)
        self.viewer = Subscription(self.wire.session, Dialect.V1, channel, begin)
        self.begin = format_cursor(begin)
        reader.hub.enter(self.viewer)

    def told(self) -> list[Told]:
        """Return what was written; the chain of cursors is whole."""
        messages = [orjson.loads(frame[frame.index(b"{") :]) for frame in self.wire.written]
        cursors = [self.begin, *(message["cursor"] for message in messages)]
        assert [message["prev"] for message in messages] == cursors[:-1]
        told: list[Told] = []
        for message in messages:
            events = numbers(message.get("events", []))
            told += [Told(gap=message["reason"])] if message["t"] == "gap" else map(Told, events)
        return told

    def seen(self) -> list[int | None]:
        return [told.number for told in self.told()]

    async def sees(self, number: int) -> list[int | None]:
        """Wait for an event; return the numbers of all so far, None for a gap."""
        last = b'"n":%d' % number
        async with asyncio.timeout(WAIT_SECONDS):
            while not any(last + b"," in frame for frame in self.wire.written[-1:]):
                self.wire.written_to.clear()
                await self.wire.written_to.wait()
        return self.seen()


@asynccontextmanager
async def reading(log: Log, *, replay_max_bytes: int = 1 << 30) -> AsyncIterator[Reader]:
    """Read a log from its end on."""
    async with log.consumer(warm_up_records=0) as consumer:
        reader = Reader(consumer, replay_max_bytes=replay_max_bytes)
        running = [
            asyncio.create_task(task)
            for task in (
                reader.pump.run(reader.replay.add),
                reader.replay.run(),
                reader.consume(),
            )
        ]
        try:
            yield reader
        finally:
            for task in running:
                task.cancel()
            for outcome in await asyncio.gather(*running, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError), outcome


async def test_one_scan_serves_all_viewers_from_all_their_places(log: Log) -> None:
    for first in range(0, 600, 300):
        ns = range(first, first + 300)
        both = zip(facts(*ns), facts(*ns, project="p2"), strict=True)
        await log.write(*(record for pair in both for record in pair))
    async with reading(log) as reader:
        watchers = [
            (reader.watch(key, after=after), after)
            for after in (-1, 199, 200, 201, 1000)
            for key in (P1, P2)
            for _ in range(3)
        ]
        for watcher, _ in watchers:
            await watcher.sees(599)
        await settled()
        await log.write(*facts(600), *facts(600, project="p2"))
        for watcher, after in watchers:
            first = (after + 2) // 2 if watcher.viewer.channel.key == P1 else (after + 1) // 2
            assert await watcher.sees(600) == list(range(first, 601))

        assert reader.scans.begun == [(0, 0)]
        assert reader.counted == {0: 1}


async def test_late_comer_joins_a_scan_that_has_not_passed_it(log: Log) -> None:
    await log.write(*facts(*range(1500)))
    async with reading(log) as reader:
        reader.scans.allow(1)
        first = reader.watch(after=9)
        await reader.scans.until(reads=1)
        joined = reader.watch(after=700)
        await settled()
        reader.scans.allow(float("inf"))

        assert await first.sees(1499) == list(range(10, 1500))
        assert await joined.sees(1499) == list(range(701, 1500))
        assert reader.scans.begun == [(0, 10)]


async def test_late_comer_whom_the_scan_has_passed_gets_the_next_one(log: Log) -> None:
    await log.write(*facts(*range(1500)))
    async with reading(log) as reader:
        reader.scans.allow(1)
        first = reader.watch(after=9)
        await reader.scans.until(reads=1)
        await settled()
        passed = reader.watch(after=99)
        await settled()
        reader.scans.allow(float("inf"))

        assert await first.sees(1499) == list(range(10, 1500))
        assert await passed.sees(1499) == list(range(100, 1500))
        assert reader.scans.begun == [(0, 10), (0, 100)]
        assert reader.scans.most == 1


async def test_two_partitions_are_scanned_at_once_at_most(log: Log) -> None:
    for partition in range(4):
        await log.write(*facts(*range(10), project=f"p{partition}"), partition=partition)
    async with reading(log) as reader:
        reader.scans.allow(0)
        keys = [ChannelKey(f"p{partition}", None) for partition in range(4)]
        watchers = [reader.watch(key, after=-1, partition=n) for n, key in enumerate(keys)]
        await reader.scans.until(opened=2)
        await settled()
        assert reader.scans.open == 2
        reader.scans.allow(float("inf"))

        for watcher in watchers:
            assert await watcher.sees(9) == list(range(10))
        assert reader.scans.most == 2
        assert sorted(reader.scans.begun) == [(0, 0), (1, 0), (2, 0), (3, 0)]


async def test_hand_over_to_a_journal_that_keeps_evicting_loses_and_repeats_nothing(
    log: Log,
) -> None:
    await log.write(*facts(*range(1000)))
    async with reading(log) as reader, asyncio.TaskGroup() as tasks:

        async def go_on() -> None:
            for first in range(1000, 3000, 50):
                await log.write(*facts(*range(first, first + 50)))

        writing = tasks.create_task(go_on())
        watchers = []
        for after in (-1, 10, 500, 998):
            watchers.append(reader.watch(after=after))
            await settled()
        await writing
        for watcher, after in zip(watchers, (-1, 10, 500, 998), strict=True):
            assert await watcher.sees(2999) == list(range(after + 1, 3000))

        assert reader.hub.journal.floor(0) > 2900
        assert 1 <= len(reader.scans.begun) <= 60


async def test_records_deleted_during_a_scan_are_told_as_a_gap(log: Log) -> None:
    for first in range(0, 1500, 100):
        await log.write(*facts(*range(first, first + 100), size=8000))
    async with reading(log) as reader:
        reader.scans.allow(1)
        early, late = reader.watch(after=-1), reader.watch(after=1390)
        await reader.scans.until(reads=1)
        await log.delete_before(1300)
        reader.scans.allow(float("inf"))

        told = await early.sees(1499)
        before = told.index(None)
        assert told == [*range(before), None, *range(1300, 1500)]
        assert 0 < before < 1300
        assert early.told()[before] == Told(gap="retention")
        assert await late.sees(1499) == list(range(1391, 1500))
        assert reader.gaps == {"retention": 1}


async def test_kafka_that_goes_away_during_a_scan_is_waited_for(
    breakable_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "_RETRY_SECONDS", 0.05)
    for first in range(0, 1500, 100):
        await breakable_log.write(*facts(*range(first, first + 100), size=8000))
    async with reading(breakable_log) as reader:
        reader.scans.allow(1)
        one = reader.watch(after=-1)
        await reader.scans.until(reads=1)
        await breakable_log.down()
        reader.scans.allow(float("inf"))
        two = reader.watch(after=100)  # a scan of its own: the first has passed it
        await settled()
        await breakable_log.up()

        assert await one.sees(1499) == list(range(1500))
        assert await two.sees(1499) == list(range(101, 1500))


async def test_scan_that_cannot_begin_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "_RETRY_SECONDS", 0.01)
    log = MemoryLog()
    await log.write(*facts(*range(10)))
    async with reading(log) as reader:
        await log.down()
        watcher = reader.watch(after=-1)

        async def tried() -> bool:
            return reader.counted[0] >= 3

        await until(tried)
        assert watcher.wire.written == []
        await log.up()

        assert await watcher.sees(9) == list(range(10))


async def test_viewer_past_the_bound_is_closed_with_its_cursor() -> None:
    log = MemoryLog()
    await log.write(*facts(*range(1000)))
    async with reading(log, replay_max_bytes=100_000) as reader:
        far, near = reader.watch(after=4), reader.watch(after=950)
        assert await near.sees(999) == list(range(951, 1000))

        [(code, reason)] = far.wire.closes
        assert code == 4008
        assert orjson.loads(reason) == {"cursor": far.begin}
        assert far.wire.written == []
        assert near.wire.closes == []


async def test_retries_within_a_scan_are_dropped() -> None:
    log = MemoryLog()
    records = facts(*range(600))
    other = facts(7, project="p2")[0]._replace(headers=records[7].headers)
    again = [records[n]._replace(timestamp=MINUTES_AGO + 5000) for n in (3, 3, 598)]
    await log.write(*records, *again, other, *facts(600))
    async with reading(log) as reader:
        watcher, beside = reader.watch(after=-1), reader.watch(P2, after=-1)

        assert await watcher.sees(600) == list(range(601))
        assert await beside.sees(7) == [7]


async def test_scan_is_bounded_in_bytes_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "_BYTES_PER_SECOND", 1)
    log = MemoryLog()
    await log.write(*facts(*range(1500)))
    async with reading(log) as reader:
        reader.watch(after=-1)
        await reader.scans.until(reads=1)
        for _ in range(10):
            await settled()

        assert reader.scans.reads == 1


async def test_scan_ends_with_its_last_viewer() -> None:
    log = MemoryLog()
    await log.write(*facts(*range(2000)))
    async with reading(log) as reader:
        reader.scans.allow(1)
        watcher = reader.watch(after=-1)
        await reader.scans.until(reads=1)
        watcher.viewer.left = True
        reader.hub.leave(watcher.viewer)
        reader.scans.allow(float("inf"))
        await reader.scans.until_closed()

        assert reader.scans.reads <= 2


async def test_full_socket_holds_nobody_up_and_is_served_when_it_drains(log: Log) -> None:
    await log.write(*facts(*range(1500), size=1000))
    async with reading(log) as reader:
        slow, other = reader.watch(after=-1), reader.watch(after=-1)
        reader.scans.allow(1)
        await reader.scans.until(reads=1)
        slow.wire.waiting = 100_001
        reader.scans.allow(float("inf"))
        assert await other.sees(1499) == list(range(1500))
        assert len(slow.seen()) < 1500
        slow.wire.waiting = 0
        for viewer in slow.wire.session.waiting:
            reader.resume(viewer)

        assert await slow.sees(1499) == list(range(1500))

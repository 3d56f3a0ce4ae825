import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import orjson
import pytest
from edge_harness import WAIT_SECONDS, make_event, numbers, record_of
from memory_node import Wire, settled

from tailrace.edge.backlog import Backlog
from tailrace.edge.channel import ChannelKey, Viewer
from tailrace.edge.dialect import Dialect
from tailrace.edge.hub import Hub, Log
from tailrace.edge.metrics import DeliveryHistogram
from tailrace.edge.pump import Pump
from tailrace.edge.session import Subscription
from tailrace.schemas import Event, Position, format_cursor

HALF_A_SECOND = ChannelKey("p1", None, window_ms=500)
AT_ONCE = ChannelKey("p1", None, window_ms=0)
OTHER = ChannelKey("p2", None, window_ms=0)
ENTERED = "ingest.job.created"


class Stage:
    """A hub and its pump, on records that a test publishes."""

    def __init__(self, *, journal: int = 1 << 26, max_pending: int = 1 << 26) -> None:
        self.hub = Hub(journal_max_bytes=journal, skip=lambda *_: None)
        self.hub.begin(Log(7, 1), {0: (-1, -1)})
        self.backlog = Backlog(self.hub)
        self.delivery = DeliveryHistogram()
        self.pump = Pump(self.hub, self.backlog, self.delivery, max_pending=max_pending)
        self.lost: list[Viewer] = []
        self.task: asyncio.Task[None] | None = None
        self._offset = -1

    async def publish(self, *events: Event) -> None:
        records = [record_of(event, self._offset + n) for n, event in enumerate(events, 1)]
        self._offset += len(records)
        self.hub.publish(0, records, asyncio.get_running_loop().time())
        await self.pump.published()

    def watch(self, wire: Wire, key: ChannelKey) -> Subscription:
        """Let a viewer be live from now on."""
        viewer = self.enter(wire, key)
        viewer.arrive()
        return viewer

    def enter(self, wire: Wire, key: ChannelKey, *, after: int | None = None) -> Subscription:
        """Count a viewer who begins after an offset, at the channel's cursor if that is None."""
        channel = self.hub.open(key, 0, asyncio.get_running_loop().time())
        begin = channel.cursor if after is None else self._at(after)
        viewer = Subscription(wire.session, Dialect.V1, channel, begin)
        self.hub.enter(viewer)
        return viewer

    def _at(self, offset: int) -> Position:
        return self.hub.log.position(0, offset, 1000 + offset if offset >= 0 else -1)

    def watchers(self, count: int, key: ChannelKey) -> list[Wire]:
        wires = [Wire() for _ in range(count)]
        for wire in wires:
            self.watch(wire, key)
        return wires

    async def stop(self) -> None:
        """End the pump wherever it is."""
        assert self.task is not None, "running"
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def pumping(**how: int) -> AsyncIterator[Stage]:
    stage = Stage(**how)
    stage.task = asyncio.create_task(stage.pump.run(stage.lost.append))
    try:
        yield stage
    finally:
        await stage.stop()


def batches(wire: Wire) -> list[dict[str, Any]]:
    """Return what was written; the chain of cursors is whole."""
    found = [orjson.loads(frame[frame.index(b"{") :]) for frame in wire.written]
    for before, after in pairwise(found):
        assert after["prev"] == before["cursor"]
    return found


def seen(wire: Wire) -> list[list[int]]:
    """Return the numbers in each frame."""
    return [numbers(batch["events"]) for batch in batches(wire)]


def flat(wire: Wire) -> list[int]:
    return [n for frame in seen(wire) for n in frame]


async def written(wire: Wire, frames: int) -> None:
    """Wait until so many frames were written."""
    async with asyncio.timeout(WAIT_SECONDS):
        while len(wire.written) < frames:
            wire.written_to.clear()
            await wire.written_to.wait()


async def after_a_yield(wires: list[Wire]) -> int:
    """Return how many have a frame in the first moment in which some but not all have."""
    for _ in range(100):
        count = sum(bool(wire.written) for wire in wires)
        if 0 < count < len(wires):
            return count
        await asyncio.sleep(0)
    raise AssertionError("it never yields")


async def test_fact_leaves_at_once_and_takes_the_states_before_it_along() -> None:
    async with pumping() as stage:
        [wire] = stage.watchers(1, HALF_A_SECOND)
        await stage.publish(make_event(n=1))
        await settled()
        await stage.publish(make_event(n=2))
        await stage.publish(make_event(type=ENTERED, n=3))
        await settled()

        assert seen(wire) == [[1], [2, 3]]


async def test_state_after_silence_leaves_at_once_and_the_next_after_its_window() -> None:
    async with pumping() as stage:
        [wire] = stage.watchers(1, HALF_A_SECOND)
        await stage.publish(make_event(n=1))
        await settled()
        begun = asyncio.get_running_loop().time()
        assert seen(wire) == [[1]]
        await stage.publish(make_event(n=2))
        await stage.publish(make_event(n=3))
        await settled()
        assert seen(wire) == [[1]]

        await written(wire, 2)

        assert asyncio.get_running_loop().time() > begun + 0.4
        assert seen(wire) == [[1], [3]]
        assert [batch["skipped"] for batch in batches(wire)] == [0, 1]


async def test_what_queues_up_during_a_broadcast_leaves_as_one_frame() -> None:
    async with pumping() as stage:
        wires = stage.watchers(600, AT_ONCE)
        await stage.publish(make_event(type=ENTERED, n=1))
        await after_a_yield(wires)
        for n in (2, 3, 4):
            await stage.publish(make_event(type=ENTERED, n=n))
        await written(wires[-1], 2)
        await settled()

        assert [seen(wire) for wire in wires] == [[[1], [2, 3, 4]]] * 600
        assert len({id(wire.written[1]) for wire in wires}) == 1
        assert stage.hub.counts.frames == 1200
        assert stage.hub.counts.deliveries == 2400
        assert stage.hub.counts.rendered == 4


async def test_who_comes_during_a_broadcast_begins_after_it() -> None:
    async with pumping() as stage:
        wires = stage.watchers(600, AT_ONCE)
        await stage.publish(make_event(type=ENTERED, n=1))
        await after_a_yield(wires)
        [late] = stage.watchers(1, AT_ONCE)
        await settled()
        await stage.publish(make_event(type=ENTERED, n=2))
        await settled()

        assert seen(late) == [[2]]
        assert batches(late)[0]["prev"] == batches(wires[0])[0]["cursor"]


async def test_who_leaves_during_a_broadcast_is_not_written_to() -> None:
    async with pumping() as stage:
        wires = stage.watchers(599, AT_ONCE)
        wire = Wire()
        viewer = stage.watch(wire, AT_ONCE)
        await stage.publish(make_event(type=ENTERED, n=1))
        await after_a_yield(wires)
        viewer.left = True
        stage.hub.leave(viewer)
        await settled()

        assert wire.written == []
        assert stage.hub.counts.frames == 599


async def test_stopping_finishes_the_broadcast_and_the_pump_may_run_again() -> None:
    async with pumping() as stage:
        wires = stage.watchers(600, AT_ONCE)
        await stage.publish(*(make_event(type=ENTERED, n=n, data=_big(n)) for n in range(4)))
        await after_a_yield(wires)
        stage.pump.stop()
        assert stage.task is not None
        await stage.task
        assert [flat(wire) for wire in wires] == [[0, 1, 2, 3]] * 600

        stage.task = asyncio.create_task(stage.pump.run(stage.lost.append))
        await stage.publish(make_event(type=ENTERED, n=4))
        await written(wires[-1], 5)

        assert [flat(wire) for wire in wires] == [[0, 1, 2, 3, 4]] * 600


def _big(n: int) -> str:
    return f'{{"job":{{"n":{n},"x":"{"x" * 200_000}"}}}}'


async def test_full_socket_delays_nobody_and_gets_the_range_it_missed_when_it_drains() -> None:
    async with pumping() as stage:
        slow, other = stage.watchers(2, AT_ONCE)
        await stage.publish(make_event(n=0))
        await settled()
        slow.waiting = 100_001
        for n in range(1, 11):
            await stage.publish(make_event(n=n))
            await settled()
        assert seen(other) == [[n] for n in range(11)]
        assert seen(slow) == [[0]]
        assert stage.hub.lagging() == 1

        slow.waiting = 0
        for viewer in slow.session.waiting:
            stage.backlog.add(viewer)
        stage.pump.wake()
        await settled()

        assert seen(slow) == [[0], [10]]
        assert batches(slow)[1]["skipped"] == 9
        assert stage.hub.lagging() == 0
        await stage.publish(make_event(n=11))
        await settled()
        assert seen(slow)[-1] == seen(other)[-1] == [11]


async def test_socket_up_to_its_bound_is_written_to() -> None:
    async with pumping() as stage:
        [wire] = stage.watchers(1, AT_ONCE)
        wire.waiting = 100_000
        await stage.publish(make_event(n=1))
        await settled()

        assert seen(wire) == [[1]]


@pytest.mark.parametrize("error", [RuntimeError("closed"), ConnectionResetError()])
async def test_viewer_lost_while_writing_counts_for_nothing(error: Exception) -> None:
    async with pumping() as stage:
        lost, other = stage.watchers(2, AT_ONCE)
        lost.broken = error
        await stage.publish(make_event(n=1))
        await settled()

        assert not lost.session.open
        assert lost.closes == []
        assert seen(other) == [[1]]
        assert (stage.hub.counts.frames, stage.hub.counts.deliveries) == (1, 1)


async def test_too_much_pending_holds_the_next_records_up_until_it_is_flushed() -> None:
    async with pumping(max_pending=5000) as stage:
        [wire] = stage.watchers(1, HALF_A_SECOND)
        await stage.publish(make_event(n=0))
        await settled()
        padding = "x" * 6000
        data = f'{{"job":{{"n":1,"x":"{padding}"}}}}'
        publishing = asyncio.create_task(stage.publish(make_event(n=1, data=data)))
        await settled()
        assert not publishing.done()
        assert stage.hub.pending > 5000

        await publishing

        assert stage.hub.pending == 0
        await settled()
        assert seen(wire) == [[0], [1]]
        await stage.publish(make_event(n=2))


async def test_long_catchup_takes_turns_with_live_events() -> None:
    async with pumping() as stage:
        every = ChannelKey("p1", None, every=True)
        await stage.publish(*(make_event(n=n) for n in range(5000)))
        [live] = stage.watchers(1, OTHER)
        behind = Wire()
        stage.backlog.add(stage.enter(behind, every, after=-1))
        stage.pump.wake()
        await written(behind, 1)
        assert len(flat(behind)) < 5000
        await stage.publish(make_event("p2", ENTERED, n=1))
        await written(live, 1)
        so_far = len(flat(behind))
        await settled()

        assert so_far < 5000
        assert flat(behind) == list(range(5000))
        assert batches(behind)[-1]["cursor"] == format_cursor(stage.hub.at(0, 4999))


async def test_who_is_behind_the_journal_is_handed_to_the_replay() -> None:
    async with pumping(journal=1 << 16) as stage:
        await stage.publish(*(make_event(n=n) for n in range(1000)))
        wire = Wire()
        viewer = stage.enter(wire, AT_ONCE, after=3)
        stage.backlog.add(viewer)
        stage.pump.wake()
        await settled()

        assert stage.lost == [viewer]
        assert wire.written == []


async def test_who_is_ahead_goes_on_when_the_log_has_come_there() -> None:
    async with pumping() as stage:
        await stage.publish(make_event(n=0))
        wire, live = Wire(), Wire()
        stage.watch(live, AT_ONCE)
        stage.backlog.add(stage.enter(wire, AT_ONCE, after=2))
        stage.pump.wake()
        await settled()
        for n in range(1, 5):
            await stage.publish(make_event(type=ENTERED, n=n))
            await settled()

        assert seen(live) == [[1], [2], [3], [4]]
        assert seen(wire) == [[3], [4]]

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
from edge_harness import MemoryEdge, channel_url, make_event, many, memory_edge, numbers, record_of

from tailrace.edge.channel import ChannelKey
from tailrace.edge.hub import Broadcast
from tailrace.edge.node import Node
from tailrace.edge.session import Session
from tailrace.edge.settings import EdgeSettings

JOB = channel_url("p1", "ingest", "j1")
KEY = ChannelKey("p1", None)


class Wire:
    """A viewer's socket in memory.

    Args:
        waiting: Bytes that wait in it from the beginning.
        broken: What writing raises.
    """

    def __init__(self, waiting: int = 0, broken: Exception | None = None) -> None:
        self.written: list[bytes] = []
        self.closes: list[tuple[int, bytes]] = []
        self.waiting = waiting
        self.broken = broken
        self.session = Session(self._write, lambda: self.waiting, self._close)

    def _write(self, frame: bytes) -> None:
        if self.broken is not None:
            raise self.broken
        self.written.append(frame)

    def _close(self, code: int, reason: bytes) -> None:
        self.closes.append((code, reason))


@pytest.fixture
def node() -> Node:
    return Node(EdgeSettings(session_buffer_bytes=100_000, max_connections=2, drain_seconds=5.0))


def _broadcast(*wires: Wire, prev: str = "cursor") -> Broadcast:
    return Broadcast(b"frames", tuple(wire.session for wire in wires), prev, (1, 2, 3))


async def test_every_open_viewer_is_written_the_same_bytes(node: Node) -> None:
    wires = [Wire() for _ in range(600)]  # more than one turn of the loop

    await node._broadcast(_broadcast(*wires))

    assert [wire.written for wire in wires] == [[b"frames"]] * 600
    assert node.metrics.frames == 600
    assert node.metrics.deliveries == 1800


async def test_broadcast_lets_others_run_between_its_writes(node: Node) -> None:
    wires = [Wire() for _ in range(600)]
    seen = []

    async def other() -> None:
        seen.append(sum(len(wire.written) for wire in wires))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(node._broadcast(_broadcast(*wires)))
        tasks.create_task(other())

    assert 0 < seen[0] < 600


async def test_viewer_up_to_its_bound_is_written_to(node: Node) -> None:
    wire = Wire(waiting=100_000)

    await node._broadcast(_broadcast(wire))

    assert (wire.written, wire.closes) == ([b"frames"], [])


async def test_viewer_past_its_bound_is_closed_with_its_cursor_and_not_written_to(
    node: Node,
) -> None:
    slow, other = Wire(waiting=100_001), Wire()

    await node._broadcast(_broadcast(slow, other))
    await node._broadcast(_broadcast(slow, other, prev="later"))

    assert slow.written == []
    assert slow.closes == [(4008, b'{"cursor":"cursor"}')]
    assert other.written == [b"frames", b"frames"]
    assert node.metrics.frames == 2


@pytest.mark.parametrize(
    "error", [RuntimeError("closed"), ConnectionResetError(), BrokenPipeError()]
)
async def test_viewer_lost_while_writing_counts_as_closed(node: Node, error: Exception) -> None:
    lost, other = Wire(broken=error), Wire()

    await node._broadcast(_broadcast(lost, other))

    assert not lost.session.open
    assert lost.closes == []
    assert other.written == [b"frames"]
    assert node.metrics.frames == 1


async def test_viewer_closed_before_the_broadcast_is_left_out(node: Node) -> None:
    wire = Wire()
    wire.session.close(1012)

    await node._broadcast(_broadcast(wire))

    assert wire.written == []
    assert node.metrics.deliveries == 0


def test_node_is_full_at_its_bound_and_has_room_again(node: Node) -> None:
    assert not node.full
    node.join(KEY, Wire().session)
    assert not node.full
    leave = node.join(KEY, Wire().session)
    assert node.full

    leave()

    assert not node.full


def test_leaving_closes_nothing_and_forgets_the_viewer(node: Node) -> None:
    wire = Wire()

    node.join(KEY, wire.session)()

    assert not wire.session.open
    assert wire.closes == []
    assert len(node.hub) == 0
    assert node._sessions == set()


def test_drain_tells_all_and_takes_no_more(node: Node) -> None:
    wire = Wire()
    node.join(KEY, wire.session)
    assert not node.full

    node.drain()

    assert node.full
    [(code, reason)] = wire.closes
    assert code == 1012
    assert 0 <= orjson.loads(reason)["retry_after_ms"] <= 5000


async def test_not_ready_before_the_consumer_and_while_draining(node: Node) -> None:
    assert await node.not_ready() == "waiting for kafka"
    node.drain()
    assert await node.not_ready() == "draining"


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    async with memory_edge() as edge:
        yield edge


async def test_run_delivers_what_is_consumed_in_order(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        for first in range(0, 100, 10):
            edge.consumer.put(*(record_of(make_event(n=n), n) for n in range(first, first + 10)))

        assert numbers(await viewer.events(100)) == list(range(100))


async def test_viewers_of_one_channel_share_one_rendering(edge: MemoryEdge) -> None:
    async with many(edge, JOB, 20) as viewers:
        edge.consumer.put(record_of(make_event()))

        texts = [await viewer.text() for viewer in viewers]
        metrics = await edge.metrics()

    assert len(set(texts)) == 1
    assert metrics["tailrace_records_decoded_total"] == 1
    assert metrics["tailrace_frames_total"] == 20
    assert metrics["tailrace_deliveries_total"] == 20
    assert metrics["tailrace_delivery_seconds_count"] == 20

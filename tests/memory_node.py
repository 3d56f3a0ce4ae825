"""Nodes on a topic in memory, and what can be done to them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from edge_harness import Edge, MemoryEdge, make_event, record_of, serve_node
from memory_topic import MemoryConsumer, MemoryScan, MemoryTopic, StubRecord

from tailrace.edge import node as node_module
from tailrace.edge.consumer import Fetch, TopicChangedError
from tailrace.edge.session import Session
from tailrace.edge.settings import EdgeSettings
from tailrace.schemas import Event

__all__ = [
    "HeldConsumer",
    "TopicEdge",
    "Wire",
    "edge_on",
    "old",
    "padded",
    "recent",
    "settled",
    "waiting_for_kafka",
]


def recent(*events: Event) -> list[StubRecord]:
    """Return records of just now, which a node reads back at its start."""
    now = int(time.time() * 1000)
    return [record_of(event)._replace(timestamp=now + n) for n, event in enumerate(events)]


def old(*events: Event) -> list[StubRecord]:
    """Return records of long ago, which a node does not read back."""
    return [record_of(event)._replace(timestamp=1000 + n) for n, event in enumerate(events)]


def padded(n: int, size: int = 10_000, **how: Any) -> Event:
    """Return a fact of about this many bytes."""
    data = f'{{"job":{{"n":{n},"x":"{"x" * size}"}}}}'
    return make_event(n=n, data=data, **{"type": "ingest.job.created", **how})


MakeConsumer = Callable[..., MemoryConsumer]


class TopicEdge(MemoryEdge):
    """An edge on a `MemoryTopic`.

    Args:
        edge: Served.
        topic: What it reads.
        make: Makes the consumer of each incarnation of the topic; it may be exchanged.
    """

    def __init__(self, edge: Edge, topic: MemoryTopic, make: MakeConsumer) -> None:
        super().__init__(edge, MemoryConsumer(topic))
        self.make = make

    @property
    def held(self) -> "HeldConsumer":
        """The consumer, if it is one that may be held."""
        assert isinstance(self.consumer, HeldConsumer)
        return self.consumer


class HeldConsumer(MemoryConsumer):
    """A consumer that reads nothing while it is held, may be told that the topic changed, and
    counts what it is asked.
    """

    held = False
    change: TopicChangedError | None = None
    questions = 0

    def __init__(self, log: MemoryTopic, **how: Any) -> None:
        super().__init__(log, **how)
        self.scanned: list[int] = []
        """The offset at which each scan began."""
        self.scanning = asyncio.Event()
        """Scans wait while it is not set."""
        self.scanning.set()

    async def earliest(self, partition: int) -> int:
        self.questions += 1
        return await super().earliest(partition)

    async def reaches(self, partition: int, end: int) -> bool:
        self.questions += 1
        return await super().reaches(partition, end)

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        self.questions += 1
        return await super().offset_at(partition, timestamp_ms)

    @asynccontextmanager
    async def scan(self, partition: int, offset: int) -> AsyncIterator[MemoryScan]:
        self.scanned.append(offset)
        async with super().scan(partition, offset) as scan:
            await self.scanning.wait()
            yield scan

    @classmethod
    def holding(cls, log: MemoryTopic, **how: Any) -> "HeldConsumer":
        """Return one that is held from the beginning."""
        made = cls(log, **how)
        made.hold()
        return made

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False
        self.log.happen()

    @property
    def warm(self) -> bool:
        return super().warm and not self.held

    async def poll(self, timeout: float) -> Mapping[int, Sequence[StubRecord]]:  # noqa: ASYNC109
        if self.change is not None:
            change, self.change = self.change, None
            raise change
        return await super().poll(timeout)

    def _fetch(self) -> dict[int, list[StubRecord]]:
        return {} if self.held else super()._fetch()


async def settled() -> None:
    """Let everything run that does not wait for time or for a socket."""
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def edge_on(
    topic: MemoryTopic, make: MakeConsumer = MemoryConsumer, **settings: Any
) -> AsyncIterator[TopicEdge]:
    """Serve a node on a topic; ready when the block begins."""
    async with waiting_for_kafka(topic, make, **settings) as edge:
        await edge.ready()
        yield edge


@asynccontextmanager
async def waiting_for_kafka(
    topic: MemoryTopic, make: MakeConsumer = MemoryConsumer, **settings: Any
) -> AsyncIterator[TopicEdge]:
    """Serve a node on a topic, which may not be there yet."""
    edge: TopicEdge

    def consumer(*, warm_up_records: int, fetch: Fetch, **_: str) -> MemoryConsumer:
        edge.consumer = edge.make(topic, fetch=fetch, warm_up_records=warm_up_records)
        return edge.consumer

    with mock.patch.object(node_module, "Consumer", consumer):
        told = EdgeSettings(port=0, **{"drain_seconds": 0, **settings})
        async with serve_node(told) as served:  # the node runs with the first await
            edge = TopicEdge(served, topic, make)
            yield edge


class Wire:
    """A viewer's socket in memory."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closes: list[tuple[int, bytes]] = []
        self.waiting = 0
        """Bytes that wait in it."""
        self.broken: Exception | None = None
        """What writing raises."""
        self.written_to = asyncio.Event()
        self.session = Session(self._write, lambda: self.waiting, self._close, max_buffered=100_000)

    def _write(self, frame: bytes) -> None:
        if self.broken is not None:
            raise self.broken
        self.written.append(frame)
        self.written_to.set()

    def _close(self, code: int, reason: bytes) -> None:
        self.closes.append((code, reason))

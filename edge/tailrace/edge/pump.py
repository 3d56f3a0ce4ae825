"""The pump: the one loop that writes to live viewers, and in turn serves those who are behind."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from tailrace.edge.backlog import Backlog
from tailrace.edge.channel import Channel, Viewer
from tailrace.edge.chunk import Chunk
from tailrace.edge.dialect import Dialect, frame_of
from tailrace.edge.direct import broadcast
from tailrace.edge.hub import Hub
from tailrace.edge.metrics import DeliveryHistogram
from tailrace.schemas import Position

__all__ = ["Pump"]

_YIELD_EVERY = 256
"""Writes between two turns of the loop: about 2 ms of sends."""
_TOGETHER = 16
"""Channels whose frames are made before the first of them is written: the code that makes them and
the kernel's that sends them push each other out of the processor's caches."""
_TURN_RECORDS = 500
"""Records that a pass over the journal looks at in one turn: about 1 ms."""


_Addressed: TypeAlias = tuple[bytes, Sequence[Viewer]]
"""A frame, empty where there is nothing to say, and whom it is for."""


class Pump:
    """Flushes what is due, then gives the backlog a turn, then waits for either.

    What is published while it broadcasts leaves with the next flush, as one frame.

    Args:
        hub: Whose channels.
        backlog: Whose viewers.
        delivery: Told how long each live event took.
        max_pending: Bytes pending in channels at which `published` waits.
    """

    def __init__(
        self, hub: Hub, backlog: Backlog, delivery: DeliveryHistogram, *, max_pending: int
    ) -> None:
        self._hub = hub
        self._backlog = backlog
        self._delivery = delivery
        self._max_pending = max_pending
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._writes = 0
        self._stopped = False

    def wake(self) -> None:
        """Look again at what is due or behind."""
        self._wake.set()

    def stop(self) -> None:
        """Make `run` return when all that was due is written.

        Do not cancel it where viewers are to be served on: they count as served already with what
        is being written.
        """
        self._stopped = True
        self._wake.set()

    async def published(self) -> None:
        """Note that something was published; wait while too much is pending."""
        self._wake.set()
        while self._hub.pending > self._max_pending:
            self._room.clear()
            await self._room.wait()

    async def run(self, replay: Callable[[Viewer], None]) -> None:
        """Pump until stopped.

        Args:
            replay: Takes viewers whom the journal cannot serve.
        """
        loop = asyncio.get_running_loop()
        while not self._stopped:
            self._wake.clear()
            await self._flush_due(loop.time())
            self._room.set()
            if self._backlog:
                self._take_turn(replay)
                await asyncio.sleep(0)
            else:
                await self._wait(loop)
        self._stopped = False

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until something is published, falls due or is behind."""
        deadline = self._hub.next_deadline()
        if deadline is None:
            await self._wake.wait()
            return
        timer = loop.call_at(deadline, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    # Functions of their own, so that an idle `run` keeps no channel and no viewer alive.

    async def _flush_due(self, now: float) -> None:
        due = self._hub.due(now)
        for start in range(0, len(due), _TOGETHER):
            for ready in [self._flush(channel) for channel in due[start : start + _TOGETHER]]:
                for chunk, frames in ready:
                    await self._broadcast(chunk, frames)

    def _take_turn(self, replay: Callable[[Viewer], None]) -> None:
        for viewer in self._backlog.turn(_TURN_RECORDS):
            replay(viewer)

    def _flush(self, channel: Channel) -> Sequence[tuple[Chunk, Sequence[_Addressed]]]:
        """Flush a channel; return its chunks with the frames for whoever is live now.

        Whoever comes later starts after them.
        """
        audience = [(dialect, tuple(v)) for dialect, v in channel.live.items() if v]
        chunks = self._hub.flush(channel)
        for viewer in channel.parked:
            self._backlog.add(viewer)
        channel.parked.clear()
        return [(chunk, [_addressed(chunk, *each) for each in audience]) for chunk in chunks]

    async def _broadcast(self, chunk: Chunk, frames: Sequence[_Addressed]) -> None:
        """Write to every viewer without waiting for any of them."""
        written = 0
        for frame, viewers in frames:
            for start in range(0, len(viewers) if frame else 0, _YIELD_EVERY):
                some = viewers[start : start + _YIELD_EVERY]
                written += self._write(some, frame, chunk.prev)
                self._writes += len(some)
                if self._writes >= _YIELD_EVERY:
                    self._writes = 0
                    await asyncio.sleep(0)
        self._count(chunk, written)

    def _write(self, viewers: Sequence[Viewer], frame: bytes, prev: Position) -> int:
        """Write a frame to those who are still live; return to how many.

        Whose socket is full is served from `prev` on when it has drained.
        """
        written, full = broadcast(viewers, frame)
        for viewer in full:
            self._hub.counts.overrun += 1
            self._hub.fall_behind(viewer, prev)
            viewer.wait_for_room()
        return written

    def _count(self, chunk: Chunk, written: int) -> None:
        counts = self._hub.counts
        counts.frames += written
        counts.deliveries += written * len(chunk.events)
        now = time.time()
        for event in chunk.events:
            self._delivery.observe(max(0.0, now - event.occurred_at / 1e6), written)


def _addressed(chunk: Chunk, dialect: Dialect, viewers: Sequence[Viewer]) -> _Addressed:
    return frame_of(chunk, dialect.for_takers(len(viewers))), viewers

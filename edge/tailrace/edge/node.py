"""An edge node: one loop that consumes, flushes and broadcasts, and the sessions it serves."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import structlog

from tailrace.edge.channel import ChannelKey
from tailrace.edge.consumer import Consumer
from tailrace.edge.hub import Broadcast, Hub, Record
from tailrace.edge.metrics import Metrics
from tailrace.edge.protocol import CloseCode, close_reason
from tailrace.edge.session import Session
from tailrace.edge.settings import EdgeSettings
from tailrace.edge.skips import Skips

__all__ = ["Node"]

_log = structlog.get_logger(__name__)
_POLL_SECONDS = 1.0
_YIELD_EVERY = 256
"""Writes between two turns of the loop: about 2 ms of sends."""


class Node:
    """Everything of an edge process but its HTTP surface.

    Run `run` as a task that somebody awaits; `drain` tells the viewers to go elsewhere.
    """

    def __init__(self, settings: EdgeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.draining = False
        self._sessions: set[Session] = set()
        self._consumer: Consumer | None = None
        self.hub = Hub(
            skip=Skips(topic=settings.topic, counts=self.metrics.skipped, clock=time.monotonic)
        )

    async def run(self) -> None:
        """Consume and broadcast until cancelled. Waits as long as Kafka is not there."""
        async with AsyncExitStack() as stack:
            consumer = await stack.enter_async_context(
                Consumer(
                    bootstrap_servers=self.settings.bootstrap_servers, topic=self.settings.topic
                )
            )
            self._consumer = consumer
            stack.callback(self._forget_consumer)
            while True:
                await self._deliver(await consumer.poll(_POLL_SECONDS), consumer.partitions)

    def _forget_consumer(self) -> None:
        self._consumer = None

    async def _deliver(self, fetched: Mapping[int, Sequence[Record]], partitions: int) -> None:
        """Publish and broadcast; a call of its own, so that an idle node keeps nothing of it."""
        for partition, records in fetched.items():
            self.hub.publish(partition, records)
        for broadcast in self.hub.flush(partitions):
            await self._broadcast(broadcast)

    async def _broadcast(self, broadcast: Broadcast) -> None:
        """Write to every viewer without waiting for any of them."""
        written = 0
        for index, session in enumerate(broadcast.sessions, 1):
            if session.open:
                written += self._write(session, broadcast)
            if index % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        self._count(broadcast, written)

    def _write(self, session: Session, broadcast: Broadcast) -> bool:
        if session.buffered() > self.settings.session_buffer_bytes:
            session.close(CloseCode.TOO_SLOW, close_reason({"cursor": broadcast.prev}))
            return False
        try:
            session.write(broadcast.frames)
        except (RuntimeError, OSError):  # lost abruptly; its handler is about to end
            session.open = False
            return False
        return True

    def _count(self, broadcast: Broadcast, written: int) -> None:
        self.metrics.frames += written
        self.metrics.deliveries += written * len(broadcast.occurred_at)
        now = time.time()
        for occurred_at in broadcast.occurred_at:
            self.metrics.delivery.observe(max(0.0, now - occurred_at / 1e6), written)

    def join(self, key: ChannelKey, session: Session) -> Callable[[], None]:
        """Make `session` a viewer of a channel; call what is returned when it is gone."""
        self._sessions.add(session)
        self.hub.subscribe(key, session)

        def leave() -> None:
            session.open = False
            self._sessions.discard(session)
            self.hub.unsubscribe(key, session)

        return leave

    @property
    def full(self) -> bool:
        """Whether a further viewer is refused."""
        return self.draining or len(self._sessions) >= self.settings.max_connections

    def drain(self) -> None:
        """Take no new viewers and tell those here to reconnect, spread over the grace time."""
        self.draining = True
        spread_ms = int(self.settings.drain_seconds * 1000)
        for session in tuple(self._sessions):
            after = {"retry_after_ms": random.randint(0, spread_ms)}  # noqa: S311
            session.close(CloseCode.DRAIN, close_reason(after))

    async def not_ready(self) -> str | None:
        """Return why the node is not ready to serve; None when it is."""
        if self.draining:
            return "draining"
        if self._consumer is None:
            return "waiting for kafka"
        lags = await self._consumer.lags(time.time())
        worst = max((lag.records for lag in lags.values()), default=0)
        if worst > self.settings.ready_lag_records:
            return f"a partition lags by {worst} records"
        return None

    async def render_metrics(self) -> bytes:
        """Return the metrics as Prometheus text."""
        lags = {} if self._consumer is None else await self._consumer.lags(time.time())
        return self.metrics.render(
            channels=len(self.hub),
            records=self.hub.counts.records,
            decoded=self.hub.counts.decoded,
            lags=lags,
        )

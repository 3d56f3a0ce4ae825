"""An edge node: what it reads of the log, whom it serves, and the loops between."""

import asyncio
import random
import secrets
import socket
import time
from collections.abc import Callable, MutableMapping

import structlog
from aiokafka.partitioner import murmur2

from tailrace.edge.backlog import Backlog
from tailrace.edge.channel import Channel, ChannelKey, Viewer
from tailrace.edge.consumer import ECONOMICAL, LOW_LATENCY, Consumer, TopicChangedError
from tailrace.edge.dialect import Break
from tailrace.edge.garbage import settle
from tailrace.edge.handshakes import Handshakes
from tailrace.edge.hub import Hub, Log
from tailrace.edge.locate import Locator, Start
from tailrace.edge.metrics import Metrics
from tailrace.edge.protocol import Gap
from tailrace.edge.pump import Pump
from tailrace.edge.replay import Replay
from tailrace.edge.request import StreamRequest
from tailrace.edge.roster import Roster
from tailrace.edge.session import Subscription
from tailrace.edge.settings import EdgeSettings
from tailrace.edge.skips import Skips
from tailrace.schemas import Position, UnavailableError

__all__ = ["Node"]

_log = structlog.get_logger(__name__)
_FETCHES = {"low-latency": LOW_LATENCY, "economical": ECONOMICAL}
_POLL_SECONDS = 1.0
_READY_SECONDS = 30.0
_PENDING_BYTES = 64 << 20
"""More waits in no node: until it is flushed, nothing further is consumed."""
_RECORD_BYTES = 1 << 10
"""What a record takes in the journal at least: more than fit into it are not read at start."""
_RETRY_SECONDS = 1.0
_SETTLE_EVERY = 2_000
"""Records, which stay in the journal."""


def _graver(untold: Gap | None, gap: Gap) -> Gap:
    """Return what the viewers are to be told who have not been told of the change before.

    After a reset their positions mean nothing, after a repartitioning they are in other partitions.
    """
    gravity = (Gap.RETENTION, Gap.REPARTITIONED, Gap.RESET)
    return max(gap, untold or gap, key=gravity.index)


class Node:
    """Everything of an edge process but its HTTP surface.

    Run `run` as a task that somebody awaits; `drain` sends the viewers elsewhere.
    """

    def __init__(self, settings: EdgeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.draining = False
        self.name = f"{socket.gethostname()}-{secrets.token_hex(3)}"
        """What `hello` says, fit for a log line."""
        self.handshakes = Handshakes(settings.handshake_seconds)
        self.roster = Roster(settings.heartbeat_ms / 1000)
        self.hub = Hub(
            journal_max_bytes=settings.journal_max_bytes,
            skip=Skips(topic=settings.topic, counts=self.metrics.skipped, clock=time.monotonic),
        )
        self.backlog = Backlog(self.hub)
        self.pump = Pump(self.hub, self.backlog, self.metrics.delivery, max_pending=_PENDING_BYTES)
        self._consumer: Consumer | None = None
        self._locator: Locator | None = None
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Consume and serve until cancelled. Waits as long as Kafka is not there."""
        gap: Gap | None = None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.roster.run())
            while True:
                gap = await self._follow(gap)

    async def _follow(self, gap: Gap | None) -> Gap:
        """Serve one incarnation of the topic; return why it ended.

        Args:
            gap: Why the one before ended, which its viewers are told.
        """
        async with Consumer(
            bootstrap_servers=self.settings.bootstrap_servers,
            topic=self.settings.topic,
            fetch=_FETCHES[self.settings.fetch],
            warm_up_records=self.settings.journal_max_bytes // _RECORD_BYTES,
        ) as consumer:
            self._consumer = consumer
            try:
                await self._warm_up(consumer)
            except TopicChangedError as change:
                ended = _graver(gap, Gap(change.reason))
            else:
                ended = await self._serve(consumer, gap)
            finally:
                self._consumer = self._locator = None
                self._ready.clear()
        _log.warning("topic changed", topic=self.settings.topic, reason=ended)
        return ended

    async def _warm_up(self, consumer: Consumer) -> None:
        """Read back the newest part of the log, so that viewers resume from memory."""
        self.backlog.clear()
        self.hub.begin(Log(*consumer.topic), consumer.starts)
        while not consumer.warm:
            for partition, records in (await consumer.poll(_POLL_SECONDS)).items():
                self.hub.remember(partition, records)
            await asyncio.sleep(0)

    async def _serve(self, consumer: Consumer, gap: Gap | None) -> Gap:
        replay_max_bytes = self.settings.replay_max_bytes
        locator = Locator(self.hub, consumer, replay_max_bytes=replay_max_bytes)
        replay = Replay(
            self.hub,
            consumer,
            locator,
            resume=self._catch_up,
            scans=self.metrics.replays,
            gaps=self.metrics.gaps,
        )
        self.hub.attach(self._partition)
        await self._seat(locator, gap)
        settle()
        self._locator = locator
        self._ready.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.pump.run(replay.add))
            running = [tasks.create_task(replay.run()), tasks.create_task(self._beat())]
            try:
                return await self._consume(consumer)
            finally:
                self.pump.stop()
                for task in running:
                    task.cancel()

    async def _consume(self, consumer: Consumer) -> Gap:
        loop = asyncio.get_running_loop()
        settled = self.hub.counts.records
        while True:
            try:
                fetched = await consumer.poll(_POLL_SECONDS)
            except TopicChangedError as change:
                return Gap(change.reason)
            self.hub.counts.fetches += bool(fetched)
            for partition, records in fetched.items():
                self.hub.publish(partition, records, loop.time())
            del fetched  # an idle node keeps nothing of it
            if self.hub.counts.records - settled >= _SETTLE_EVERY:
                settled = self.hub.counts.records
                settle()
            await self.pump.published()

    async def _beat(self) -> None:
        """Move the cursors of idle channels on, so that resuming from them is cheap."""
        period = self.settings.heartbeat_ms / 1000
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(period, self.settings.sse_heartbeat_seconds) / 10)
            self.hub.beat(loop.time(), period, self.settings.sse_heartbeat_seconds)
            self.pump.wake()
            settle()

    # --- viewers ------------------------------------------------------------------------------

    async def subscribe(
        self, request: StreamRequest, make: Callable[[Channel, Position, Start], Viewer]
    ) -> Viewer:
        """Find where a request begins and serve a viewer from there.

        Args:
            request: What it asks for.
            make: Makes the viewer, and announces it, in the same step in which it is subscribed:
                nothing can be delivered before or get lost in between.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        while True:
            locator = await self._located()
            partition = self._partition(request.key.project_id)
            try:
                start = await locator.locate(request, partition)
            except UnavailableError:
                if locator is self._locator:
                    raise
                continue
            if locator is self._locator:  # else the topic has changed meanwhile
                break
        channel = self.hub.open(request.key, partition, asyncio.get_running_loop().time())
        position = start.position or channel.cursor
        viewer = make(channel, position, start)
        self.hub.enter(viewer)
        if request.after is not None:
            self.metrics.resumes[self._outcome(start)] += 1
        if start.gap is not None:
            self.metrics.gaps[start.gap] += 1
        if viewer.gap is None and viewer.position == channel.cursor:
            viewer.arrive()
        else:
            self._catch_up(viewer)
        return viewer

    def unsubscribe(self, viewer: Viewer) -> None:
        """Forget a viewer, who must not be `open` any more."""
        self.hub.leave(viewer)

    def _outcome(self, start: Start) -> str:
        if start.gap is not None:
            return "gap"
        assert start.position is not None, "a resume without a gap begins at its cursor"
        floor = self.hub.journal.floor(start.position.partition)
        return "journal" if start.position.offset >= floor else "replay"

    def _catch_up(self, viewer: Viewer) -> None:
        """Let a viewer who is behind be served."""
        self.backlog.add(viewer)
        self.pump.wake()

    def drained(self, viewers: MutableMapping[Subscription, None]) -> None:
        """Serve on those whose socket has room again, and empty `viewers`."""
        for viewer in viewers:
            self.backlog.add(viewer)
        viewers.clear()
        self.pump.wake()

    async def _located(self) -> Locator:
        """Return what finds starts, as soon as the journal is warm."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while self._locator is None:
                    await self._ready.wait()
        except TimeoutError as exc:
            raise UnavailableError("Kafka is not there: try again later") from exc
        return self._locator

    async def _seat(self, locator: Locator, gap: Gap | None) -> None:
        """Serve the viewers of the log before this one on, and tell them what they miss."""
        if gap is None:
            return
        for channel in self.hub.channels():
            start = await self._after(locator, channel.key, channel.cursor.partition, gap)
            cursor = start or channel.cursor
            for viewer in channel.viewers:
                if gap is not Gap.RETENTION or viewer.position.offset < cursor.offset:
                    viewer.gap = Break(channel.name, viewer.position, cursor, gap)
                    self.metrics.gaps[gap] += 1
                self._catch_up(viewer)

    async def _after(
        self, locator: Locator, key: ChannelKey, partition: int, gap: Gap
    ) -> Position | None:
        while True:
            try:
                return await locator.after_gap(key, partition, gap)
            except UnavailableError as error:
                _log.warning("kafka does not answer", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    def _partition(self, project_id: str) -> int:
        """Return a project's partition, the same as the Java client's."""
        return (int(murmur2(project_id.encode())) & 0x7FFFFFFF) % self.hub.log.partitions

    @property
    def full(self) -> bool:
        """Whether a further viewer is refused."""
        return self.draining or len(self.roster) >= self.settings.max_connections

    async def drain(self) -> None:
        """Take no new viewers and send those here elsewhere, one after the other.

        Takes at most `drain_seconds`, some of which is left for the last ones to say goodbye.
        """
        self.draining = True
        await self.roster.drain(self.settings.drain_seconds, random.Random())  # noqa: S311

    async def not_ready(self) -> str | None:
        """Return why the node is not ready to serve; None when it is."""
        if self.draining:
            return "draining"
        if self._consumer is None:
            return "waiting for kafka"
        if self._locator is None:
            return "reading back the newest records"
        lags = await self._consumer.lags(time.time())
        worst = max((lag.records for lag in lags.values()), default=0)
        if worst > self.settings.ready_lag_records:
            return f"a partition lags by {worst} records"
        return None

    async def render_metrics(self) -> bytes:
        """Return the metrics as Prometheus text."""
        lags = {} if self._consumer is None else await self._consumer.lags(time.time())
        return self.metrics.render(hub=self.hub, lags=lags)

"""Keeps a producer connected and the lanes moving, for as long as there is something to send."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from tailrace.logs import RateLimit
from tailrace.producers.kafka import Producer, RepartitionedError, TopicMissingError
from tailrace.producers.lanes import Lane, Lanes, Outgoing
from tailrace.producers.verdict import Verdict, backoff, is_forbidden, verdict
from tailrace.schemas import UnavailableError

__all__ = ["Uplink", "Work"]

_LOG_PERIOD = 60.0
_QUIET_SECONDS = 0.1
_LIGHT_EVENTS = 100
_CHANGED = (Verdict.SHRINK, Verdict.REDUCE, Verdict.HALVE, Verdict.DROP)
"""The lane's next batch is another one: no reason to wait before it."""

_log = structlog.get_logger("tailrace.producers")


class Work(Protocol):
    """What an uplink asks of its owner. All are called on the uplink's loop and return at once."""

    def refill(self) -> bool:
        """Move what waits into the lanes, as far as there is room; True: more waits and fits."""

    def sleep(self) -> bool:
        """Wake the uplink when more comes; False: it has come since the last refill."""

    def settled(self) -> None:
        """Take note that records have left the lanes."""

    def finished(self) -> bool:
        """Tell whether the uplink may end: closing, and nothing is left to send."""

    def smaller(self, record: Outgoing) -> Outgoing | None:
        """Return the record reduced to its ids; None when that makes it no smaller."""


class Uplink:
    """Connects, sends, and starts over with a new producer whenever one has failed.

    Order: a lane has at most one batch under way, and its records stay at its head until they are
    acknowledged. So whatever happens to a batch, nothing newer of the project overtakes it.

    Args:
        lanes: What is on its way; kept across producers.
        work: The owner.
        connect: Makes a producer that is not started yet.
        linger: Seconds between two refills while there is traffic, a quarter of it where that is
            light, and for 0.1 s after: being woken costs whoever emits, and more than looking
            costs the uplink (bench/emit.py). After silence the first refill is at once. 0: never
            look, be woken.
    """

    def __init__(
        self, lanes: Lanes, work: Work, *, connect: Callable[[], Producer], linger: float
    ) -> None:
        self._lanes = lanes
        self._work = work
        self._connect = connect
        self._linger = linger
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._last_try = False
        self._connected = False
        self._failure: Exception | None = None
        self._at_once = False
        self._attempt = 0
        self._jitter = random.Random()  # noqa: S311 - spreads retries, no secret
        self._limit = RateLimit(_LOG_PERIOD)
        self._quiet_at = float("-inf")
        """When it is quiet, unless more comes till then."""
        self.acknowledged = 0
        """Records that Kafka has."""
        self.dropped = 0
        """Records that Kafka refused for good."""
        self.reduced = 0
        """Records that the topic found too large and got without their body."""
        self.retries = 0
        """Batches that failed and had to be sent again."""

    def wake(self) -> None:
        """Look again at what waits."""
        self._changed.set()

    def hurry(self, *, last_try: bool = False) -> None:
        """Try again at once instead of waiting out the present back-off: the owner closes.

        Args:
            last_try: End when that does not even connect: the cluster is known to be away.
        """
        self._last_try = last_try
        self._hurry.set()
        self._changed.set()

    async def run(self) -> None:
        """Send until the work is finished; no failure ends it but that of the last try."""
        while not self._work.finished():
            self._failure = None
            self._connected = False
            self._at_once = False
            try:
                await self._session()
            except Exception as exc:  # noqa: BLE001 - the root of all sending: log, wait, go on
                self._failure = exc
            if self._failure is not None:
                self._report(self._failure)
                if self._last_try and not self._connected:
                    return
                if not self._at_once:
                    await self._back_off(self._failure)

    async def _session(self) -> None:
        """Use one producer until it has failed or the work is finished."""
        producer = self._connect()
        try:
            self._lanes.lay_out(await producer.start())
            self._connected = True
            _log.info("kafka_connected", partitions=self._lanes.partitions)
            async with asyncio.TaskGroup() as group:
                await self._feed(producer, group)
        finally:
            await producer.stop()

    async def _feed(self, producer: Producer, group: asyncio.TaskGroup) -> None:
        """Refill the lanes and start those that stand still, until the producer has failed."""
        while self._failure is None and not self._work.finished():
            self._changed.clear()
            more = self._work.refill()
            if self._lanes.events and self._linger:
                self._quiet_at = asyncio.get_running_loop().time() + _QUIET_SECONDS
            for lane in self._lanes.startable():
                lane.busy = True
                group.create_task(self._drain(producer, lane))
            if more:
                await asyncio.sleep(0)
            elif not self._work.finished():
                await self._rest()

    async def _rest(self) -> None:
        """Let events gather: the fewer batches, the less the host service pays."""
        if asyncio.get_running_loop().time() < self._quiet_at:
            light = self._lanes.events < _LIGHT_EVENTS
            await asyncio.sleep(self._linger / 4 if light else self._linger)
        elif self._work.sleep():
            await self._changed.wait()
        else:
            await asyncio.sleep(0)

    async def _drain(self, producer: Producer, lane: Lane) -> None:
        """Send a lane's records, batch by batch, until it is empty or the producer has failed."""
        try:
            while lane.queue and self._failure is None:
                await self._send_head(producer, lane)
        finally:
            lane.busy = False
            self._changed.set()

    async def _send_head(self, producer: Producer, lane: Lane) -> None:
        records = lane.head(self._lanes.batch_bytes)
        try:
            partitions = await producer.partitions()
            if partitions != self._lanes.partitions:
                raise RepartitionedError(self._lanes.partitions, partitions)
            count = await producer.send(lane.partition, records)
        except (KafkaError, UnavailableError) as exc:
            self._failure = exc
            self.retries += 1
            self._judge(lane, len(records), exc)
        else:
            self._attempt = 0
            self.acknowledged += count
            self._lanes.acknowledge(lane, count)
        self._work.settled()

    def _judge(self, lane: Lane, count: int, error: Exception) -> None:
        """Change what the lane sends next, if its records are at fault."""
        judged = verdict(error, records=count, strikes=lane.strikes)
        self._at_once = judged in _CHANGED
        if judged is Verdict.REDUCE:
            self._reduce(lane)
        elif judged is Verdict.SHRINK:
            self._lanes.shrink(lane, count)
        elif judged is Verdict.HALVE:
            self._lanes.halve(lane, count)
        elif judged is Verdict.STRIKE:
            lane.strikes += 1
        elif judged is Verdict.DROP:
            self._drop(lane, error)

    def _reduce(self, lane: Lane) -> None:
        smaller = self._work.smaller(lane.queue[0])
        if smaller is None:
            self._drop(lane, MessageSizeTooLargeError())
        else:
            self.reduced += 1
            self._lanes.replace(lane, smaller)

    def _drop(self, lane: Lane, error: Exception) -> None:
        self.dropped += 1
        event_id = dict(lane.queue[0].headers).get("ce_id", b"").decode()
        _log.error("event_refused_by_kafka", event_id=event_id, detail=repr(error)[:300])
        self._lanes.drop(lane)

    async def _back_off(self, error: Exception) -> None:
        self._attempt += 1
        delay = backoff(self._attempt, error, jitter=self._jitter)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._hurry.wait()
        self._hurry.clear()

    def _report(self, error: Exception) -> None:
        """Log an outage once, and then once a minute."""
        held = self._limit.allow(type(error), time.monotonic())
        if held is None:
            return
        if isinstance(error, TopicMissingError):
            _log.error("kafka_topic_missing", topic=error.topic, do="tailrace topics create")
        elif is_forbidden(error):
            _log.error("kafka_forbidden", detail=repr(error)[:300])
        elif isinstance(error, KafkaError | UnavailableError):
            _log.warning("kafka_unavailable", detail=repr(error)[:300])
        else:
            _log.error("uplink_failed", exc_info=error)

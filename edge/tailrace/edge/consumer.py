"""Kafka -> records: all partitions of the topic, assigned by hand, without a consumer group.

A group would stop every node at each deploy; a node that reads everything drops what nobody
watches for the price of a dict lookup.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import NamedTuple, Self

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from aiokafka.record import default_records

from tailrace.edge.chunk import Record
from tailrace.edge.driver import check, reader, stopped
from tailrace.edge.offsets import Offsets
from tailrace.edge.scan import OffsetGoneError, Scan, scanning
from tailrace.edge.topic_identity import Topic, TopicChangedError, TopicIdentity
from tailrace.edge.warm_up import timestamps_before, warm_up_start
from tailrace.logs import RateLimit, quiet_driver
from tailrace.schemas import UnavailableError

__all__ = [
    "ECONOMICAL",
    "LOW_LATENCY",
    "Consumer",
    "Fetch",
    "Lag",
    "OffsetGoneError",
    "Scan",
    "Topic",
    "TopicChangedError",
]

_log = structlog.get_logger(__name__)
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0)
_ENTER_SECONDS = 30.0
_REQUEST_MS = 10_000
_WATCH_SECONDS = 1.0
_WARMING_SECONDS = 0.1
_LOG_SECONDS = 30.0
_MAX_RECORDS = 500
"""Records per poll: enough to amortise the call, few enough to keep the loop responsive."""


class Fetch(NamedTuple):
    """How the broker is asked for more: latency against CPU, which is spent per answer."""

    wait_ms: int
    """How long the broker may hold an answer back."""
    min_bytes: int
    """With so much it answers at once."""


LOW_LATENCY = Fetch(wait_ms=500, min_bytes=1)
ECONOMICAL = Fetch(wait_ms=25, min_bytes=1 << 20)


class Lag(NamedTuple):
    """How far one partition is behind the last record that may be read."""

    records: int
    seconds: float
    """Age of the last record read, while any are waiting."""


class Consumer:
    """Reads the topic from its warm-up window on. Use as an async context manager, once.

    Entering waits, with a log line but without an error, until Kafka answers and the topic exists.
    From then on a broker that is away only makes `poll` return nothing and the questions raise
    `UnavailableError`, each within 6 s; reading goes on by itself. What cannot go on, because the
    log is another one or has lost what was to be read, is a `TopicChangedError` of `poll`: leave
    this consumer and enter a new one.

    Args:
        bootstrap_servers: Of Kafka, comma-separated.
        topic: Its name.
        fetch: How to ask for more.
        warm_up_seconds: Age of the oldest record that is read.
        warm_up_records: How many offsets before the ends are read at most, all partitions
            together; each has an equal part.
    """

    topic: Topic
    """As of entering."""
    starts: Mapping[int, tuple[int, int]]
    """By partition: the offset just before the first one that is polled, and the timestamp (ms) of
    the record there; -1 where none can be read."""
    targets: Mapping[int, int]
    """By partition: the last stable offset at entering, where the warm-up ends."""

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        topic: str,
        fetch: Fetch = LOW_LATENCY,
        warm_up_seconds: float = 600.0,
        warm_up_records: int = 262_144,
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._name = topic
        self._fetching = fetch
        self._warm_up_seconds = warm_up_seconds
        self._warm_up_records = warm_up_records
        self._stack = AsyncExitStack()
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: list[TopicPartition] = []
        self._cold: set[TopicPartition] = set()
        self._last: dict[int, Record] = {}
        self._away: dict[TopicPartition, int] | None = None
        self._changed: TopicChangedError | None = None
        self._waiting: asyncio.Timeout | None = None
        self._refusals = RateLimit(_LOG_SECONDS)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(quiet_driver())
            _tell_of_slow_driver()
            await self._enter(stack)
            self._stack = stack.pop_all()
        _log.info("consuming", topic=self._name, partitions=self.partitions)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._consumer = None
        await self._stack.aclose()

    @property
    def partitions(self) -> int:
        """The topic's partition count; 0 until entered."""
        return len(self._partitions)

    @property
    def warm(self) -> bool:
        """Whether every partition has been polled up to its target. True stays True."""
        return self._consumer is not None and not self._cold

    async def poll(self, timeout: float) -> Mapping[int, Sequence[Record]]:  # noqa: ASYNC109
        """Return the next records by partition, in ascending offset; none after `timeout` s.

        At most 500. Before that time it returns none in the moment that the consumer turns warm.

        Raises:
            TopicChangedError: The log is no longer the one that was entered, also while waiting.
        """
        self._started()
        if self._watching.done():
            self._watching.result()  # bad code ends the node
        try:
            async with asyncio.timeout(None) as self._waiting:
                fetched = await self._fetch(timeout)
        except TimeoutError:  # cut short, see `_change`
            fetched = {}
        finally:
            self._waiting = None
        self._check(fetched)
        if self._changed is not None:
            raise self._changed
        for partition, records in fetched.items():
            self._last[partition] = records[-1]
        return fetched

    async def lags(self, now: float) -> dict[int, Lag]:
        """Return the lag of each partition; `now` is seconds since the epoch.

        From memory: as of the last answer of the broker. A topic that is away has none.
        """
        if self._away is not None:
            return {tp.partition: Lag(0, 0.0) for tp in self._partitions}
        return {tp.partition: await self._lag(tp, now) for tp in self._partitions}

    async def earliest(self, partition: int) -> int:
        """Return the offset at which the log starts now.

        Callers who ask the same at once share one request to the broker.

        Raises:
            UnavailableError: Kafka did not answer within 5 s.
        """
        return await self._offsets.earliest(partition)

    async def reaches(self, partition: int, end: int) -> bool:
        """Tell whether the log goes on up to `end`, exclusive.

        Raises:
            UnavailableError: Kafka did not answer within 6 s; it takes 2 s to say no.
        """
        return await self._offsets.reaches(partition, end)

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose timestamp is this or later, else the end.

        Shared and bounded as `earliest`.
        """
        return await self._offsets.at(partition, timestamp_ms)

    def scan(self, partition: int, offset: int) -> AbstractAsyncContextManager[Scan]:
        """Read one partition from `offset` on, beside `poll`.

        Entering raises `UnavailableError` when Kafka does not answer within 5 s.
        """
        return scanning(
            bootstrap_servers=self._bootstrap_servers,
            partition=TopicPartition(self._name, partition),
            offset=offset,
            earliest=self._offsets.earliest,
        )

    # Entering

    async def _enter(self, outer: AsyncExitStack) -> None:
        attempt = 0
        while True:
            try:
                async with AsyncExitStack() as stack:
                    async with asyncio.timeout(_ENTER_SECONDS):
                        await self._open(stack)
                    outer.push_async_exit(stack.pop_all())
            except (KafkaError, OSError, UnavailableError) as error:
                if attempt == 0:
                    _log.warning(
                        "kafka not there yet, waiting",
                        bootstrap_servers=self._bootstrap_servers,
                        topic=self._name,
                        error=str(error) or type(error).__name__,
                    )
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1
            else:
                return

    async def _open(self, stack: AsyncExitStack) -> None:
        where = {"bootstrap_servers": self._bootstrap_servers, "topic": self._name}
        self._identity = await stack.enter_async_context(TopicIdentity(**where))
        topic = await self._identity.ask()
        if topic is None:
            raise UnknownTopicOrPartitionError(self._name)
        self._offsets = await stack.enter_async_context(Offsets(**where))
        consumer = reader(
            bootstrap_servers=self._bootstrap_servers,
            fetch_max_wait_ms=self._fetching.wait_ms,
            fetch_min_bytes=self._fetching.min_bytes,
            request_timeout_ms=_REQUEST_MS,
        )
        stack.push_async_callback(stopped, consumer)
        await consumer.start()
        await self._place(consumer, topic)
        self._watching = asyncio.create_task(self._watch())
        stack.push_async_callback(_end, self._watching)

    async def _place(self, consumer: AIOKafkaConsumer, topic: Topic) -> None:
        """Find where to begin and stand there."""
        self._partitions = [TopicPartition(self._name, n) for n in range(topic.partitions)]
        since_ms = int((time.time() - self._warm_up_seconds) * 1000)
        most = self._warm_up_records // topic.partitions
        windows = await asyncio.gather(
            *(
                warm_up_start(self._offsets, tp.partition, since_ms=since_ms, most=most)
                for tp in self._partitions
            )
        )
        placed = dict(zip(self._partitions, windows, strict=True))
        consumer.assign(self._partitions)
        before = await timestamps_before(consumer, placed)
        for tp, window in placed.items():
            consumer.seek(tp, window.start)
        self.topic = topic
        self.targets = {tp.partition: window.end for tp, window in placed.items()}
        self.starts = {tp.partition: (w.start - 1, before.get(tp, -1)) for tp, w in placed.items()}
        self._cold = {tp for tp, window in placed.items() if window.start < window.end}
        self._consumer = consumer

    def _started(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "used outside of its context"
        return self._consumer

    # Polling

    async def _fetch(self, seconds: float) -> dict[int, list[Record]]:
        if self.warm:
            return await self._next(seconds)
        deadline = time.monotonic() + seconds
        while True:  # the transaction marker that may end the warm-up does not wake the driver
            left = max(0.0, deadline - time.monotonic())
            fetched = await self._next(min(left, _WARMING_SECONDS))
            await self._warm_up()
            if fetched or self.warm or left <= _WARMING_SECONDS:
                return fetched

    async def _next(self, seconds: float) -> dict[int, list[Record]]:
        if self._away is not None:
            await asyncio.sleep(seconds)
            return {}
        try:
            fetched = await self._started().getmany(
                timeout_ms=int(seconds * 1000), max_records=_MAX_RECORDS
            )
        except OffsetOutOfRangeError as error:
            [(tp, offset)] = error.args[0].items()
            await self._out_of_range(tp.partition, offset)
            return {}
        except KafkaError as error:
            self._refused(error)
            return {}
        return {tp.partition: records for tp, records in fetched.items()}

    async def _warm_up(self) -> None:
        if self._away is None:
            consumer = self._started()
            for tp in tuple(self._cold):
                if await consumer.position(tp) >= self.targets[tp.partition]:
                    self._cold.discard(tp)

    def _check(self, fetched: Mapping[int, Sequence[Record]]) -> None:
        """Notice offsets that were polled before: the log has begun again."""
        for partition, records in fetched.items():
            last = self._last.get(partition)
            if last is not None and records[0].offset <= last.offset:
                self._change(TopicChangedError(self.topic, self.topic))

    async def _out_of_range(self, partition: int, offset: int) -> None:
        """Find out why the next offset to be read is not in the log.

        When Kafka does not say, nothing happens: the driver comes across the same again.
        """
        lost = False
        try:
            topic = await self._identity.ask()
            if topic == self.topic:
                lost = offset < await self.earliest(partition)
                if not lost and await self.reaches(partition, offset):
                    return
        except (KafkaError, OSError, UnavailableError):
            return
        if topic is not None:
            self._change(TopicChangedError(self.topic, topic, "retention" if lost else None))

    def _refused(self, error: KafkaError) -> None:
        held = self._refusals.allow(type(error), time.monotonic())
        if held is not None:
            _log.error("kafka refuses to be read", topic=self._name, error=repr(error), held=held)

    async def _lag(self, partition: TopicPartition, now: float) -> Lag:
        consumer = self._started()
        known = consumer.last_stable_offset(partition)
        end = self.targets[partition.partition] if known is None else known
        behind = max(0, end - await consumer.position(partition))  # sought once: never waits
        last = self._last.get(partition.partition)
        seconds = max(0.0, now - last.timestamp / 1000) if behind and last is not None else 0.0
        return Lag(behind, seconds)

    # Watching

    async def _watch(self) -> None:
        """Ask again and again which topic this is, until it is another one.

        Raises:
            KafkaError: The driver has given up reading.
        """
        while self._changed is None:
            await asyncio.sleep(_WATCH_SECONDS)
            check(self._started())
            try:
                topic = await self._identity.ask()
            except (KafkaError, OSError):  # says nothing about the topic
                continue
            if topic is None:
                await self._rest()
            elif topic != self.topic or (self._away is not None and not topic.topic_id):
                self._change(TopicChangedError(self.topic, topic))
            else:
                self._go_on()

    def _change(self, error: TopicChangedError) -> None:
        """Make `poll` raise, now if it waits."""
        if self._changed is None:
            _log.warning("topic changed", topic=self._name, reason=error.reason)
            self._changed = error
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def _rest(self) -> None:
        """Leave a deleted topic alone: the driver would go on asking for leaders, and log it."""
        if self._away is None:
            _log.warning("topic is gone, waiting for it", topic=self._name)
            consumer = self._started()
            self._away = {tp: await consumer.position(tp) for tp in self._partitions}
            consumer.assign([])

    def _go_on(self) -> None:
        """Read on where `_rest` left off: a broker did not know the topic for a moment."""
        if self._away is not None:
            consumer = self._started()
            consumer.assign(self._partitions)
            for tp, offset in self._away.items():
                consumer.seek(tp, offset)
            self._away = None


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _tell_of_slow_driver() -> None:
    if default_records.DefaultRecordBatch is default_records._DefaultRecordBatchPy:  # noqa: SLF001 -- the only sign
        _log.warning("aiokafka runs without its C extension: reading is 30 times slower")

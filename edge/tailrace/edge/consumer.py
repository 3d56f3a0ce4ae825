"""Kafka -> records: all partitions of the topic, assigned by hand, without a consumer group.

A group would stop every node at each deploy; a node that reads everything drops what nobody
watches for the price of a dict lookup.
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

__all__ = ["Consumer", "Lag"]

_log = structlog.get_logger(__name__)
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0)
_MAX_RECORDS = 500
"""Records per poll: enough to amortise the call, few enough to keep the loop responsive."""


class Lag(NamedTuple):
    """How far one partition is behind the last record that may be read."""

    records: int
    seconds: float
    """Age of the last record read, while any are waiting."""


class Consumer:
    """Reads the topic from its end on. Use as an async context manager.

    Entering waits, with a log line but without an error, until Kafka answers and the topic exists.
    """

    def __init__(self, *, bootstrap_servers: str, topic: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: list[TopicPartition] = []
        self._last_timestamp_ms: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        attempt = 0
        while True:
            try:
                await self._start()
            except KafkaError as error:
                if attempt == 0:
                    _log.warning(
                        "kafka not there yet, waiting",
                        bootstrap_servers=self._bootstrap_servers,
                        topic=self._topic,
                        error=str(error) or type(error).__name__,
                    )
                await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
                attempt += 1
            else:
                _log.info("consuming", topic=self._topic, partitions=self.partitions)
                return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    @property
    def partitions(self) -> int:
        """The topic's partition count; 0 until entered."""
        return len(self._partitions)

    async def poll(self, timeout: float) -> Mapping[int, Sequence[ConsumerRecord]]:  # noqa: ASYNC109
        """Return the next records by partition, in ascending offset; none after `timeout` s."""
        fetched = await self._started().getmany(
            timeout_ms=int(timeout * 1000), max_records=_MAX_RECORDS
        )
        for partition, records in fetched.items():
            self._last_timestamp_ms[partition] = records[-1].timestamp
        return {partition.partition: records for partition, records in fetched.items()}

    async def lags(self, now: float) -> dict[int, Lag]:
        """Return the lag of each partition; `now` is seconds since the epoch."""
        return {tp.partition: await self._lag(tp, now) for tp in self._partitions}

    async def _lag(self, partition: TopicPartition, now: float) -> Lag:
        consumer = self._started()
        end = consumer.last_stable_offset(partition)
        behind = 0 if end is None else max(0, end - await consumer.position(partition))
        last = self._last_timestamp_ms.get(partition)
        seconds = max(0.0, now - last / 1000) if behind and last is not None else 0.0
        return Lag(behind, seconds)

    def _started(self) -> AIOKafkaConsumer:
        assert self._consumer is not None, "used outside of its context"
        return self._consumer

    async def _start(self) -> None:
        count = await self._partition_count()
        self._partitions = [TopicPartition(self._topic, n) for n in range(count)]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap_servers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        try:
            await self._consumer.start()
            self._consumer.assign(self._partitions)
            await self._consumer.seek_to_end(*self._partitions)
            for partition in self._partitions:  # a position not asked for is not yet fixed
                await self._consumer.position(partition)
        except BaseException:
            await self._stop()
            raise

    async def _partition_count(self) -> int:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap_servers)
        try:
            await admin.start()
            [topic] = await admin.describe_topics([self._topic])
        finally:
            await admin.close()
        if topic["error_code"]:
            raise for_code(topic["error_code"])(self._topic)
        return len(topic["partitions"])

    async def _stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

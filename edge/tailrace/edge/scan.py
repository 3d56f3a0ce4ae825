"""Reads one partition again from some offset on, beside the live reading."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from tailrace.edge.chunk import Record
from tailrace.edge.driver import reader, stopped
from tailrace.schemas import TailraceError, UnavailableError

__all__ = ["OffsetGoneError", "Scan", "scanning"]

_MAX_RECORDS = 500
_START_SECONDS = 4.0
_TURNS = 10
_TURN_MS = 100


class OffsetGoneError(TailraceError):
    """The log does not hold the wanted offset, or no longer; `earliest` is where it starts now."""

    def __init__(self, earliest: int) -> None:
        super().__init__(f"the log does not hold that offset; it starts at {earliest}")
        self.earliest = earliest


class Scan:
    """One reader of one partition; records of aborted transactions are left out."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        partition: TopicPartition,
        offset: int,
        earliest: Callable[[int], Awaitable[int]],
    ) -> None:
        self._consumer = consumer
        self._partition = partition
        self._earliest = earliest
        self.position = offset
        """The next offset to be read; transaction markers and gaps passed are behind it."""

    async def read(self) -> Sequence[Record]:
        """Return the next records, at most 500; none when 1 s brought none.

        None are returned sooner when only the position has moved on.

        Raises:
            OffsetGoneError: The record at `position` is gone: deleted meanwhile, or of a topic
                that was deleted.
            UnavailableError: Kafka refuses, or is away in the moment that the offset is gone.
        """
        before = self.position
        for _ in range(_TURNS):  # a transaction marker alone does not wake the driver
            records = await self._next()
            self.position = await self._consumer.position(self._partition)
            if records or self.position != before:
                return records
        return []

    async def _next(self) -> Sequence[Record]:
        try:
            fetched = await self._consumer.getmany(timeout_ms=_TURN_MS, max_records=_MAX_RECORDS)
        except OffsetOutOfRangeError as error:
            raise OffsetGoneError(await self._earliest(self._partition.partition)) from error
        except (KafkaError, OSError) as error:
            raise UnavailableError(f"Kafka refuses to be read: {error!r}") from error
        return next(iter(fetched.values()), [])


@asynccontextmanager
async def scanning(
    *,
    bootstrap_servers: str,
    partition: TopicPartition,
    offset: int,
    earliest: Callable[[int], Awaitable[int]],
) -> AsyncIterator[Scan]:
    """Give a scan that begins at `offset`; `earliest` tells where a partition's log starts.

    Raises:
        UnavailableError: Kafka did not answer within 4 s.
    """
    consumer = reader(bootstrap_servers=bootstrap_servers)
    try:
        await _start(consumer)
        consumer.assign([partition])
        consumer.seek(partition, offset)
        yield Scan(consumer, partition, offset, earliest)
    finally:
        await stopped(consumer)


async def _start(consumer: AIOKafkaConsumer) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            await consumer.start()
    except (KafkaError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise UnavailableError(f"Kafka does not answer: {reason}") from error

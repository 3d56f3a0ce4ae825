"""The Kafka driver, adapted: it survives on uvloop, is patient, copies less, and ends whole."""

import asyncio
from typing import Any, TypeVar

import aiokafka.conn
import aiokafka.consumer.consumer
import aiokafka.consumer.fetcher
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaConnectionError, KafkaError

__all__ = ["adapt", "as_read", "check", "stopped"]

V = TypeVar("V")

_PAUSE_SECONDS = 0.1
"""Between two questions for metadata, as in Kafka's own clients (``retry.backoff.ms``)."""


class _Connection(AIOKafkaConnection):  # type: ignore[misc] # the driver has no types
    """A connection that may be lost on uvloop.

    Writing to one that has just been lost raises RuntimeError there. The driver does not expect
    that: its fetching would end for good, without a word (aio-libs/aiokafka#1038).
    """

    def send(self, request: Any, expect_response: bool = True) -> Any:  # noqa: FBT001, FBT002 -- the driver's
        try:
            return super().send(request, expect_response)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"{self} is lost: {error}") from error


class _Client(AIOKafkaClient):  # type: ignore[misc]
    """A client that pauses between two questions for metadata.

    The driver does not, while a partition has no leader or no broker is there: it would take a
    whole core for as long as that lasts.
    """

    _next_at = 0.0

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> Any:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._next_at - loop.time())
        self._next_at = loop.time() + _PAUSE_SECONDS
        return await super()._metadata_update(cluster_metadata, topics)


class _Records(PartitionRecords):  # type: ignore[misc]
    """Records of which the driver makes no objects of eleven members where nobody wants them.

    That takes longer than all else that is done with one whose project nobody watches.
    """

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if self._value_deserializer is as_read:
            return record
        return super()._consumer_record(tp, record)


def as_read(value: V) -> V:
    """Leave a value as it is.

    A consumer that has this as its ``value_deserializer`` gives records with offset, timestamp,
    key, value and headers only, once the driver is adapted.
    """
    return value


def adapt() -> None:
    """Let all consumers made from now on in this process be such, and honour `as_read`."""
    aiokafka.conn.AIOKafkaConnection = _Connection
    aiokafka.consumer.consumer.AIOKafkaClient = _Client
    aiokafka.consumer.fetcher.PartitionRecords = _Records


def check(consumer: AIOKafkaConsumer) -> None:
    """Raise what ended the fetching of a consumer, who says nothing of it and waits for ever."""
    fetching = consumer._fetcher.error_future  # noqa: SLF001 -- told nowhere else
    if fetching.done():
        fetching.result()


async def stopped(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, and close its connections also where that is cut short.

    A driver that waits to ask a broker again that is away lets the cancelling of its own fetch
    out, as if the caller were cancelled. One whose fetching has died raises what `check` raises.
    """
    try:
        await consumer.stop()
    except (asyncio.CancelledError, KafkaError) as error:
        await consumer._client.close()  # noqa: SLF001 -- what `stop` did not come to
        task = asyncio.current_task()
        if isinstance(error, KafkaError) or (task is not None and task.cancelling()):
            raise

"""The Kafka driver as the edge needs it: it survives on uvloop, copies less and ends whole."""

import asyncio
from typing import Any

import aiokafka.conn
import aiokafka.consumer.fetcher
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaConnectionError, KafkaError

from tailrace.logs import patient

__all__ = ["check", "client", "reader", "stopped"]


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


class _Records(PartitionRecords):  # type: ignore[misc]
    """Records of which the driver makes no objects of eleven members where nobody wants them.

    That takes longer than all else that is done with one whose project nobody watches.
    """

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if self._value_deserializer is _as_read:
            return record
        return super()._consumer_record(tp, record)


def _as_read(value: bytes | None) -> bytes | None:
    """Leave a value as it is: the mark of a consumer that wants its records as they are."""
    return value


def client(**settings: Any) -> AIOKafkaClient:
    """Return a client that only asks, with the driver's own settings; close it."""
    _adapt()
    asking = AIOKafkaClient(**settings)
    patient(asking)
    return asking


def reader(*, bootstrap_servers: str, **settings: Any) -> AIOKafkaConsumer:
    """Return a consumer of whole partitions, which belongs to no group; `stopped` ends it.

    It skips nothing without a word, leaves out what was aborted, and gives records with offset,
    timestamp, key, value and headers only.

    Args:
        bootstrap_servers: Of Kafka, comma-separated.
        settings: More of the driver's own.
    """
    _adapt()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        value_deserializer=_as_read,
        **settings,
    )
    patient(consumer._client)  # noqa: SLF001 -- a consumer does not show its client
    return consumer


def _adapt() -> None:
    """Let the driver of this process make these: it has no settings for that."""
    aiokafka.conn.AIOKafkaConnection = _Connection
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

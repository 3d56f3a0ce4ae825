"""What the Kafka driver does not do by itself: survive on uvloop, tell that it died, end whole."""

import asyncio
from typing import Any

import aiokafka.conn
from aiokafka import AIOKafkaConsumer
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError

__all__ = ["check", "expect_uvloop", "stopped"]


class _Connection(AIOKafkaConnection):  # type: ignore[misc] # the driver has no types
    def send(self, request: Any, expect_response: bool = True) -> Any:  # noqa: FBT001, FBT002 -- the driver's
        try:
            return super().send(request, expect_response)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"{self} is lost: {error}") from error


def expect_uvloop() -> None:
    """Let the driver take a lost connection on uvloop for what it is, in the whole process.

    uvloop raises RuntimeError when something is written to a connection that has just been lost,
    where asyncio says nothing. The driver expects neither: its fetching would end for good, without
    a word (aio-libs/aiokafka#1038).
    """
    aiokafka.conn.AIOKafkaConnection = _Connection


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

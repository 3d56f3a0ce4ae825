"""Ends the Kafka driver whole."""

import asyncio

from aiokafka import AIOKafkaConsumer

__all__ = ["stopped"]


async def stopped(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, and close its connections also where that is cut short.

    A driver that waits to ask a broker again that is away lets the cancelling of its own fetch
    out, as if the caller were cancelled.
    """
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        await consumer._client.close()  # noqa: SLF001 -- what `stop` did not come to
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise

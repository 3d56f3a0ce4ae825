"""Ends the Kafka driver whole."""

import asyncio

from aiokafka import AIOKafkaConsumer

__all__ = ["stopped"]


async def stopped(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, also in the moment in which it waits to ask a broker again that is away.

    The driver then lets the cancelling of its own fetch out, as if the caller were cancelled, and
    leaves its connections open.
    """
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        await consumer._client.close()  # noqa: SLF001 -- what `stop` did not come to

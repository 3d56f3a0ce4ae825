import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from tailrace.edge.driver import stopped


class Driver:
    """What `stopped` touches of a consumer whose fetch waits, as aiokafka 0.14 ends it."""

    def __init__(self) -> None:
        self.closed = False
        self._client = SimpleNamespace(close=self._close)

    async def stop(self) -> None:
        fetch = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        fetch.cancel()
        await fetch

    async def _close(self) -> None:
        self.closed = True


async def test_a_fetch_that_waits_to_ask_again_is_no_cancelling_of_the_caller() -> None:
    driver = Driver()
    await stopped(cast("AIOKafkaConsumer", driver))
    assert driver.closed


async def test_cancelling_of_the_caller_goes_on() -> None:
    class Slow(Driver):
        async def stop(self) -> None:
            await asyncio.sleep(60)

    driver = Slow()
    ending = asyncio.create_task(stopped(cast("AIOKafkaConsumer", driver)))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert driver.closed


async def test_one_who_is_cancelled_already_leaves_no_connection() -> None:
    driver = Driver()

    async def reading() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await stopped(cast("AIOKafkaConsumer", driver))

    task = asyncio.create_task(reading())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert driver.closed


@pytest.mark.kafka
async def test_a_real_one_is_left_without_connections(kafka: str, topic: str) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    await consumer.end_offsets([TopicPartition(topic, 0)])
    waiting = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    consumer._fetcher._pending_tasks.add(waiting)  # as a fetch that waits to ask again
    assert consumer._client._conns

    await stopped(consumer)

    assert waiting.cancelled()
    assert not any(conn.connected() for conn in consumer._client._conns.values())

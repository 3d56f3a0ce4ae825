import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any, cast

import aiokafka.conn
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from tailrace.edge.driver import check, client, reader, stopped


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


async def just_lost(connection: Any) -> None:
    connection._writer.transport.abort()
    await asyncio.sleep(0)
    assert connection._writer is not None, "its reader has not heard of it yet"


@pytest.mark.kafka
async def test_writing_to_a_connection_that_was_just_lost_is_an_error_of_the_driver(
    kafka: str, topic: str
) -> None:
    consumer = reader(bootstrap_servers=kafka)
    await consumer.start()
    try:
        await consumer.end_offsets([TopicPartition(topic, 0)])
        [connection] = consumer._client._conns.values()
        await just_lost(connection)
        with pytest.raises(KafkaConnectionError, match="is lost"):
            connection.send(MetadataRequest([]))

        assert not connection.connected()
        assert await consumer.end_offsets([TopicPartition(topic, 0)]) == {
            TopicPartition(topic, 0): 0
        }
    finally:
        await stopped(consumer)


@pytest.mark.kafka
async def test_what_only_asks_has_such_connections_too(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiokafka.conn, "AIOKafkaConnection", AIOKafkaConnection)
    asking = client(bootstrap_servers=kafka)
    try:
        await asking.bootstrap()
        assert await asking.ready(asking.get_random_node())
        [connection] = asking._conns.values()
        await just_lost(connection)
        with pytest.raises(KafkaConnectionError, match="is lost"):
            connection.send(MetadataRequest([]))
    finally:
        await asking.close()


@pytest.mark.kafka
async def test_fetching_that_has_died_is_told(kafka: str, topic: str) -> None:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka)
    await consumer.start()
    try:
        assert await consumer.getmany(timeout_ms=100) == {}
        check(consumer)
        consumer._client.send = _broken
        async with asyncio.timeout(10):
            await asyncio.wait([consumer._fetcher.error_future])

        assert await consumer.getmany(timeout_ms=100) == {}, "the driver says nothing"
        with pytest.raises(KafkaError, match="Unexpected error"):
            check(consumer)
    finally:
        with contextlib.suppress(KafkaError):
            await stopped(consumer)


async def _broken(*_: object) -> None:
    raise ZeroDivisionError


@pytest.mark.kafka
@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_records_come_as_they_are_read_where_nothing_more_is_wanted(
    kafka: str, topic: str, compression: str | None
) -> None:
    headers = [("ce_id", b"1"), ("ce_type", b"t")]
    where = TopicPartition(topic, 1)
    async with AIOKafkaProducer(bootstrap_servers=kafka, compression_type=compression) as producer:
        for value in (b"one", None):
            await producer.send_and_wait(
                topic, value, key=b"k", partition=1, headers=headers, timestamp_ms=1000
            )

    light = await read(reader(bootstrap_servers=kafka), where)
    usual = await read(AIOKafkaConsumer(bootstrap_servers=kafka), where)

    assert [type(record) for record in usual] == [ConsumerRecord] * 2
    assert ConsumerRecord not in map(type, light)
    for records in (light, usual):
        assert [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in records] == [
            (0, 1000, b"k", b"one", headers),
            (1, 1000, b"k", None, headers),
        ]


async def read(consumer: AIOKafkaConsumer, partition: TopicPartition) -> list[Any]:
    """Read two records."""
    records: list[Any] = []
    await consumer.start()
    try:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        async with asyncio.timeout(10):
            while len(records) < 2:
                for fetched in (await consumer.getmany(timeout_ms=1000)).values():
                    records += fetched
    finally:
        await stopped(consumer)
    return records

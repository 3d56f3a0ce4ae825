import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer
from conftest import delete_topic, missing
from edge_harness import (
    WAIT_SECONDS,
    MemoryConsumer,
    channel_url,
    make_event,
    numbers,
    producing,
    record_of,
    serve_node,
    until,
)
from structlog.testing import capture_logs

from tailrace.cli.errors import MissingPartError
from tailrace.cli.local_kafka import LocalKafka
from tailrace.cli.ports import free_ports
from tailrace.cli.topics import Target, create_topic
from tailrace.edge.consumer import Consumer, Lag
from tailrace.edge.settings import EdgeSettings
from tailrace.schemas import Event, encode


class Log(NamedTuple):
    """A consumer and how to append to the log that it reads."""

    consumer: Consumer | MemoryConsumer
    append: Callable[[Sequence[Event]], Awaitable[None]]


@asynccontextmanager
async def _memory_log() -> AsyncIterator[Log]:
    offset = 0
    async with MemoryConsumer() as consumer:

        async def append(events: Sequence[Event]) -> None:
            nonlocal offset
            consumer.put(*(record_of(event, offset + n) for n, event in enumerate(events)))
            offset += len(events)

        yield Log(consumer, append)


@asynccontextmanager
async def _kafka_log(servers: str, topic: str) -> AsyncIterator[Log]:
    async with (
        producing(servers, topic) as producer,
        Consumer(bootstrap_servers=servers, topic=topic) as consumer,
    ):

        async def append(events: Sequence[Event]) -> None:
            await producer.send(*events)

        yield Log(consumer, append)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def opened_log(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Log]:
    """Run a test with the real consumer and with its twin in memory."""
    if request.param == "memory":
        return _memory_log()
    return _kafka_log(request.getfixturevalue("kafka"), request.getfixturevalue("topic"))


@pytest.fixture
async def log(opened_log: AbstractAsyncContextManager[Log]) -> AsyncIterator[Log]:
    async with opened_log as log:
        yield log


async def _polled(consumer: Consumer | MemoryConsumer, count: int) -> dict[int, list[Any]]:
    """Poll until there are `count` records and return them by partition."""
    found: dict[int, list[Any]] = {}
    async with asyncio.timeout(WAIT_SECONDS):
        while sum(map(len, found.values())) < count:
            polled: Mapping[int, Sequence[Any]] = await consumer.poll(1.0)
            for partition, records in polled.items():
                found.setdefault(partition, []).extend(records)
    return found


async def test_poll_returns_whole_records_in_ascending_offset(log: Log) -> None:
    events = [make_event(n=n) for n in range(50)]
    await log.append(events[:20])
    await log.append(events[20:])

    [records] = (await _polled(log.consumer, 50)).values()

    offsets = [record.offset for record in records]
    assert offsets == list(range(offsets[0], offsets[0] + 50))
    assert [record.value for record in records] == [encode(event) for event in events]
    assert {record.key for record in records} == {b"p1"}
    assert {dict(record.headers)["ce_type"] for record in records} == {b"ingest.job.updated"}
    assert all(record.timestamp > 0 for record in records)


async def test_poll_returns_nothing_when_nothing_comes(log: Log) -> None:
    assert not await log.consumer.poll(0.0)


async def test_all_partitions_are_read_and_none_lags(log: Log) -> None:
    assert log.consumer.partitions == 4
    await log.append([make_event(f"p{n}") for n in range(20)])
    await _polled(log.consumer, 20)

    assert await log.consumer.lags(time.time()) == {n: Lag(0, 0.0) for n in range(4)}


@pytest.mark.kafka
async def test_reading_begins_at_the_end(kafka: str, topic: str) -> None:
    async with producing(kafka, topic) as producer:
        await producer.send(*(make_event(n=n) for n in range(10)))
        async with Consumer(bootstrap_servers=kafka, topic=topic) as consumer:
            await producer.send(make_event(n=10))

            [records] = (await _polled(consumer, 1)).values()

    assert [record.value for record in records] == [encode(make_event(n=10))]


@asynccontextmanager
async def _transactional(servers: str, topic: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=f"{topic}-writer")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@pytest.mark.kafka
async def test_poll_is_bounded_and_what_waits_is_the_lag(kafka: str, topic: str) -> None:
    async with (
        _transactional(kafka, topic) as producer,
        Consumer(bootstrap_servers=kafka, topic=topic) as consumer,
    ):
        async with producer.transaction():  # may be read all at once
            for _ in range(800):
                await producer.send(topic, b"value", partition=3)
        polled: Mapping[int, Sequence[Any]] = {}
        while not polled:
            polled = await consumer.poll(1.0)
        lag = (await consumer.lags(polled[3][-1].timestamp / 1000 + 5.0))[3]

    assert len(polled[3]) == 500
    assert lag.records == 800 + 1 - 500, "the commit has an offset too"
    assert lag.seconds == pytest.approx(5.0)


@pytest.mark.kafka
async def test_records_of_an_aborted_transaction_are_never_read(kafka: str, topic: str) -> None:
    async with (
        _transactional(kafka, topic) as producer,
        Consumer(bootstrap_servers=kafka, topic=topic) as consumer,
    ):
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"value", key=b"aborted", partition=0)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"value", key=b"committed", partition=0)

        [records] = (await _polled(consumer, 1)).values()

    assert [record.key for record in records] == [b"committed"]


async def test_use_outside_of_its_context_is_a_mistake() -> None:
    consumer = Consumer(bootstrap_servers="127.0.0.1:1", topic="t")

    assert consumer.partitions == 0
    with pytest.raises(AssertionError, match="outside of its context"):
        await consumer.poll(0.0)


async def test_waiting_for_kafka_is_said_and_can_be_cancelled() -> None:
    [port] = free_ports(1)
    with capture_logs() as lines:
        entering = asyncio.create_task(
            Consumer(bootstrap_servers=f"127.0.0.1:{port}", topic="t").__aenter__()
        )

        async def said() -> bool:
            return bool(lines)

        await until(said)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering

    [line] = lines
    assert (line["event"], line["log_level"]) == ("kafka not there yet, waiting", "warning")
    assert (line["bootstrap_servers"], line["topic"]) == (f"127.0.0.1:{port}", "t")


@pytest.mark.kafka
async def test_topic_that_is_not_there_yet_is_waited_for(kafka: str, topic: str) -> None:
    late = Target(kafka, f"{topic}-late")
    consumer = Consumer(bootstrap_servers=kafka, topic=late.topic)
    with capture_logs() as lines:
        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
            entering = tasks.create_task(consumer.__aenter__())

            async def said() -> bool:
                return bool(lines)

            await until(said)
            assert not entering.done()
            await create_topic(late, partitions=2)
    try:
        assert consumer.partitions == 2
        assert [line["event"] for line in lines] == ["kafka not there yet, waiting", "consuming"]
    finally:
        await consumer.__aexit__(None, None, None)
        await delete_topic(late)


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A Kafka of the test's own, not started: it may be killed."""
    [port] = free_ports(1)
    kafka = LocalKafka(tmp_path, port=port)
    yield kafka
    kafka.down()


@pytest.mark.kafka
async def test_node_waits_for_kafka_and_the_topic_and_outlives_a_killed_broker(
    own_kafka: LocalKafka,
) -> None:
    servers = f"127.0.0.1:{own_kafka._port}"
    settings = EdgeSettings(bootstrap_servers=servers, topic="late", port=0)
    with capture_logs() as lines:
        await _late_kafka(own_kafka, settings)

    said = [line for line in lines if line["event"] == "kafka not there yet, waiting"]
    assert len(said) == 1


async def _late_kafka(own_kafka: LocalKafka, settings: EdgeSettings) -> None:
    servers = settings.bootstrap_servers
    async with serve_node(settings) as edge, edge.watch(channel_url("p")) as viewer:
        assert await edge.status("/healthz") == 200
        status, _, body = await edge.get("/readyz")
        assert status == 503
        assert body == b'{"status": "not ready", "reason": "waiting for kafka"}'
        try:
            assert await asyncio.to_thread(own_kafka.up) == servers
        except MissingPartError as error:
            missing("kafka", str(error))
        assert await edge.status("/readyz") == 503
        await create_topic(Target(servers, "late"), partitions=4)
        await edge.ready()

        async with producing(servers, "late") as producer:
            await producer.send(make_event("p", n=1))
            assert numbers([await viewer.event()]) == [1]
            await asyncio.to_thread(own_kafka.kill, 1)
            assert await edge.status("/healthz") == 200
            await asyncio.to_thread(own_kafka.start, 1)
            await producer.send(make_event("p", n=2))

            assert numbers([await viewer.event()]) == [2]
            await edge.ready()

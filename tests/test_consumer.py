import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.record import default_records
from conftest import delete_topic, missing
from edge_harness import (
    WAIT_SECONDS,
    channel_url,
    make_event,
    numbers,
    producing,
    record_of,
    serve_node,
    until,
)
from log_twins import (
    AnyConsumer,
    KafkaLog,
    Log,
    minutes_ago,
    offsets_of,
    polled,
    read_to,
    stamped,
)
from structlog.testing import capture_logs

from tailrace.cli.errors import MissingPartError
from tailrace.cli.local_kafka import LocalKafka
from tailrace.cli.ports import free_ports
from tailrace.cli.topics import Target, create_topic
from tailrace.edge import consumer as consumer_module
from tailrace.edge.consumer import (
    ECONOMICAL,
    LOW_LATENCY,
    Consumer,
    Fetch,
    Lag,
    Topic,
    TopicChangedError,
)
from tailrace.edge.settings import EdgeSettings
from tailrace.schemas import UnavailableError

RECENT = minutes_ago(-30)  # of the future, lest it grow old while other tests run
GOES_BY = 5
"""Seconds that no broker's answer takes."""


@pytest.fixture
async def consumer(log: Log) -> AsyncIterator[AnyConsumer]:
    async with log.consumer() as consumer:
        yield consumer


async def test_poll_returns_whole_records_in_ascending_offset(
    log: Log, consumer: AnyConsumer
) -> None:
    records = [record_of(make_event(n=n), n)._replace(timestamp=RECENT) for n in range(50)]
    await log.write(*records[:20])
    await log.write(*records[20:])

    [found] = (await polled(consumer, 50)).values()

    assert [record.offset for record in found] == list(range(50))
    assert [record.value for record in found] == [record.value for record in records]
    assert {record.key for record in found} == {b"p1"}
    assert {dict(record.headers)["ce_type"] for record in found} == {b"ingest.job.updated"}
    assert {record.timestamp for record in found} == {RECENT}


@pytest.mark.parametrize("fetch", [LOW_LATENCY, ECONOMICAL])
async def test_each_way_to_ask_brings_everything_in_order(log: Log, fetch: Fetch) -> None:
    async with log.consumer(fetch=fetch) as consumer:
        for _ in range(5):
            await log.write(*stamped(*[RECENT] * 20))
            await consumer.poll(0.01)
        await log.write(*stamped(*[RECENT] * 20))

    async with log.consumer(fetch=fetch) as consumer:
        assert offsets_of(await polled(consumer, 120)) == {0: [*range(120)]}


async def test_poll_returns_nothing_when_nothing_comes(consumer: AnyConsumer) -> None:
    assert not await consumer.poll(0.0)


async def test_all_partitions_are_read_and_none_lags(log: Log, consumer: AnyConsumer) -> None:
    assert consumer.partitions == 4
    assert consumer.topic.partitions == 4
    for partition in range(4):
        await log.write(*stamped(RECENT, RECENT), partition=partition)

    assert offsets_of(await polled(consumer, 8)) == {n: [0, 1] for n in range(4)}
    assert await consumer.lags(time.time()) == {n: Lag(0, 0.0) for n in range(4)}


async def test_what_is_not_polled_yet_is_the_lag(log: Log) -> None:
    await log.write(*stamped(*[RECENT] * 3))
    async with log.consumer() as consumer:
        assert (await consumer.lags(time.time()))[0] == Lag(3, 0.0)


# The log changes


async def _change_of(consumer: AnyConsumer) -> TopicChangedError:
    """Poll until the consumer says that the topic has changed."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await consumer.poll(WAIT_SECONDS)
            except TopicChangedError as error:
                return error


async def test_topic_created_again_is_a_reset(log: Log, consumer: AnyConsumer) -> None:
    await log.write(*stamped(*[RECENT] * 5))
    await polled(consumer, 5)
    await log.delete()
    await log.create()

    error = await _change_of(consumer)

    assert error.reason == "reset"
    assert error.before == consumer.topic
    assert error.after.topic_id != error.before.topic_id


async def test_topic_that_is_away_is_no_change_until_it_is_back(
    log: Log, consumer: AnyConsumer
) -> None:
    await log.delete()
    assert await consumer.poll(2.5) == {}
    assert await consumer.lags(time.time()) == {n: Lag(0, 0.0) for n in range(4)}
    waiting = asyncio.create_task(_change_of(consumer))
    await log.create(partitions=2)

    error = await waiting

    assert error.reason == "reset"
    assert error.after.partitions == 2


async def test_added_partitions_interrupt_a_poll_that_waits(
    log: Log, consumer: AnyConsumer
) -> None:
    waiting = asyncio.create_task(consumer.poll(600.0))
    await asyncio.sleep(0)  # it waits
    await log.add_partitions(2)

    with pytest.raises(TopicChangedError) as changed:
        async with asyncio.timeout(WAIT_SECONDS):
            await waiting

    assert changed.value.reason == "repartitioned"
    assert changed.value.after == changed.value.before._replace(partitions=6)


async def test_changed_topic_can_be_entered_anew(log: Log, consumer: AnyConsumer) -> None:
    await log.delete()
    await log.create()
    await _change_of(consumer)
    await log.write(*stamped(RECENT))
    async with log.consumer() as anew:
        assert anew.topic != consumer.topic
        assert offsets_of(await polled(anew, 1)) == {0: [0]}


async def test_retention_that_overtakes_the_reader_is_said(log: Log) -> None:
    large = [record._replace(value=bytes(4096)) for record in stamped(*[RECENT] * 1000)]
    await log.write(*large)  # more than the driver fetches ahead
    async with log.consumer() as consumer:
        await log.delete_before(1000)

        error = await _change_of(consumer)

    assert error.reason == "retention"
    assert error.before == error.after


# The broker is away


async def test_killed_broker_makes_answers_fail_and_polling_goes_on_by_itself(
    breakable_log: Log,
) -> None:
    log = breakable_log
    await log.write(*stamped(*[RECENT] * 3))
    async with asyncio.timeout(60), log.consumer() as consumer:
        assert offsets_of(await polled(consumer, 3)) == {0: [0, 1, 2]}
        await log.down()
        assert await consumer.poll(0.1) == {}
        for asked in (consumer.earliest(0), consumer.reaches(0, 4), consumer.offset_at(0, RECENT)):
            async with asyncio.timeout(GOES_BY):
                with pytest.raises(UnavailableError):
                    await asked
        async with asyncio.timeout(GOES_BY):
            with pytest.raises(UnavailableError):
                await consumer.scan(0, 0).__aenter__()
        async with asyncio.timeout(1):
            assert (await consumer.lags(time.time()))[0].records == 0
        await log.up()
        await log.write(*stamped(RECENT))

        assert offsets_of(await polled(consumer, 1)) == {0: [3]}
        assert (await consumer.earliest(0), await consumer.reaches(0, 4)) == (0, True)
        assert await consumer.offset_at(0, RECENT) == 0
        async with consumer.scan(0, 0) as scan:
            assert len(await read_to(scan, 4)) == 4


@pytest.mark.kafka
async def test_driver_is_quiet_while_the_broker_is_away(
    own_kafka: LocalKafka, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        where = Target(await asyncio.to_thread(own_kafka.up), "t")
    except MissingPartError as error:
        missing("kafka", str(error))
    await create_topic(where, partitions=4)
    async with Consumer(bootstrap_servers=where.servers, topic="t") as consumer:
        await asyncio.to_thread(own_kafka.kill, 1)
        caplog.clear()
        await consumer.poll(4.0)

    kinds = {(record.name, record.levelno, record.msg) for record in caplog.records}
    assert kinds
    assert len(caplog.records) == len(kinds), "each line once"


# What only the real one does


async def test_poll_is_bounded_and_what_waits_is_the_lag(kafka_log: KafkaLog) -> None:
    async with kafka_log.consumer() as consumer:
        async with kafka_log.transaction() as send:  # may be read all at once
            await asyncio.gather(*(send(b"value") for _ in range(800)))
        found: Mapping[int, Sequence[Any]] = {}
        while not found:
            found = await consumer.poll(1.0)
        lag = (await consumer.lags(found[0][-1].timestamp / 1000 + 5.0))[0]

    assert len(found[0]) == 500
    assert lag.records == 800 + 1 - 500, "the commit has an offset too"
    assert lag.seconds == pytest.approx(5.0)


async def test_records_of_an_aborted_transaction_are_never_read(kafka_log: KafkaLog) -> None:
    async with kafka_log.consumer() as consumer:
        async with kafka_log.transaction(abort=True) as send:
            await send(b"aborted")
        async with kafka_log.transaction() as send:
            await send(b"committed")

        [records] = (await polled(consumer, 1)).values()

    assert [record.value for record in records] == [b"committed"]


async def test_topic_a_broker_forgot_for_a_moment_is_read_on(kafka_log: KafkaLog) -> None:
    consumer = kafka_log.consumer()
    assert isinstance(consumer, Consumer)
    async with consumer:
        await kafka_log.write(*stamped(RECENT))
        await polled(consumer, 1)
        await consumer._rest()
        assert await consumer.poll(0.0) == {}
        await kafka_log.write(*stamped(RECENT))

        assert offsets_of(await polled(consumer, 1)) == {0: [1]}


async def test_topic_without_an_id_that_was_away_counts_as_another(kafka_log: KafkaLog) -> None:
    consumer = kafka_log.consumer()
    assert isinstance(consumer, Consumer)
    async with consumer:
        consumer.topic = Topic(0, 4)
        answers = iter([None, Topic(0, 4)])

        async def ask() -> Topic | None:
            return next(answers)

        with mock.patch.object(consumer._identity, "ask", ask):
            error = await _change_of(consumer)

    assert error.reason == "reset"


async def test_offsets_that_come_again_are_a_reset(kafka_log: KafkaLog) -> None:
    consumer = kafka_log.consumer()
    assert isinstance(consumer, Consumer)
    async with consumer:
        await kafka_log.write(*stamped(RECENT, RECENT))
        await polled(consumer, 2)
        consumer._started().seek(TopicPartition(kafka_log.where.topic, 0), 1)

        error = await _change_of(consumer)

    assert error.reason == "reset"


async def test_refusal_of_the_driver_is_logged_and_polling_goes_on(kafka_log: KafkaLog) -> None:
    consumer = kafka_log.consumer()
    assert isinstance(consumer, Consumer)
    refusal = mock.AsyncMock(side_effect=CorruptRecordException("Invalid CRC"))
    async with consumer:
        with (
            capture_logs() as lines,
            mock.patch.object(consumer._started(), "getmany", refusal),
        ):
            assert await consumer.poll(0.0) == {}
            assert await consumer.poll(0.0) == {}
        await kafka_log.write(*stamped(RECENT))

        assert offsets_of(await polled(consumer, 1)) == {0: [0]}

    assert [line["event"] for line in lines] == ["kafka refuses to be read"]


async def test_watch_that_fails_ends_the_node(kafka_log: KafkaLog) -> None:
    consumer = kafka_log.consumer()
    assert isinstance(consumer, Consumer)
    async with consumer:
        with mock.patch.object(consumer._identity, "ask", side_effect=ZeroDivisionError):
            await asyncio.wait([consumer._watching], timeout=WAIT_SECONDS)
        with pytest.raises(ZeroDivisionError):
            await consumer.poll(0.0)


async def test_driver_that_has_given_up_ends_the_node(kafka_log: KafkaLog) -> None:
    consumer = kafka_log.consumer()
    assert isinstance(consumer, Consumer)
    with suppress(KafkaError):  # leaving it says the same once more
        async with consumer:
            client = consumer._started()._client
            with mock.patch.object(client, "send", side_effect=ZeroDivisionError):
                await asyncio.wait([consumer._watching], timeout=WAIT_SECONDS)
            with pytest.raises(KafkaError, match="Unexpected error") as told:
                await consumer.poll(0.0)
    assert told.type is KafkaError


async def test_leaving_ends_everything_that_entering_began(kafka_log: KafkaLog) -> None:
    before = asyncio.all_tasks()
    async with kafka_log.consumer() as consumer:
        await consumer.poll(0.0)
        assert asyncio.all_tasks() > before

    assert asyncio.all_tasks() == before


async def test_slow_driver_is_said(kafka_log: KafkaLog) -> None:
    slow = default_records._DefaultRecordBatchPy
    with (
        capture_logs() as lines,
        mock.patch.object(default_records, "DefaultRecordBatch", slow),
    ):
        async with kafka_log.consumer():
            pass

    assert "C extension" in lines[0]["event"]


async def test_driver_has_its_c_extension() -> None:
    with capture_logs() as lines:
        consumer_module._tell_of_slow_driver()

    assert lines == []


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

import pytest
from aiokafka import TopicPartition
from conftest import delete_topic
from log_twins import KafkaLog, Log, minutes_ago, offsets_of, polled, read_to, stamped

from tailrace.cli.ports import free_ports
from tailrace.cli.topics import create_topic
from tailrace.edge.consumer import OffsetGoneError
from tailrace.edge.scan import scanning
from tailrace.schemas import UnavailableError

RECENT = minutes_ago(-30)  # of the future, lest it grow old while other tests run


async def test_scan_reads_one_partition_from_the_offset_to_the_end(log: Log) -> None:
    await log.write(*stamped(*range(RECENT, RECENT + 10)), partition=1)
    await log.write(*stamped(RECENT), partition=2)
    async with log.consumer() as consumer, consumer.scan(1, 4) as scan:
        assert scan.position == 4
        records = await read_to(scan, 10)

        assert [record.offset for record in records] == [4, 5, 6, 7, 8, 9]
        assert [record.value for record in records] == [b"v%d" % n for n in range(4, 10)]
        assert scan.position == 10
        assert list(await scan.read()) == []
        await log.write(*stamped(RECENT), partition=1)
        assert [record.offset for record in await read_to(scan, 11)] == [10]


async def test_batches_are_bounded(log: Log) -> None:
    await log.write(*stamped(*[RECENT] * 700))
    async with log.consumer() as consumer, consumer.scan(0, 0) as scan:
        sizes = []
        while scan.position < 700:
            sizes.append(len(await scan.read()))

    assert max(sizes) == 500
    assert sum(sizes) == 700


async def test_scans_disturb_neither_polling_nor_each_other(log: Log) -> None:
    await log.write(*stamped(*[RECENT] * 20))
    async with log.consumer() as consumer, consumer.scan(0, 0) as one, consumer.scan(0, 10) as two:
        first = await read_to(one, 20)
        found = await polled(consumer, 20)
        second = await read_to(two, 20)

    assert [record.offset for record in first] == list(range(20))
    assert offsets_of(found) == {0: list(range(20))}
    assert [record.offset for record in second] == list(range(10, 20))


async def test_offset_that_is_gone_is_told_with_what_is_left(log: Log) -> None:
    await log.write(*stamped(*[RECENT] * 10))
    await log.delete_before(6)
    async with log.consumer() as consumer, consumer.scan(0, 3) as scan:
        with pytest.raises(OffsetGoneError) as gone:
            await read_to(scan, 10)

    assert gone.value.earliest == 6


async def test_offset_past_the_end_is_gone_too(log: Log) -> None:
    await log.write(*stamped(RECENT))
    async with log.consumer() as consumer, consumer.scan(0, 5) as scan:
        with pytest.raises(OffsetGoneError):
            await read_to(scan, 6)


async def test_scan_passes_transaction_markers_and_aborted_records(kafka_log: KafkaLog) -> None:
    async with kafka_log.transaction() as send:
        await send(b"one")
    async with kafka_log.transaction(abort=True) as send:
        await send(b"never")
    await kafka_log.write(*stamped(RECENT))
    async with kafka_log.transaction(abort=True) as send:
        await send(b"never")
    async with kafka_log.consumer() as consumer, consumer.scan(0, 0) as scan:
        records = await read_to(scan, 7)
        ends = [await consumer.reaches(0, end) for end in (7, 8)]

    assert ends == [True, False]
    assert [(record.offset, record.value) for record in records] == [(0, b"one"), (4, b"v0")]


async def test_scan_of_a_topic_created_again_is_gone(kafka_log: KafkaLog) -> None:
    await kafka_log.write(*stamped(*[RECENT] * 3))
    async with kafka_log.consumer() as consumer, consumer.scan(0, 0) as scan:
        await read_to(scan, 3)
        await delete_topic(kafka_log.where)
        await create_topic(kafka_log.where, partitions=4)
        with pytest.raises(OffsetGoneError) as gone:
            await read_to(scan, 4)

    assert gone.value.earliest == 0


async def test_scan_without_a_broker_is_unavailable() -> None:
    [port] = free_ports(1)
    scan = scanning(
        bootstrap_servers=f"127.0.0.1:{port}",
        partition=TopicPartition("t", 0),
        offset=0,
        earliest=lambda _: pytest.fail("asked"),
    )
    with pytest.raises(UnavailableError, match="Kafka does not answer"):
        async with scan:
            pytest.fail("entered")

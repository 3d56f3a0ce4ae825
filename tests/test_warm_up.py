import pytest
from log_twins import KafkaLog, Log, minutes_ago, offsets_of, polled, stamped

OLD = minutes_ago(30)
RECENT = minutes_ago(-30)  # of the future, lest it grow old while other tests run


async def test_reading_begins_with_the_records_of_the_window(log: Log) -> None:
    await log.write(*stamped(OLD, OLD, RECENT, RECENT))
    async with log.consumer(warm_up_seconds=600.0) as consumer:
        assert consumer.starts[0] == (1, OLD)
        assert offsets_of(await polled(consumer, 2)) == {0: [2, 3]}


async def test_window_longer_than_the_log_is_all_of_it(log: Log) -> None:
    await log.write(*stamped(OLD, RECENT))
    async with log.consumer(warm_up_seconds=7200.0) as consumer:
        assert consumer.starts[0] == (-1, -1)
        assert offsets_of(await polled(consumer, 2)) == {0: [0, 1]}


async def test_partition_with_nothing_recent_begins_at_its_end(log: Log) -> None:
    await log.write(*stamped(OLD, OLD + 1))
    async with log.consumer(warm_up_seconds=600.0) as consumer:
        assert consumer.starts == {0: (1, OLD + 1), 1: (-1, -1), 2: (-1, -1), 3: (-1, -1)}
        assert consumer.targets == {0: 2, 1: 0, 2: 0, 3: 0}
        assert consumer.warm
        assert await consumer.poll(0.0) == {}


async def test_each_partition_has_an_equal_part_of_the_bound(log: Log) -> None:
    for partition in (0, 1):
        await log.write(*stamped(*[RECENT] * 10), partition=partition)
    async with log.consumer(warm_up_records=12) as consumer:
        assert {n: offset for n, (offset, _) in consumer.starts.items()} == {
            0: 6,
            1: 6,
            2: -1,
            3: -1,
        }
        assert offsets_of(await polled(consumer, 6)) == {0: [7, 8, 9], 1: [7, 8, 9]}


async def test_bound_of_nothing_begins_at_the_end(log: Log) -> None:
    await log.write(*stamped(RECENT, RECENT + 5))
    async with log.consumer(warm_up_records=0) as consumer:
        assert consumer.starts[0] == (1, RECENT + 5)
        assert consumer.warm


async def test_reading_never_begins_before_the_log(log: Log) -> None:
    await log.write(*stamped(*[RECENT] * 10))
    await log.delete_before(8)
    async with log.consumer() as consumer:
        assert consumer.starts[0] == (7, -1)
        assert offsets_of(await polled(consumer, 2)) == {0: [8, 9]}


async def test_consumer_turns_warm_at_the_ends_of_entering_and_stays_so(log: Log) -> None:
    await log.write(*stamped(*[RECENT] * 3))
    await log.write(*stamped(*[RECENT] * 2), partition=3)
    async with log.consumer() as consumer:
        assert consumer.targets == {0: 3, 1: 0, 2: 0, 3: 2}
        assert not consumer.warm
        await polled(consumer, 5)
        assert consumer.warm
        await log.write(*stamped(RECENT))
        assert consumer.warm


async def test_window_that_ends_in_a_transaction_marker_turns_warm(kafka_log: KafkaLog) -> None:
    async with kafka_log.transaction() as send:
        await send(b"committed")
    async with kafka_log.transaction(abort=True) as send:
        await send(b"aborted")
    async with kafka_log.consumer() as consumer:
        assert consumer.targets[0] == 4
        [records] = (await polled(consumer, 1)).values()
        while not consumer.warm:
            assert await consumer.poll(20.0) == {}

    assert [record.value for record in records] == [b"committed"]


@pytest.mark.parametrize("abort", [True, False])
async def test_marker_before_the_window_has_no_timestamp(kafka_log: KafkaLog, abort: bool) -> None:  # noqa: FBT001
    async with kafka_log.transaction(abort=abort) as send:
        await send(b"value")
    async with kafka_log.consumer(warm_up_records=0) as consumer:
        assert consumer.starts[0] == (1, -1)
        await kafka_log.write(*stamped(RECENT))

        assert offsets_of(await polled(consumer, 1)) == {0: [2]}

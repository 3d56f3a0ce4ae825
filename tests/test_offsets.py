import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
from aiokafka import TopicPartition
from conftest import delete_topic
from log_twins import AnyConsumer, KafkaLog, Log, minutes_ago, stamped
from memory_node import settled

from tailrace.edge import offsets as module
from tailrace.edge.offsets import Offsets
from tailrace.schemas import UnavailableError


@pytest.fixture
async def consumer(log: Log) -> AsyncIterator[AnyConsumer]:
    async with log.consumer() as consumer:
        yield consumer


async def test_empty_partition_begins_and_ends_at_zero(consumer: AnyConsumer) -> None:
    assert (await consumer.earliest(2), await consumer.reaches(2, 0)) == (0, True)
    assert not await consumer.reaches(2, 1)
    assert await consumer.offset_at(2, minutes_ago(5)) == 0


async def test_partition_begins_where_retention_has_left_it(
    log: Log, consumer: AnyConsumer
) -> None:
    await log.write(*stamped(*range(1, 11)), partition=1)
    await log.delete_before(4, partition=1)

    assert (await consumer.earliest(1), await consumer.earliest(0)) == (4, 0)
    assert await consumer.reaches(1, 10)
    assert not await consumer.reaches(1, 11)


async def test_offset_at_is_the_first_one_at_or_after_the_time(
    log: Log, consumer: AnyConsumer
) -> None:
    old = minutes_ago(30)
    await log.write(*stamped(old, old + 10, old + 20))

    found = [await consumer.offset_at(0, old + n) for n in (-5, 0, 1, 10, 20)]

    assert found == [0, 0, 1, 1, 2]


async def test_offset_at_a_time_after_all_is_the_end(log: Log, consumer: AnyConsumer) -> None:
    await log.write(*stamped(minutes_ago(30), minutes_ago(20)))

    assert await consumer.offset_at(0, minutes_ago(10)) == 2


async def test_offset_at_a_time_before_the_epoch_is_the_beginning(
    log: Log, consumer: AnyConsumer
) -> None:
    await log.write(*stamped(minutes_ago(30)))

    assert await consumer.offset_at(0, -1) == 0


@pytest.fixture
async def offsets(kafka_log: KafkaLog) -> AsyncIterator[Offsets]:
    where = kafka_log.where
    async with Offsets(bootstrap_servers=where.servers, topic=where.topic) as offsets:
        yield offsets


async def test_end_is_before_a_transaction_that_is_open(
    kafka_log: KafkaLog, offsets: Offsets
) -> None:
    async with kafka_log.transaction() as send:
        await send(b"value")
        assert await offsets.end(0) == 0
    async with asyncio.timeout(20):
        while await offsets.end(0) < 2:  # the commit has an offset too
            pass


async def test_callers_who_ask_the_same_at_once_share_one_request(
    offsets: Offsets, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    driver = offsets._consumer

    def count(name: str, ask: Any) -> None:
        def counted(what: Any) -> Any:
            asked.append(name)
            return ask(what)

        monkeypatch.setattr(driver, name, counted)

    for name in ("beginning_offsets", "end_offsets", "offsets_for_times"):
        count(name, getattr(driver, name))

    await asyncio.gather(*(offsets.earliest(0) for _ in range(20)))
    await asyncio.gather(*(offsets.end(0) for _ in range(20)))
    await asyncio.gather(*(offsets.at(0, 5) for _ in range(20)))

    assert asked == ["beginning_offsets", "end_offsets", "offsets_for_times", "end_offsets"]
    assert (offsets._asking, offsets._next) == ({}, {})


class Partition:
    """Stands in for the driver: the end of a log that grows while it is asked."""

    def __init__(self, *ends: int) -> None:
        self.ends = list(ends)
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.answered = asyncio.Event()

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked += 1
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        await self.answering.wait()
        self.answered.set()
        return dict.fromkeys(partitions, end)


def asking(partition: Partition) -> Offsets:
    with mock.patch.object(module, "reader", return_value=partition):
        return Offsets(bootstrap_servers="", topic="t")


async def test_answer_is_never_older_than_its_question() -> None:
    partition = Partition(5, 6, 7)
    offsets = asking(partition)
    partition.answering.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(offsets.end(0))
        await settled()
        later = [group.create_task(offsets.end(0)) for _ in range(20)]
        other = group.create_task(offsets.end(1))
        await settled()
        assert partition.asked == 2, "of each partition"
        partition.answering.set()

    assert first.result() == 5
    assert other.result() == 6
    assert [task.result() for task in later] == [7] * 20
    assert partition.asked == 3
    assert (offsets._asking, offsets._next) == ({}, {})


async def test_one_who_asks_as_an_answer_comes_in_asks_anew() -> None:
    partition = Partition(5, 6)
    offsets = asking(partition)

    async def ask_late() -> int:
        await partition.answered.wait()
        return await offsets.end(0)

    late = asyncio.create_task(ask_late())
    await settled()

    assert await offsets.end(0) == 5
    assert await late == 6


async def test_log_that_goes_on_elsewhere_is_waited_for() -> None:
    partition = Partition(5, 5, 9)

    assert await asking(partition).reaches(0, 7)
    assert partition.asked == 3


async def test_caller_that_gives_up_does_not_end_the_others_request(offsets: Offsets) -> None:
    first = asyncio.create_task(offsets.end(0))
    second = asyncio.create_task(offsets.end(0))
    await asyncio.sleep(0)  # both ask
    first.cancel()

    assert await second == 0
    assert first.cancelled()


async def test_topic_that_is_gone_is_unavailable(kafka_log: KafkaLog, offsets: Offsets) -> None:
    await delete_topic(kafka_log.where)

    with pytest.raises(UnavailableError, match="Kafka does not answer"):
        await offsets.earliest(0)


async def test_leaving_ends_questions_under_way_without_cancelling_who_asked(
    kafka_log: KafkaLog,
) -> None:
    where = kafka_log.where
    async with Offsets(bootstrap_servers=where.servers, topic="nowhere") as offsets:
        asking = asyncio.create_task(offsets.earliest(0))
        await asyncio.sleep(0)  # it asks

    with pytest.raises(UnavailableError, match="not read any more"):
        await asking

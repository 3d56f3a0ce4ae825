"""The log as the edge's contract tests need it: on a real Kafka, and in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.records_to_delete import RecordsToDelete
from edge_harness import WAIT_SECONDS
from memory_topic import MemoryConsumer, MemoryScan, MemoryTopic, StubRecord

from tailrace.cli.local_kafka import LocalKafka
from tailrace.cli.topics import Target, create_topic
from tailrace.edge.consumer import Consumer, Scan

__all__ = [
    "AnyConsumer",
    "KafkaLog",
    "Log",
    "MemoryLog",
    "minutes_ago",
    "offsets_of",
    "polled",
    "read_to",
    "stamped",
]

AnyConsumer = Consumer | MemoryConsumer


def minutes_ago(minutes: float) -> int:
    """Return a timestamp in ms."""
    return int((time.time() - 60 * minutes) * 1000)


def stamped(*timestamps_ms: int) -> list[StubRecord]:
    """Return a record per timestamp; the log gives them their offsets."""
    return [StubRecord(0, stamp, b"k", b"v%d" % n, ()) for n, stamp in enumerate(timestamps_ms)]


class Log:
    """A topic of 4 partitions and what can happen to it."""

    async def write(self, *records: StubRecord, partition: int = 0) -> None:
        """Append records; their offsets are not looked at."""
        raise NotImplementedError

    def consumer(self, **settings: Any) -> AnyConsumer:
        raise NotImplementedError

    async def delete_before(self, offset: int, partition: int = 0) -> None:
        raise NotImplementedError

    async def delete(self) -> None:
        raise NotImplementedError

    async def create(self, partitions: int = 4) -> None:
        raise NotImplementedError

    async def add_partitions(self, count: int) -> None:
        raise NotImplementedError

    async def down(self) -> None:
        """Kill the broker."""
        raise NotImplementedError

    async def up(self) -> None:
        """Start it again."""
        raise NotImplementedError


class MemoryLog(Log):
    def __init__(self) -> None:
        self.memory = MemoryTopic()

    async def write(self, *records: StubRecord, partition: int = 0) -> None:
        self.memory.put(*(record._replace(offset=0) for record in records), partition=partition)

    def consumer(self, **settings: Any) -> AnyConsumer:
        return MemoryConsumer(self.memory, **settings)

    async def delete_before(self, offset: int, partition: int = 0) -> None:
        self.memory.delete_before(offset, partition)

    async def delete(self) -> None:
        self.memory.delete()

    async def create(self, partitions: int = 4) -> None:
        self.memory.create(partitions)

    async def add_partitions(self, count: int) -> None:
        self.memory.add_partitions(count)

    async def down(self) -> None:
        self.memory.unavailable = True
        self.memory.happen()

    async def up(self) -> None:
        self.memory.unavailable = False
        self.memory.happen()


class KafkaLog(Log):
    def __init__(self, where: Target, process: LocalKafka | None = None) -> None:
        self.where = where
        self._process = process

    async def write(self, *records: StubRecord, partition: int = 0) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=self.where.servers, enable_idempotence=True
        ) as producer:
            sent = [
                await producer.send(
                    self.where.topic,
                    record.value,
                    key=record.key,
                    partition=partition,
                    timestamp_ms=record.timestamp,
                    headers=list(record.headers),
                )
                for record in records
            ]
            await asyncio.gather(*sent)

    def consumer(self, **settings: Any) -> AnyConsumer:
        return Consumer(bootstrap_servers=self.where.servers, topic=self.where.topic, **settings)

    async def delete_before(self, offset: int, partition: int = 0) -> None:
        tp = TopicPartition(self.where.topic, partition)
        async with self._admin() as admin:
            await admin.delete_records({tp: RecordsToDelete(offset)})

    async def delete(self) -> None:
        async with self._admin() as admin:
            await admin.delete_topics([self.where.topic])

    async def create(self, partitions: int = 4) -> None:
        await create_topic(self.where, partitions=partitions)

    async def add_partitions(self, count: int) -> None:
        async with self._admin() as admin:
            await admin.create_partitions({self.where.topic: NewPartitions(4 + count)})

    async def down(self) -> None:
        assert self._process is not None, "a Kafka shared with other tests"
        await asyncio.to_thread(self._process.kill, 1)

    async def up(self) -> None:
        assert self._process is not None, "a Kafka shared with other tests"
        await asyncio.to_thread(self._process.start, 1)

    @asynccontextmanager
    async def transaction(self, *, abort: bool = False) -> AsyncIterator[Callable[[bytes], Any]]:
        """Write into partition 0; the end of the block leaves a marker there."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.where.servers, transactional_id=f"{self.where.topic}-writer"
        ) as producer:
            await producer.begin_transaction()

            async def send(value: bytes) -> None:
                await producer.send_and_wait(self.where.topic, value, key=b"k", partition=0)

            yield send
            await (producer.abort_transaction() if abort else producer.commit_transaction())

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.where.servers)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


async def polled(consumer: AnyConsumer, count: int) -> dict[int, list[Any]]:
    """Poll until there are `count` records and return them by partition."""
    found: dict[int, list[Any]] = {}
    async with asyncio.timeout(WAIT_SECONDS):
        while sum(map(len, found.values())) < count:
            for partition, records in (await consumer.poll(1.0)).items():
                found.setdefault(partition, []).extend(records)
    return found


def offsets_of(found: dict[int, list[Any]]) -> dict[int, list[int]]:
    return {partition: [record.offset for record in found[partition]] for partition in found}


async def read_to(scan: Scan | MemoryScan, position: int) -> list[Any]:
    """Read until the scan stands at `position`."""
    found: list[Any] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while scan.position < position:
            found += await scan.read()
    return found

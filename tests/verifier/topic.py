"""Reads the topic whole, by a plain consumer, and writes a load to it, whatever brokers do."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from verifier.load import Load, Planned
from verifier.record import Record

__all__ = ["Pace", "read_topic", "write_load"]

_CHUNK_S: Final = 0.05
_AGAIN_S: Final = 0.2
_GIVE_UP_S: Final = 120.0


class Pace(NamedTuple):
    """How much is written."""

    rate: float
    """Records per second, due whatever became of those before."""
    seconds: float
    """At least; until `enough` is set as well."""
    enough: asyncio.Event | None = None


async def read_topic(servers: str, topic: str) -> list[Record]:
    """Return every committed record up to the present end, in ascending offset per partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        found = await _partitions(consumer, topic)
        consumer.assign(found)
        ends = await consumer.end_offsets(found)
        for partition, begin in (await consumer.beginning_offsets(found)).items():
            consumer.seek(partition, begin)
        records: list[Record] = []
        while any([await consumer.position(p) < end for p, end in ends.items()]):
            batches = await consumer.getmany(timeout_ms=1000, max_records=5000)
            for batch in batches.values():
                records += [
                    Record(r.partition, r.offset, r.key, r.value, tuple(r.headers)) for r in batch
                ]
        return records
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    consumer.assign([TopicPartition(topic, 0)])
    await consumer.seek_to_beginning()
    count = len(consumer.partitions_for_topic(topic) or ())
    return [TopicPartition(topic, number) for number in range(count)]


async def write_load(servers: str, topic: str, load: Load, pace: Pace) -> int:
    """Write a load from its beginning to its markers; the number of records.

    What a broker did not acknowledge is written again with everything after it, so that it may
    stand in the log twice: as a retry, which is what a producer does.

    Raises:
        TimeoutError: The brokers did not take a record for 120 s.
    """
    writer = _Writer(servers, topic)
    async with writer.running():
        await writer.write([*load.begin()])
        await _steps(writer, load, pace)
        await writer.write([*load.end()])
    return writer.written


async def _steps(writer: "_Writer", load: Load, pace: Pace) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    size = max(1, int(pace.rate * _CHUNK_S))
    for number, chunk in enumerate(_chunks(_planned(load, pace), size)):
        await asyncio.sleep(max(0.0, begin + number * size / pace.rate - loop.time()))
        await writer.write(chunk)


def _planned(load: Load, pace: Pace) -> Iterator[Planned]:
    steps = (planned for _ in iter(int, 1) for planned in load.step())
    yield from islice(steps, int(pace.rate * pace.seconds))
    while pace.enough is not None and not pace.enough.is_set():
        yield next(steps)


def _chunks(planned: Iterator[Planned], size: int) -> Iterator[list[Planned]]:
    while chunk := list(islice(planned, size)):
        yield chunk


class _Writer:
    """Writes records in order; a failed producer is replaced, as its sequence is spoilt."""

    def __init__(self, servers: str, topic: str) -> None:
        self._servers = servers
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None
        self.written = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._discard()

    async def write(self, planned: Sequence[Planned]) -> None:
        """Write and wait until everything is acknowledged."""
        async with asyncio.timeout(_GIVE_UP_S):
            while not await self._written(planned):
                await self._discard()
                await asyncio.sleep(_AGAIN_S)  # a broker that is away refuses at once
        self.written += len(planned)

    async def _written(self, planned: Iterable[Planned]) -> bool:
        try:
            if self._producer is None:
                self._producer = AIOKafkaProducer(
                    bootstrap_servers=self._servers,
                    enable_idempotence=True,
                    request_timeout_ms=15_000,
                )
                await self._producer.start()
            sent = [await self._send(each) for each in planned]
            results = await asyncio.gather(*sent, return_exceptions=True)
        except (KafkaError, OSError):
            return False
        return not any(isinstance(result, BaseException) for result in results)

    async def _send(self, planned: Planned) -> "asyncio.Future[object]":
        assert self._producer is not None, "started"
        partition = 0 if planned.key is None else None
        future: asyncio.Future[object] = await self._producer.send(
            self._topic,
            planned.value,
            key=planned.key,
            headers=planned.headers,
            partition=partition,
        )
        return future

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

"""Reads a topic whole, by a plain consumer that knows nothing of Tailrace."""

from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from tailrace.schemas import Event, decode

__all__ = ["Read", "read_topic"]


class Read(NamedTuple):
    """One record as a reader sees it."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]
    event: Event


async def read_topic(servers: str, topic: str) -> list[Read]:
    """Return every record up to the present end of each partition, in order per partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        count = len(consumer.partitions_for_topic(topic) or ())
        partitions = [TopicPartition(topic, number) for number in range(count)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[Read] = []
        for partition in partitions:
            consumer.seek(partition, 0)
        while any([await consumer.position(p) < end for p, end in ends.items()]):
            batches = await consumer.getmany(timeout_ms=1000)
            found += [_read(record) for batch in batches.values() for record in batch]
        return found
    finally:
        await consumer.stop()


def _read(record: object) -> Read:
    partition, offset = record.partition, record.offset  # type: ignore[attr-defined]
    key, value = record.key, record.value  # type: ignore[attr-defined]
    headers = dict(record.headers)  # type: ignore[attr-defined]
    timestamp = record.timestamp  # type: ignore[attr-defined]
    return Read(partition, offset, timestamp, key, value, headers, decode(value))

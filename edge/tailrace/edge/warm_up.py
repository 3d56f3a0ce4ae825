"""Where reading begins: the newest part of each partition, so that a new node knows the recent."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from tailrace.edge.offsets import Offsets

__all__ = ["Window", "timestamps_before", "warm_up_start"]

_LOOK_BACK_SECONDS = 4.0
_TURN_MS = 100


class Window(NamedTuple):
    """The part of a partition that is read back, and what bounds it."""

    earliest: int
    """The log begins here."""
    start: int
    end: int
    """Exclusive; the last stable offset."""


async def warm_up_start(offsets: Offsets, partition: int, *, since_ms: int, most: int) -> Window:
    """Return what is not older than `since_ms` and not more than `most` offsets.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    earliest = await offsets.earliest(partition)
    recent = await offsets.at(partition, since_ms)
    end = await offsets.end(partition)
    return Window(earliest, min(end, max(earliest, recent, end - most)), end)


async def timestamps_before(
    consumer: AIOKafkaConsumer, windows: Mapping[TopicPartition, Window]
) -> dict[TopicPartition, int]:
    """Return the timestamp (ms) of the record just before each window, where there is one.

    The partitions must be assigned; their positions are elsewhere afterwards. What cannot be read
    within 4 s is left out.
    """
    found: dict[TopicPartition, int] = {}
    waiting = {tp for tp, window in windows.items() if window.earliest < window.start}
    for tp, window in windows.items():
        consumer.seek(tp, window.start - 1 if tp in waiting else window.start)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_BACK_SECONDS):
            while waiting:
                fetched = await consumer.getmany(*waiting, timeout_ms=_TURN_MS, max_records=1)
                for tp, [record] in fetched.items():
                    if record.offset == windows[tp].start - 1:
                        found[tp] = record.timestamp
                # Where a transaction marker stands, there is no record to come.
                waiting -= {tp for tp in waiting if await _passed(consumer, tp, windows[tp])}
    return found


async def _passed(consumer: AIOKafkaConsumer, tp: TopicPartition, window: Window) -> bool:
    return bool(await consumer.position(tp) >= window.start)

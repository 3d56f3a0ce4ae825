"""Where events go instead of Kafka: to stdout while developing, to memory in tests."""

import sys
from collections.abc import Callable

import orjson

from tailrace.producers.kafka import KafkaProducer, Producer
from tailrace.producers.lanes import Outgoing
from tailrace.producers.settings import ProducerSettings
from tailrace.schemas import Event, decode

__all__ = ["CallingProducer", "line_of", "producer_of"]


class CallingProducer:
    """`Producer` that hands each event to a function, in order; it never fails.

    Args:
        take: Called on the background loop.
    """

    def __init__(self, take: Callable[[Event], object]) -> None:
        self._take = take

    async def start(self) -> int:
        """See `Producer.start`."""
        return 1

    async def partitions(self) -> int:
        """See `Producer.partitions`."""
        return 1

    async def send(self, partition: int, records: list[Outgoing]) -> int:
        """See `Producer.send`."""
        assert partition == 0, "there is only one"
        for record in records:
            self._take(decode(record.value))
        return len(records)

    async def stop(self) -> None:
        """See `Producer.stop`."""


def producer_of(settings: ProducerSettings) -> Producer:
    """Return the producer that `ProducerSettings.sink` asks for."""
    if settings.sink == "stdout":
        return CallingProducer(_print)
    if settings.sink == "memory":
        return CallingProducer(_forget)
    return KafkaProducer(settings)


def line_of(event: Event) -> bytes:
    """Return an event as a line that ``tailrace produce`` takes."""
    line: dict[str, object] = {
        "project": event.project_id,
        "type": event.type,
        "kind": event.kind,
    }
    if event.run_id is not None:
        line["run"] = event.run_id
    if event.error_message is not None:
        line["error"] = event.error_message
    return orjson.dumps(orjson.loads(event.data) | line)


def _print(event: Event) -> None:
    sys.stdout.write(line_of(event).decode() + "\n")
    sys.stdout.flush()


def _forget(_event: Event) -> None:
    """Take it and keep nothing: a test that wants to look uses ``captured_events``."""

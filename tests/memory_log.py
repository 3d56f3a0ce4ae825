"""An in-memory twin of Kafka for the producing side: as strict about order, and fails to order."""

import asyncio
import threading
from collections import deque

from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
)

from tailrace.producers import ProducerSettings
from tailrace.producers.lanes import Outgoing

__all__ = ["MemoryLog"]


class MemoryLog:
    """Partitions of records, and what goes wrong next. Scripted from any thread."""

    def __init__(self, partitions: int = 2) -> None:
        self.partitions = partitions
        self.written: list[tuple[int, Outgoing]] = []
        """(partition, record), in the order of writing."""
        self.up = threading.Event()
        """While it is not set no producer starts, and batches under way wait."""
        self.up.set()
        self.start_errors: deque[Exception] = deque()
        self.send_errors: deque[tuple[Exception, bool]] = deque()
        """(error, whether the batch is written all the same), one per batch."""
        self.refuses: dict[bytes, Exception] = {}
        """Text in a value -> what Kafka says to a batch that holds it."""
        self.max_value_bytes = 1 << 30
        self.started = 0
        self.stopped = 0
        self.batches: list[int] = []
        self.attempted = threading.Event()
        """Set by every attempt to start."""

    def connect(self, _settings: ProducerSettings) -> "MemoryProducer":
        """Make a producer, the same as `KafkaProducer` would."""
        return MemoryProducer(self)


class MemoryProducer:
    """`Producer` on a `MemoryLog`; after a failure it fails for ever, as aiokafka's does."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._spent = False

    async def start(self) -> int:
        log = self._log
        log.attempted.set()
        if log.start_errors:
            raise log.start_errors.popleft()
        if not log.up.is_set():
            raise KafkaConnectionError("nobody listens")
        log.started += 1
        return log.partitions

    async def partitions(self) -> int:
        return self._log.partitions

    async def send(self, partition: int, records: list[Outgoing]) -> int:
        log = self._log
        await asyncio.to_thread(log.up.wait)
        if self._spent:
            raise OutOfOrderSequenceNumber
        log.batches.append(len(records))
        error, written = self._fate(records)
        if written:
            log.written += [(partition, record) for record in records]
        if error is not None:
            self._spent = True
            raise error
        return len(records)

    async def stop(self) -> None:
        self._log.stopped += 1

    def _fate(self, records: list[Outgoing]) -> tuple[Exception | None, bool]:
        if self._log.send_errors:
            return self._log.send_errors.popleft()
        if sum(len(record.value) for record in records) > self._log.max_value_bytes:
            return MessageSizeTooLargeError(), False
        for text, error in self._log.refuses.items():
            if any(text in record.value for record in records):
                return error, False
        return None, True

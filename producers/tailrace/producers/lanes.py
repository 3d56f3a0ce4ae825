"""What has left the buffer and is not acknowledged yet, by partition. Pure.

Each partition is a lane: a queue whose head is under way in one batch. A record leaves its lane
when Kafka has acknowledged it and not before, and nothing behind a batch is sent before that batch
is acknowledged. That is all there is to order: a failed batch is simply still at the head.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

__all__ = ["Lane", "Lanes", "Outgoing"]

_OVERHEAD_BYTES = 384
"""What headers of usual length and the record's own frame take."""


class Outgoing(NamedTuple):
    """A Kafka record on its way: encoded once, the same bytes on every retry."""

    ticket: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    timestamp_ms: int

    @property
    def size(self) -> int:
        """What the record takes of the window and of a batch, in bytes, to within some headers."""
        return len(self.key) + len(self.value) + _OVERHEAD_BYTES


class Lane:
    """The records of one partition, oldest first."""

    __slots__ = ("busy", "limit", "partition", "queue", "strikes")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.queue: deque[Outgoing] = deque()
        self.busy = False
        """Whether someone is sending its head."""
        self.limit: int | None = None
        """Records per batch while a record that Kafka refuses is being searched for."""
        self.strikes = 0
        """How often the head alone was refused."""

    def head(self, max_bytes: int) -> list[Outgoing]:
        """Return the records of the next batch: the first one, and what fits behind it."""
        chosen: list[Outgoing] = []
        for record in islice(self.queue, self.limit):
            max_bytes -= record.size
            if max_bytes < 0 and chosen:
                break
            chosen.append(record)
        return chosen


class Lanes:
    """All lanes, bounded together.

    Args:
        partition_of: (key, partition count) -> partition.
        max_events: Records held at most; `room` is 0 then and the rest waits in the buffer.
        max_bytes: The same bound in bytes; the last record may exceed it.
        batch_bytes: Size of a batch; halved where the topic takes less.
    """

    def __init__(
        self,
        partition_of: Callable[[bytes, int], int],
        *,
        max_events: int = 20_000,
        max_bytes: int = 16 << 20,
        batch_bytes: int = 256 << 10,
    ) -> None:
        self._partition_of = partition_of
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._lanes: dict[int, Lane] = {}
        self.batch_bytes = batch_bytes
        self.partitions = 0
        """Partition count that the lanes are laid out for; 0 before the first `lay_out`."""
        self.events = 0
        self.bytes = 0

    def lay_out(self, partitions: int) -> None:
        """Prepare for a topic of `partitions`: nobody sends from any lane any more.

        After a change of the count records are dealt out again in the order of emission, so that a
        project is in one lane only.
        """
        for lane in self._lanes.values():
            lane.busy = False
        if partitions == self.partitions:
            return
        held = self.held()
        self._lanes = {partition: Lane(partition) for partition in range(partitions)}
        self.partitions = partitions
        for record in held:
            self._lane_of(record).queue.append(record)

    def room(self) -> tuple[int, int]:
        """Return how many events and bytes may still be added; 0 where there is no room."""
        return max(0, self._max_events - self.events), max(0, self._max_bytes - self.bytes)

    def add(self, record: Outgoing) -> None:
        """Append a record to its partition's lane."""
        self.events += 1
        self.bytes += record.size
        self._lane_of(record).queue.append(record)

    def startable(self) -> Iterable[Lane]:
        """Return the lanes that have something to send and nobody who sends it."""
        return [lane for lane in self._lanes.values() if lane.queue and not lane.busy]

    def acknowledge(self, lane: Lane, count: int) -> None:
        """Forget the first `count` records of a lane: they are written."""
        for _ in range(count):
            self._forget(lane)
        lane.limit = None
        lane.strikes = 0

    def halve(self, lane: Lane, count: int) -> None:
        """Make the lane's next batch half of the `count` records that were refused together."""
        lane.limit = max(1, count // 2)

    def shrink(self, lane: Lane, count: int) -> None:
        """Make all batches smaller than the first `count` records of the lane, for good."""
        failed = sum(record.size for record in islice(lane.queue, count))
        self.batch_bytes = max(1, min(self.batch_bytes, failed) // 2)

    def replace(self, lane: Lane, record: Outgoing) -> None:
        """Put a smaller record in the place of a lane's head."""
        self.bytes += record.size - lane.queue[0].size
        lane.queue[0] = record

    def drop(self, lane: Lane) -> None:
        """Give up the head of a lane: Kafka will never take it."""
        self._forget(lane)
        lane.limit = None
        lane.strikes = 0

    def oldest(self) -> int | None:
        """Return the ticket of the oldest record that is not acknowledged."""
        return min(
            (lane.queue[0].ticket for lane in self._lanes.values() if lane.queue), default=None
        )

    def held(self) -> list[Outgoing]:
        """Return all records, in the order of their tickets."""
        return sorted(record for lane in self._lanes.values() for record in lane.queue)

    def _lane_of(self, record: Outgoing) -> Lane:
        return self._lanes[self._partition_of(record.key, self.partitions)]

    def _forget(self, lane: Lane) -> None:
        record = lane.queue.popleft()
        self.events -= 1
        self.bytes -= record.size

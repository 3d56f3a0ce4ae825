"""What goes to viewers in one piece: a range of the log for one channel, coalesced. Pure."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from tailrace.batching import Logged
from tailrace.schemas import Envelope, Event, Position

__all__ = ["Chunk", "Entry", "Record", "Rendered"]


Record: TypeAlias = Logged
"""The parts of a consumed Kafka record that the edge reads."""


_ENTRY_BYTES = 400
"""What a waiting record costs beside its value."""


class Rendered(NamedTuple):
    """An event as its viewers get it."""

    offset: int
    timestamp_ms: int
    occurred_at: int
    """Moment of the emit, microseconds since the epoch."""
    text: bytes
    """The event JSON, without a cursor."""


class Entry:
    """A record on its way to viewers, shared by all channels that want it.

    It is decoded and rendered at most once, and only if it is delivered.
    """

    __slots__ = ("envelope", "event", "record", "rejected", "rendered", "size")

    def __init__(self, record: Record, envelope: Envelope, event: Event | None = None) -> None:
        self.record = record
        self.envelope = envelope
        self.event = event
        """Decoded already, because the record has no usable headers."""
        self.rendered: Rendered | None = None
        self.rejected = False
        """Found to be undeliverable, and counted."""
        self.size = len(record.value or b"") + _ENTRY_BYTES
        """Bytes that it takes while it waits."""


class Chunk:
    """The range (prev, cursor] of a channel: what is left of it, and how much was replaced.

    Its bytes are built at most once per dialect (`dialect.frame_of`).
    """

    __slots__ = ("cursor", "events", "frames", "name", "prev", "skipped")

    def __init__(
        self,
        name: str,
        prev: Position,
        cursor: Position,
        events: Sequence[Rendered] = (),
        skipped: int = 0,
    ) -> None:
        self.name = name
        """The channel's canonical name."""
        self.prev = prev
        self.cursor = cursor
        self.events = events
        """In ascending offset."""
        self.skipped = skipped
        """States that newer ones replaced."""
        self.frames: dict[object, bytes] = {}
        """Dialect -> bytes."""

    @property
    def size(self) -> int:
        """Bytes of the events."""
        return sum([len(event.text) for event in self.events])

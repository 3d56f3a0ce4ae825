"""The hub: records in, broadcasts out. Decides everything, performs nothing. Pure.

project -> channels. A record of a project that nobody watches costs one dict lookup and is never
decoded.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from tailrace.edge.channel import Channel, ChannelKey, Pending
from tailrace.edge.protocol import plain_frame
from tailrace.edge.session import Session
from tailrace.schemas import (
    Envelope,
    Event,
    Headers,
    Position,
    RecordError,
    decode,
    envelope_of,
    event_json,
    format_cursor,
    parse_headers,
)

__all__ = ["Broadcast", "Hub", "HubCounts", "Record", "Skip"]


class Record(Protocol):
    """The parts of a consumed Kafka record that the hub reads."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Headers: ...  # noqa: D102


Skip = Callable[[int, int, RecordError], None]
"""Told of each record that cannot be delivered: partition, offset, why."""


class Broadcast(NamedTuple):
    """Bytes that go to all viewers of a channel, in one write each."""

    frames: bytes
    sessions: tuple[Session, ...]
    """Who watched when the frames were made; whoever came later starts after them."""
    prev: str
    """Cursor of the viewers before this broadcast; empty at the channel's first."""
    occurred_at: tuple[int, ...]
    """Moment of each event in `frames`, microseconds since the epoch."""


class HubCounts:
    """What the hub has done so far."""

    __slots__ = ("decoded", "records")

    def __init__(self) -> None:
        self.records = 0
        self.decoded = 0


class Hub:
    """All channels of a node.

    Args:
        skip: Told of each record that cannot be delivered.

    Memory grows with the channels that are watched now, and with nothing else: a channel is
    dropped with its last viewer.
    """

    def __init__(self, *, skip: Skip) -> None:
        self.counts = HubCounts()
        self._skip = skip
        self._projects: dict[bytes, dict[ChannelKey, Channel]] = {}
        self._due: dict[Channel, int] = {}

    def __len__(self) -> int:
        """Return the number of channels that are watched."""
        return sum(map(len, self._projects.values()))

    def subscribe(self, key: ChannelKey, session: Session) -> None:
        """Make `session` a viewer of the channel, from the next record on."""
        channels = self._projects.setdefault(key.project_id.encode(), {})
        channel = channels.get(key)
        if channel is None:
            channel = channels[key] = Channel(key)
        channel.sessions.add(session)

    def unsubscribe(self, key: ChannelKey, session: Session) -> None:
        """Forget a viewer, and the channel with its last one."""
        project = key.project_id.encode()
        channels = self._projects[project]
        channel = channels[key]
        channel.sessions.discard(session)
        if not channel.sessions:
            del channels[key]
            self._due.pop(channel, None)
        if not channels:
            del self._projects[project]

    def publish(self, partition: int, records: Iterable[Record]) -> None:
        """Route consumed records, in ascending offset, to the channels that want them."""
        for record in records:
            self.counts.records += 1
            key = record.key
            if not key:
                self._skip(partition, record.offset, RecordError("no_key", "it names no project"))
            elif key in self._projects and record.value is not None:  # None: a tombstone
                try:
                    self._route(partition, key, record.value, record)
                except RecordError as error:
                    self._skip(partition, record.offset, error)

    def _route(self, partition: int, key: bytes, value: bytes, record: Record) -> None:
        envelope = parse_headers(record.headers)
        event = None
        if envelope is None:
            event = self._decode(key, value)
            envelope = envelope_of(event)
        pending = Pending(record.offset, record.timestamp, key, value, event)
        for channel in self._wanting(key, envelope):
            channel.pending.append(pending)
            self._due[channel] = partition

    def _wanting(self, key: bytes, envelope: Envelope) -> list[Channel]:
        return [c for c in self._projects[key].values() if c.wants(envelope)]

    def flush(self, partitions: int) -> list[Broadcast]:
        """Return what is to be written now, each channel's pending events as one broadcast.

        Args:
            partitions: The topic's partition count, which cursors carry.
        """
        due, self._due = self._due, {}
        rendered: dict[tuple[int, int], tuple[Event, bytes] | None] = {}
        broadcasts = (
            self._broadcast(channel, partition, partitions, rendered)
            for channel, partition in due.items()
        )
        return [broadcast for broadcast in broadcasts if broadcast.frames]

    def _broadcast(
        self,
        channel: Channel,
        partition: int,
        partitions: int,
        rendered: dict[tuple[int, int], tuple[Event, bytes] | None],
    ) -> Broadcast:
        """Build a channel's frames; `rendered` holds what other channels of this flush made."""
        frames, moments, prev = [], [], channel.cursor
        for pending in channel.take():
            place = (partition, pending.offset)
            if place not in rendered:
                rendered[place] = self._render(partition, pending)
            found = rendered[place]
            if found is not None:
                event, text = found
                position = Position(partition, pending.offset, pending.timestamp_ms, partitions)
                channel.cursor = format_cursor(position)
                frames.append(plain_frame(text, channel.cursor))
                moments.append(event.occurred_at)
        return Broadcast(b"".join(frames), tuple(channel.sessions), prev, tuple(moments))

    def _render(self, partition: int, pending: Pending) -> tuple[Event, bytes] | None:
        try:
            event = pending.event or self._decode(pending.key, pending.value)
            return event, event_json(event)
        except RecordError as error:
            self._skip(partition, pending.offset, error)
            return None

    def _decode(self, key: bytes, value: bytes) -> Event:
        self.counts.decoded += 1
        event = decode(value)
        if event.project_id.encode() != key:
            raise RecordError("project_mismatch", f"project_id {event.project_id[:64]!r}")
        return event

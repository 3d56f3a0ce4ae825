"""The hub: records in, chunks out. Decides what goes to whom, performs nothing. Pure.

project -> channels. A record of a project that nobody watches is held in the journal and costs no
decode.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tailrace.batching import Folded, Journal, RunStart, Windows
from tailrace.edge.channel import Channel, ChannelKey, Viewer
from tailrace.edge.chunk import Chunk, Entry, Record, Rendered
from tailrace.edge.fold import Fold
from tailrace.schemas import (
    EVENT_TYPES,
    Envelope,
    Event,
    Position,
    RecordError,
    Subject,
    decode,
    envelope_of,
    event_json,
    parse_headers,
)

__all__ = ["Hub", "HubCounts", "Log", "Skip"]

Skip = Callable[[int, int, RecordError], None]
"""Told of each record that cannot be delivered: partition, offset, why."""

_STARTS = frozenset(name.encode() for name in EVENT_TYPES if name.endswith(".created"))
_TYPE_HEADER = 4
"""Where `headers_of` puts ``ce_type``: it is looked for there first."""


class Log(NamedTuple):
    """The incarnation of the topic that is being read."""

    topic_id: int
    partitions: int

    def position(self, partition: int, offset: int, timestamp_ms: int) -> Position:
        """Return a place in it."""
        return Position(partition, offset, timestamp_ms, self.partitions, self.topic_id)


@dataclass(slots=True)
class HubCounts:
    """What the hub has done so far."""

    deliveries: int = 0
    """Events x viewers."""
    frames: int = 0
    """Writes into viewers' sockets."""
    overrun: int = 0
    """How often a viewer was skipped for a while because its socket was full."""
    fetches: int = 0
    """How often Kafka brought records."""
    records: int = 0
    decoded: int = 0
    rendered: int = 0
    """Event JSONs built."""
    coalesced: int = 0
    """States that newer ones replaced, once per channel."""
    passes: int = 0
    """Passes over the journal for viewers who are behind, each for one chunk."""


class _Project:
    """The watched channels of a project, by what they are about."""

    __slots__ = ("by_subject", "channels", "partition")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.channels: dict[ChannelKey, Channel] = {}
        self.by_subject: dict[Subject | None, list[Channel]] = {}

    def wanting(self, envelope: Envelope) -> Iterator[Channel]:
        for subject in (None, envelope.subject):
            for channel in self.by_subject.get(subject, ()):
                if channel.wants(envelope):
                    yield channel


class Hub:
    """All channels of a node, and the newest part of the log that they are served from.

    Memory grows with the channels that are watched now and with what is pending for them, beside
    the journal: a channel is dropped with its last viewer.

    Args:
        journal_max_bytes: Bound of the journal.
        skip: Told of each record that cannot be delivered.
    """

    def __init__(self, *, journal_max_bytes: int, skip: Skip) -> None:
        self.counts = HubCounts()
        self.log = Log(0, 0)
        self.pending = 0
        """Bytes that wait in channels for their next flush, those replaced since included."""
        self._journal_max_bytes = journal_max_bytes
        self._sampled: dict[int, tuple[int, int]] = {}
        """Partition -> records and bytes of a sample: the last record of each fetch."""
        self._skip = skip
        self._projects: dict[bytes, _Project] = {}
        self._windows: Windows[Channel] = Windows()
        self._awaited: dict[int, dict[Channel, Position]] = {}
        """Partition -> channels with a viewer who is ahead of the log, and where the first is."""
        self.journal = self._new_journal()

    def __len__(self) -> int:
        """Return the number of channels that are watched."""
        return sum(len(project.channels) for project in self._projects.values())

    def channels(self) -> list[Channel]:
        """Return all channels that are watched."""
        return [c for project in self._projects.values() for c in project.channels.values()]

    def lagging(self) -> int:
        """Return how many viewers are behind their channels."""
        channels = self.channels()
        return sum(len(c.viewers) - sum(map(len, c.live.values())) for c in channels)

    def _new_journal(self) -> Journal[Record]:
        return Journal(max_bytes=self._journal_max_bytes, id_of=_id_of)

    # --- the log ------------------------------------------------------------------------------

    def begin(self, log: Log, starts: Mapping[int, tuple[int, int]]) -> None:
        """Start over with another incarnation of the topic, or with the first.

        The channels stay; `attach` them when the journal is warm.

        Args:
            log: The incarnation.
            starts: Partition -> offset and timestamp (ms) just before the first record to come.
        """
        self.log = log
        self.journal = self._new_journal()
        self._sampled.clear()
        self._awaited.clear()
        for partition, (offset, timestamp_ms) in starts.items():
            self.journal.begin(partition, offset, timestamp_ms)

    def attach(self, partition_of: Callable[[str], int]) -> None:
        """Put all channels at the head of the log; their viewers fall behind where they are."""
        for key, project in self._projects.items():
            project.partition = partition_of(key.decode())
            self.journal.watch(project.partition, key)
            for channel in project.channels.values():
                for viewer in channel.viewers:
                    self.fall_behind(viewer, channel.cursor)
                channel.parked.clear()
                self._discard(channel)
                channel.cursor = self.head(project.partition)

    def head(self, partition: int) -> Position:
        """Return the place of the last record read."""
        return self.log.position(partition, *self.journal.head(partition))

    def at(self, partition: int, offset: int) -> Position:
        """Return the place of an offset, with its timestamp if that is known here."""
        return self.log.position(partition, offset, self.journal.timestamp(partition, offset))

    def remember(
        self, partition: int, records: Sequence[Record]
    ) -> Mapping[bytes | None, Sequence[Record]]:
        """Hold consumed records, in ascending offset, without delivering them."""
        self.counts.records += len(records)
        if records:
            count, size = self._sampled.get(partition, (0, 0))
            self._sampled[partition] = (count + 1, size + _wire_bytes(records[-1]))
        for record in records:
            run = _started(record)
            if run is not None and record.key:
                start = RunStart(partition, record.offset)
                self.journal.run_started(record.key, run, start)
        return self.journal.append(partition, records)

    def record_bytes(self, partition: int) -> float | None:
        """Return the size of an average record of a partition; None when none was seen."""
        count, size = self._sampled.get(partition, (0, 0))
        return size / count if count else None

    def publish(self, partition: int, records: Sequence[Record], now: float) -> None:
        """Hold consumed records and route them to the channels that want them.

        Args:
            partition: Of the records.
            records: In ascending offset, the next ones of the partition.
            now: Seconds, the caller's clock.
        """
        for key, mine in self.remember(partition, records).items():
            if not key:
                self._skip_all(partition, mine, RecordError("no_key", "it names no project"))
                continue
            project = self._projects.get(key)
            if project is None:
                continue
            if project.partition != partition:
                error = RecordError("misplaced", f"key {key[:64]!r} belongs elsewhere")
                self._skip_all(partition, mine, error)
                continue
            for record in mine:
                self._route(project, record, now)
        for channel, position in self._awaited.pop(partition, {}).items():
            self.hasten(channel, position)

    def _skip_all(self, partition: int, records: Iterable[Record], error: RecordError) -> None:
        for record in records:
            self._skip(partition, record.offset, error)

    def _route(self, project: _Project, record: Record, now: float) -> None:
        entry = self.entry(project.partition, record)
        if entry is None:
            return
        urgent = entry.envelope.coalesce_key is None
        for channel in project.wanting(entry.envelope):
            channel.add(entry)
            self.pending += entry.size
            self._windows.touch(channel, now, urgent=urgent)

    def entry(self, partition: int, record: Record) -> Entry | None:
        """Return what is to be folded for a record; None if it cannot be delivered to anyone."""
        if record.value is None:  # a tombstone
            return None
        envelope = parse_headers(record.headers)
        if envelope is not None:
            return Entry(record, envelope)
        try:
            event = self._decode(record)
        except RecordError as error:
            self._reject(partition, record, error)
            return None
        return Entry(record, envelope_of(event), event)

    # --- channels and viewers -----------------------------------------------------------------

    def open(self, key: ChannelKey, partition: int, now: float) -> Channel:
        """Return the channel of a key, a new one at the head of the log if nobody watches it."""
        name = key.project_id.encode()
        project = self._projects.get(name)
        if project is None:
            project = self._projects[name] = _Project(partition)
            self.journal.watch(partition, name)
        channel = project.channels.get(key)
        if channel is None:
            channel = project.channels[key] = Channel(key, self.head(partition), now)
            project.by_subject.setdefault(key.subject, []).append(channel)
        return channel

    def enter(self, viewer: Viewer) -> None:
        """Count a viewer among those of its channel."""
        viewer.channel.viewers[viewer] = None

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer, and the channel with its last one."""
        channel = viewer.channel
        self.fall_behind(viewer, channel.cursor)
        channel.parked.pop(viewer, None)
        channel.viewers.pop(viewer, None)
        if not channel.viewers:
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        name = channel.key.project_id.encode()
        project = self._projects[name]
        if project.channels.pop(channel.key, None) is None:
            return
        same = project.by_subject[channel.key.subject]
        same.remove(channel)
        if not same:
            del project.by_subject[channel.key.subject]
        self._windows.drop(channel)
        self._awaited.get(project.partition, {}).pop(channel, None)
        self._discard(channel)
        if not project.channels:
            del self._projects[name]
            if project.partition in self.journal.partitions:  # else of the log before this one
                self.journal.unwatch(project.partition, name)

    def _discard(self, channel: Channel) -> None:
        self.pending -= channel.pending
        channel.take(channel.cursor)

    def fall_behind(self, viewer: Viewer, position: Position) -> None:
        """Make a live viewer one who has been served up to `position`."""
        if viewer.live:
            viewer.live = False
            viewer.position = position
            for viewers in viewer.channel.live.values():
                viewers.pop(viewer, None)

    def hand(self, viewer: Viewer, chunk: Chunk) -> None:
        """Deliver a chunk to one viewer who is behind."""
        viewer.deliver(chunk)
        self.counts.frames += 1
        self.counts.deliveries += len(chunk.events)

    # --- flushing -----------------------------------------------------------------------------

    def due(self, now: float) -> list[Channel]:
        """Return the channels to flush, earliest deadline first."""
        return self._windows.due(now)

    def next_deadline(self) -> float | None:
        """Return when the next channel is due; None while nothing waits."""
        return self._windows.next()

    def beat(self, now: float, period: float, sse_period: float) -> None:
        """Make those channels due whose viewers have heard nothing for a period (seconds)."""
        for channel in self.channels():
            wait = sse_period if channel.serves_sse else period
            if now - channel.flushed_at >= wait and any(channel.live.values()):
                self._windows.touch(channel, now, urgent=True)

    def hasten(self, channel: Channel, position: Position) -> None:
        """Make a channel due as soon as its cursor can thereby reach a position."""
        if self.journal.head(position.partition)[0] >= position.offset:
            self._windows.touch(channel, float("-inf"), urgent=True)
        else:
            awaited = self._awaited.setdefault(position.partition, {})
            awaited[channel] = min(position, awaited.get(channel, position))

    def flush(self, channel: Channel) -> list[Chunk]:
        """Move a channel's cursor to the head of the log and return the range between.

        One chunk, without events if nothing happened; several where the events are too many for
        one frame; none if nobody is live, since who is behind reads from the journal.
        """
        prev, channel.cursor = channel.cursor, self.head(channel.cursor.partition)
        channel.deadline = None
        self.pending -= channel.pending
        ranges = channel.take(channel.cursor)
        if not any(channel.live.values()):
            return []
        chunks: list[Chunk] = []
        reached = prev
        for folded, cursor in ranges:
            chunk = self.chunk(channel, folded, reached, cursor)
            if chunk is None:
                self._park(channel, prev)
                return []
            chunks.append(chunk)
            reached = cursor
        return chunks

    def _park(self, channel: Channel, position: Position) -> None:
        """Let all live viewers of a channel be served from a position by the backlog."""
        for viewer in [viewer for viewers in channel.live.values() for viewer in viewers]:
            self.fall_behind(viewer, position)
            channel.parked[viewer] = None

    def chunk(
        self, channel: Channel, folded: Folded[Entry], prev: Position, cursor: Position
    ) -> Chunk | None:
        """Return a folded range as what is delivered; decodes what is left of it.

        What a bad state replaced is the newest good one again: then the range is folded once more
        from the journal, without bad ones.

        Returns:
            None where the journal holds the range no more: fold it from Kafka, without bad ones.
        """
        partition = cursor.partition
        events = [self._render(partition, entry) for _, entry in folded.items]
        if None in events and folded.skipped:
            if prev.offset < self.journal.floor(partition):
                return None
            folded = self._refold(channel, prev, cursor)
            events = [self._render(partition, entry) for _, entry in folded.items]
        good = [event for event in events if event is not None]
        self.counts.coalesced += len(folded.skipped)
        return Chunk(channel.name, prev, cursor, good, len(folded.skipped))

    def readable(self, partition: int, entry: Entry) -> bool:
        """Tell whether an entry can be delivered; renders it, and counts one that cannot."""
        return self._render(partition, entry) is not None

    def _refold(self, channel: Channel, prev: Position, cursor: Position) -> Folded[Entry]:
        fold = Fold(every=channel.key.every)
        key = channel.key.project_id.encode()
        for record in self.journal.range(prev.partition, key, prev.offset):
            if record.offset > cursor.offset:
                break
            entry = self.entry(prev.partition, record)
            if entry is None or not channel.wants(entry.envelope):
                continue
            if self.readable(prev.partition, entry):
                fold.take_in(entry)
        return fold.take()

    def _render(self, partition: int, entry: Entry) -> Rendered | None:
        """Return the event of an entry, built at most once however many channels want it."""
        if entry.rendered is None and not entry.rejected:
            record = entry.record
            try:
                event = entry.event or self._decode(record)
                text = event_json(event)
            except RecordError as error:
                entry.rejected = True
                self._reject(partition, record, error)
                return None
            self.counts.rendered += 1
            entry.rendered = Rendered(record.offset, record.timestamp, event.occurred_at, text)
            entry.event = None
        return entry.rendered

    def _decode(self, record: Record) -> Event:
        self.counts.decoded += 1
        event = decode(record.value or b"")
        if event.project_id.encode() != record.key:
            raise RecordError("project_mismatch", f"project_id {event.project_id[:64]!r}")
        return event

    def _reject(self, partition: int, record: Record, error: RecordError) -> None:
        assert record.key is not None, "a record of a watched project"
        if self.journal.reject(partition, record.key, record.offset):
            self._skip(partition, record.offset, error)


def _started(record: Record) -> Subject | None:
    """Return the run that a record begins."""
    headers = tuple(record.headers)
    if len(headers) <= _TYPE_HEADER:
        return None
    name, value = headers[_TYPE_HEADER]
    if name != "ce_type":
        value = dict(headers).get("ce_type", b"")
    if value not in _STARTS:
        return None
    envelope = parse_headers(headers)
    return None if envelope is None else envelope.subject


def _wire_bytes(record: Record) -> int:
    """Return about what a record takes in the log."""
    headers = sum(len(name) + len(value or b"") + 2 for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers + 16


def _id_of(record: Record) -> str | None:
    value = dict(record.headers).get("ce_id")
    return None if value is None else value.decode(errors="replace")

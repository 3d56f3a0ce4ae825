"""Where in the log a viewer begins: from a cursor, from a run's start, or live."""

from typing import NamedTuple, Protocol
from uuid import UUID

from tailrace.edge.channel import ChannelKey
from tailrace.edge.hub import Hub
from tailrace.edge.protocol import Gap
from tailrace.edge.request import StreamRequest
from tailrace.schemas import CursorError, Position, parse_cursor

__all__ = ["Locator", "Offsets", "Start", "uuid_time_ms"]

_CLOCK_SLACK_MS = 60_000
"""How far the clock that made a run's id may be ahead of those that stamped its records."""
_MIN_RECORD_BYTES = 256
"""Assumed of a partition of which no record was seen, in the bound of a replay."""


class Offsets(Protocol):
    """What Kafka knows of a partition; each raises UnavailableError after a bounded time."""

    async def earliest(self, partition: int) -> int:
        """Return the first offset that is left."""

    async def reaches(self, partition: int, end: int) -> bool:
        """Tell whether the log goes on up to `end`, exclusive."""

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset of that time or later."""


class Start(NamedTuple):
    """Where a viewer begins."""

    position: Position | None
    """None: at the channel's own cursor, live."""
    gap: Gap | None = None
    """Why it is not where its cursor says."""
    resumed: bool = False


def uuid_time_ms(run_id: str) -> int | None:
    """Return the moment in a UUIDv7 (RFC 9562 §5.7), milliseconds since the epoch."""
    try:
        uuid = UUID(run_id)
    except ValueError:
        return None
    return uuid.int >> 80 if uuid.version == 7 else None  # noqa: PLR2004


class Locator:
    """Finds starts. It asks Kafka only about what the journal does not reach.

    Args:
        hub: Whose journal.
        offsets: Kafka.
        replay_max_bytes: How far back a replay may read in its partition. What Kafka does not
            tell is estimated: the average record that this node has seen of the partition.
    """

    def __init__(self, hub: Hub, offsets: Offsets, *, replay_max_bytes: int) -> None:
        self._hub = hub
        self._offsets = offsets
        self._replay_max_bytes = replay_max_bytes

    async def locate(self, request: StreamRequest, partition: int) -> Start:
        """Return where a request begins.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        if request.after is not None:
            return await self._resume(request.key, partition, request.after)
        if request.start:
            return Start(await self._beginning(request.key, partition))
        return Start(None)

    async def after_gap(self, key: ChannelKey, partition: int, gap: Gap) -> Position | None:
        """Return where a stream goes on after a gap; None: live.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        if gap in {Gap.RETENTION, Gap.RESET, Gap.TOO_FAR}:
            return await self._oldest(partition)
        if key.subject is None:
            return None
        return await self._beginning(key, partition)

    def within_bound(self, position: Position, *, slack: float = 1.25) -> bool:
        """Tell whether a replay from a position stays inside its bound.

        Args:
            position: Where it would begin.
            slack: Of the bound, for those who were inside it when they came.
        """
        return position.offset >= self._bound(position.partition, slack)

    async def _resume(self, key: ChannelKey, partition: int, after: str) -> Start:
        try:
            position = parse_cursor(after)
        except CursorError:
            return await self._gap(key, partition, Gap.INVALID)
        gap = self._foreign(position, partition) or await self._gone(position)
        if gap is not None:
            return await self._gap(key, partition, gap)
        return Start(position, resumed=True)

    async def _gap(self, key: ChannelKey, partition: int, gap: Gap) -> Start:
        return Start(await self.after_gap(key, partition, gap), gap)

    def _foreign(self, position: Position, partition: int) -> Gap | None:
        """Tell why a position is not one of this log, as far as it says so itself."""
        log = self._hub.log
        if position.topic_id != log.topic_id and position.topic_id and log.topic_id:
            return Gap.RESET
        if position.partitions != log.partitions:
            return Gap.REPARTITIONED
        if position.partition != partition:
            return Gap.INVALID
        journal = self._hub.journal
        if journal.proves(partition, position.offset, position.timestamp_ms) is False and (
            position.timestamp_ms >= 0
        ):
            return Gap.RESET
        return None

    async def _gone(self, position: Position) -> Gap | None:
        """Tell why what comes after a position of this log cannot be read any more."""
        journal, partition = self._hub.journal, position.partition
        if position.offset > journal.head(partition)[0]:
            # Another node is ahead of this one, or the log was cut off.
            there = await self._offsets.reaches(partition, position.offset + 1)
            return None if there else Gap.RESET
        if position.offset >= journal.floor(partition):
            return None
        if position.offset + 1 < await self._offsets.earliest(partition):
            return Gap.RETENTION
        return None if self.within_bound(position, slack=1.0) else Gap.TOO_FAR

    async def _beginning(self, key: ChannelKey, partition: int) -> Position:
        """Return the place just before a run's first record, or before all that there is."""
        if key.subject is None or key.subject.run_id is None:
            return await self._oldest(partition)
        known = self._hub.journal.run_start(key.project_id.encode(), key.subject)
        if known is not None and known.partition == partition:
            return await self._reachable(partition, known.offset - 1)
        moment = uuid_time_ms(key.subject.run_id)
        if moment is None:
            return await self._oldest(partition)
        first = await self._offsets.offset_at(partition, max(0, moment - _CLOCK_SLACK_MS))
        return await self._reachable(partition, first - 1)

    async def _oldest(self, partition: int) -> Position:
        return await self._reachable(partition, -1)

    async def _reachable(self, partition: int, offset: int) -> Position:
        """Return the place of an offset, or the oldest one that can be read."""
        floor = self._hub.journal.floor(partition)
        if offset < floor:
            oldest = max(await self._offsets.earliest(partition) - 1, self._bound(partition, 1.0))
            offset = min(max(offset, oldest), floor)
        return self._hub.at(partition, min(offset, self._hub.journal.head(partition)[0]))

    def _bound(self, partition: int, slack: float) -> int:
        """Return the offset after which a replay may begin."""
        head, _ = self._hub.journal.head(partition)
        average = self._hub.record_bytes(partition) or _MIN_RECORD_BYTES
        return head - int(self._replay_max_bytes * slack / average)

"""A channel: the events of a project that match one filter, and who watches them. Pure."""

from typing import NamedTuple, Protocol
from urllib.parse import quote

from tailrace.batching import Folded
from tailrace.edge.chunk import Chunk, Entry, Record
from tailrace.edge.dialect import Break, Dialect
from tailrace.edge.direct import Socket
from tailrace.edge.fold import Fold
from tailrace.edge.protocol import Types
from tailrace.schemas import Envelope, Position, Subject

__all__ = ["DEFAULT_WINDOW_MS", "Channel", "ChannelKey", "Viewer"]

DEFAULT_WINDOW_MS = 40


class ChannelKey(NamedTuple):
    """What makes two viewers share a channel and so its frames."""

    project_id: str
    subject: Subject | None
    """None: everything of the project."""
    types: Types = Types()
    every: bool = False
    """Deliver each event; coalesce nothing."""
    window_ms: int = DEFAULT_WINDOW_MS
    """How long a state may wait."""

    @property
    def name(self) -> str:
        """The canonical name, `ch` on the wire: the same for the same channel, however asked."""
        path = [self.project_id]
        if self.subject is not None:
            path += [self.subject.kind, self.subject.run_id or ""]
        filters = []
        if self.every:
            filters.append("delivery=every")
        if types := str(self.types):
            filters.append(f"types={types}")
        if self.window_ms != DEFAULT_WINDOW_MS:
            filters.append(f"window={self.window_ms}")
        query = "?" + "&".join(filters) if filters else ""
        return "/".join(quote(part, safe="") for part in path) + query


class Viewer(Protocol):
    """Somebody who follows a channel: live, or behind it at a position of their own."""

    channel: "Channel"
    position: Position
    """What was delivered so far; while live it is the channel's cursor instead."""
    live: bool
    gap: Break | None
    """To be told before anything else is delivered."""

    @property
    def open(self) -> bool:
        """Whether there is still somebody."""

    @property
    def limit(self) -> int | None:
        """How many events it takes at most in one chunk."""

    def full(self) -> bool:
        """Tell whether nothing more can be delivered for now."""

    @property
    def session(self) -> Socket:
        """Where its frames go; asked for while it is live."""

    def wait_for_room(self) -> None:
        """Come back to the backlog when there is room again."""

    def deliver(self, chunk: Chunk) -> None:
        """Hand over the next range: its `prev` is `position`, which moves to its `cursor`."""

    def tell(self, gap: Break) -> None:
        """Hand over a gap: its `prev` is `position`, which moves to its `cursor`."""

    def arrive(self) -> None:
        """Note that `position` is the channel's cursor: nothing is left to catch up with."""

    def give_up(self) -> None:
        """End a viewer who is past the replay bound."""


class Channel:
    """What waits to be sent to the viewers of one `ChannelKey`, and those viewers.

    All live viewers share one chain of cursors and its frames. What is pending is bounded by the
    node, which stops consuming while too much is.

    Args:
        key: The filter.
        cursor: Where its chain begins: the head of the project's partition.
        now: Seconds, the caller's clock.
    """

    __slots__ = (
        "_fold",
        "_last",
        "_matches",
        "_sealed",
        "cursor",
        "deadline",
        "flushed_at",
        "key",
        "live",
        "name",
        "parked",
        "pending",
        "viewers",
        "window",
    )

    _MAX_MATCHES = 1024

    def __init__(self, key: ChannelKey, cursor: Position, now: float) -> None:
        self.key = key
        self.name = key.name
        self.cursor = cursor
        """Up to where the live viewers have been served."""
        self.viewers: dict[Viewer, None] = {}
        """All of them, in the order of coming."""
        self.live: dict[Dialect, dict[Viewer, None]] = {}
        """Those who get each flush as it is made."""
        self.parked: dict[Viewer, None] = {}
        """Those who return to the backlog with the next flush."""
        self.window = key.window_ms / 1000
        self.flushed_at = now - self.window  # the first state does not wait
        self.deadline: float | None = None
        self._fold = Fold(every=key.every)
        self._last: Record | None = None
        self._sealed: list[tuple[Folded[Entry], Position]] = []
        self.pending = 0
        """Bytes of the records that wait for the next flush, those replaced since included."""
        self._matches: dict[str, bool] = {}

    def __bool__(self) -> bool:
        """Tell whether anything waits for the next flush."""
        return self.pending > 0

    def add(self, entry: Entry) -> None:
        """Take the next record that the channel wants."""
        fold = self._fold
        if self._last is not None and not fold.fits(entry):
            self._seal(self._last)
        fold.take_in(entry)
        self._last = entry.record
        self.pending += entry.size

    def _seal(self, last: Record) -> None:
        """Close the range that waits: the next record does not fit into its frame."""
        end = self.cursor._replace(offset=last.offset, timestamp_ms=last.timestamp)
        self._sealed.append((self._fold.take(), end))

    def take(self, cursor: Position) -> list[tuple[Folded[Entry], Position]]:
        """Return what waits, as ranges that each fit a frame, the last one up to `cursor`."""
        ranges = [*self._sealed, (self._fold.take(), cursor)]
        self._sealed.clear()
        self._last = None
        self.pending = 0
        return ranges

    @property
    def serves_sse(self) -> bool:
        """Whether a live viewer gets server-sent events, which proxies cut when they are idle."""
        return bool(self.live.get(Dialect.SSE) or self.live.get(Dialect.SSE_RAW))

    def wants(self, envelope: Envelope) -> bool:
        """Tell whether a record of the project belongs to this channel."""
        subject = self.key.subject
        if subject is not None and subject != envelope.subject:
            return False
        match = self._matches.get(envelope.type)
        if match is None:
            if len(self._matches) >= self._MAX_MATCHES:  # foreign producers can make up types
                self._matches.clear()
            match = self._matches[envelope.type] = self.key.types.match(envelope.type)
        return match

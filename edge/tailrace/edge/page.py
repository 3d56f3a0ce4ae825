"""One answer of the JSON catch-up, filled like any viewer who is behind. Pure."""

from collections.abc import Callable
from typing import NamedTuple

from tailrace.edge.channel import Channel
from tailrace.edge.chunk import Chunk, Rendered
from tailrace.edge.dialect import Break
from tailrace.edge.direct import Socket
from tailrace.edge.protocol import Gap
from tailrace.schemas import Position

__all__ = ["Answer", "Collector"]

_MAX_BYTES = 1 << 20


class Answer(NamedTuple):
    """What is answered: the range (prev, cursor], and whether there is more after it."""

    chunk: Chunk
    more: bool
    gap: Gap | None


class Collector:
    """A viewer who takes up to `limit` events, or about a megabyte, and is done.

    Args:
        channel: What it follows.
        position: Where it begins.
        limit: Events at most.
        gap: Why it does not begin where its cursor says.
        idle: Told when there is nothing to take yet; `finish` ends the wait for it.
        done: Told when the answer is complete.
    """

    def __init__(
        self,
        channel: Channel,
        position: Position,
        *,
        limit: int,
        gap: Gap | None,
        idle: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        self.channel = channel
        self.position = position
        self.live = False
        self.gap: Break | None = None
        self.open = True
        """Whether the answer is not complete yet."""
        self._prev = position
        self._limit = limit
        self._idle = idle
        self._reason = gap
        self._done = done
        self._events: list[Rendered] = []
        self._skipped = 0
        self._bytes = 0

    def full(self) -> bool:
        """Tell that there is always room, up to `limit`."""
        return False

    @property
    def session(self) -> Socket:
        """Never asked for: a collector is not live."""
        raise AssertionError(self)

    def wait_for_room(self) -> None:
        """Do nothing: a collector that has enough is done."""

    @property
    def limit(self) -> int:
        """How many events still fit."""
        return self._limit - len(self._events)

    def deliver(self, chunk: Chunk) -> None:
        """Take a chunk, which has `limit` events at most."""
        self._events += chunk.events
        self._skipped += chunk.skipped
        self._bytes += chunk.size
        self.position = chunk.cursor
        if self.limit <= 0 or self._bytes >= _MAX_BYTES:
            self.finish()

    def tell(self, gap: Break) -> None:
        """Begin behind a gap, or end before it: the next answer tells it."""
        if self._events or self._skipped:
            self.finish()
            return
        self._prev = self.position = gap.cursor
        self._reason = gap.reason

    def arrive(self) -> None:
        """Be done, or wait for the next flush of the channel; a gap is told at once."""
        if self._events or self._reason is not None:
            self.finish()
        else:
            self.channel.parked[self] = None
            self._idle()

    def give_up(self) -> None:
        """End here: the next request is told that this is too far back."""
        self.finish()

    def finish(self) -> None:
        """Let the answer be what there is."""
        if self.open:
            self.open = False
            self._done()

    def answer(self) -> Answer:
        """Return the answer; call it when it is done."""
        chunk = Chunk(self.channel.name, self._prev, self.position, self._events, self._skipped)
        behind = self.position.offset < self.channel.cursor.offset
        return Answer(chunk, behind or bool(self.channel), self._reason)

"""One connection, as the hub sees it, and what it follows."""

from collections.abc import Callable

from tailrace.edge.channel import Channel
from tailrace.edge.chunk import Chunk
from tailrace.edge.dialect import Break, Dialect, frame_of, gap_frame
from tailrace.edge.direct import NO_DESCRIPTOR, Socket
from tailrace.edge.protocol import CloseCode, Gap, close_reason
from tailrace.schemas import Position, format_cursor

__all__ = ["Allowance", "Session", "Subscription"]


class Session(Socket):
    """A viewer's connection. It holds no queue: what waits is in the socket, up to a bound.

    Args:
        queue: See `Socket`, as for `buffered`, `descriptor` and `max_buffered`.
        close: Begin to close with this code and reason; returns at once.
    """

    __slots__ = ("_close", "close_code", "heard", "waiting")

    def __init__(
        self,
        queue: Callable[[bytes], object],
        buffered: Callable[[], int],
        close: Callable[[int, bytes], None],
        *,
        descriptor: int = NO_DESCRIPTOR,
        max_buffered: int,
    ) -> None:
        super().__init__(queue, buffered, descriptor=descriptor, max_buffered=max_buffered)
        self.close_code: int | None = None
        """What the node closed it with; None when it did not."""
        self.heard = True
        """Whether the viewer said anything since the last ping."""
        self.waiting: dict[Subscription, None] = {}
        """Who is behind and waits for the socket to drain."""
        self._close = close

    def close(self, code: int, reason: bytes = b"") -> None:
        """Write nothing from now on and begin to close; only the first call counts."""
        if self.open:
            self.shut()
            self.close_code = code
            self._close(code, reason)

    def end(self) -> None:
        """Write nothing more and forget who waits: the connection is over."""
        self.shut()
        self.waiting.clear()


class Subscription:
    """A connection's place in a channel: live, or a position behind it.

    Args:
        session: The connection.
        dialect: How it is served.
        channel: What it follows.
        position: Where it begins.
        gap: Why that is not where its cursor says, to be told first; a dialect that has told it
            otherwise gives none.
    """

    __slots__ = (
        "channel",
        "dialect",
        "full",
        "gap",
        "left",
        "limit",
        "live",
        "position",
        "session",
    )

    def __init__(
        self,
        session: Session,
        dialect: Dialect,
        channel: Channel,
        position: Position,
        gap: Gap | None = None,
    ) -> None:
        self.session = session
        self.dialect = dialect
        self.channel = channel
        self.position = position
        self.live = False
        self.limit: int | None = None
        self.left = False
        """Unsubscribed, while the connection may go on."""
        self.gap = None if gap is None else Break(channel.name, position, position, gap)
        self.full = session.full

    @property
    def open(self) -> bool:
        """Whether there is still somebody."""
        return self.session.open and not self.left

    def wait_for_room(self) -> None:
        """Return to the backlog when the socket has drained."""
        self.session.waiting[self] = None

    def deliver(self, chunk: Chunk) -> None:
        """Write a chunk and move up to its end."""
        if frame := frame_of(chunk, self.dialect.uncompressed):
            self.session.write(frame)
        self.position = chunk.cursor

    def tell(self, gap: Break) -> None:
        """Write a gap and move up to its end."""
        self.session.write(gap_frame(gap._replace(prev=self.position), self.dialect))
        self.position = gap.cursor

    def arrive(self) -> None:
        """Be live from now on."""
        self.live = True
        self.channel.live.setdefault(self.dialect, {})[self] = None

    def give_up(self) -> None:
        """Close a connection that can be served no more: too slow, and past the replay bound."""
        reason = {"cursor": format_cursor(self.position)}
        self.session.close(CloseCode.TOO_SLOW, close_reason(reason))


class Allowance:
    """How many messages a viewer may send: `burst` at once, `rate` a second on the long run.

    Args:
        now: Seconds, the loop's clock.
    """

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, now: float, *, rate: float = 20.0, burst: float = 300.0) -> None:
        self._since = now
        self._rate = rate
        self._burst = burst
        self._left = burst

    def spend(self, now: float) -> bool:
        """Count one message; False when it is one too many."""
        self._left = min(self._burst, self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

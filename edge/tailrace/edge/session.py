"""One viewer, as the hub sees it: whether it is open, how to write, how much waits. Pure."""

from collections.abc import Callable

__all__ = ["Allowance", "Session"]


class Session:
    """A viewer's connection. It holds no queue: what waits is in the socket, up to a bound.

    One slotted object with bound callables: looking them up on the response and the transport at
    each write costs a sixth of the throughput.

    Args:
        write: Put one whole frame into the socket. May raise RuntimeError or OSError after an
            abrupt loss; the session then counts as closed.
        buffered: Bytes that wait in the socket's buffer.
        close: Begin to close with this code and reason; returns at once.
    """

    __slots__ = ("_close", "buffered", "close_code", "open", "write")

    def __init__(
        self,
        write: Callable[[bytes], object],
        buffered: Callable[[], int],
        close: Callable[[int, bytes], None],
    ) -> None:
        self.open = True
        self.close_code: int | None = None
        """What the node closed it with; None when it did not."""
        self.write = write
        self.buffered = buffered
        self._close = close

    def close(self, code: int, reason: bytes = b"") -> None:
        """Write nothing from now on and begin to close; only the first call counts."""
        if self.open:
            self.open = False
            self.close_code = code
            self._close(code, reason)


class Allowance:
    """How many messages a viewer may send: `burst` at once, `rate` a second on the long run.

    Args:
        now: Seconds, the loop's clock.
    """

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, now: float, *, rate: float = 20.0, burst: float = 100.0) -> None:
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

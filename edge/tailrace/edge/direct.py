"""Writes frames straight into a plain TCP socket, and through its transport where that is not safe.

`transport.write` queues a frame and sends it in the next turn of the loop, which costs more than
the call itself; `python -m bench hot` has what a delivery costs.
"""

import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["NO_DESCRIPTOR", "Live", "Socket", "broadcast"]

NO_DESCRIPTOR = -1
_ANY = 1 << 62
"""Bytes: however much waits."""


class Socket:
    """Puts whole frames into a connection, in order.

    A frame goes directly only while nothing waits in the transport, and what the kernel does not
    take is left to the transport, behind which everything else waits then. Loops call
    `connection_lost` before they close a descriptor: `shut` it there, for afterwards it may be
    another connection's.

    Args:
        queue: Hands bytes to the transport. May raise RuntimeError or OSError after an abrupt loss.
        buffered: Bytes that wait in the transport.
        descriptor: Where to write directly; `NO_DESCRIPTOR` where all goes through the transport.
            From now on nobody else writes to either.
        max_buffered: With more bytes waiting the socket is full.
    """

    __slots__ = ("_descriptor", "_queue", "buffered", "clear", "max_buffered", "open")

    def __init__(
        self,
        queue: Callable[[bytes], object],
        buffered: Callable[[], int],
        *,
        descriptor: int = NO_DESCRIPTOR,
        max_buffered: int,
    ) -> None:
        self.open = True
        """Whether it still takes frames."""
        self.clear = NO_DESCRIPTOR
        """Where to write directly while it is known that nothing waits."""
        self.buffered = buffered
        self.max_buffered = max_buffered
        self._descriptor = descriptor
        self._queue = queue

    def full(self) -> bool:
        """Tell whether it takes no more for now."""
        return self.buffered() > self.max_buffered

    def write(self, frame: bytes) -> bool:
        """Put a frame into the socket, full or not; False when the connection is closed or lost."""
        return bool(self._put(frame, _ANY))

    def offer(self, frame: bytes) -> bool | None:
        """Put a frame into the socket unless it is full.

        Returns:
            True when it was taken, None when the socket is full, which changes nothing, and False
            when the connection is closed or lost.
        """
        return self._put(frame, self.max_buffered)

    def _put(self, frame: bytes, most: int) -> bool | None:
        if not self.open:
            return False
        held = self.buffered()
        if held > most:
            return None
        if held or self._descriptor < 0:
            return self.queue(frame)
        self.clear = self._descriptor
        try:
            sent = os.write(self._descriptor, frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.shut()
            return False
        return sent == len(frame) or self.queue(frame[sent:])

    def queue(self, rest: bytes) -> bool:
        """Leave what the kernel does not take now to the transport; False when that is lost."""
        self.clear = NO_DESCRIPTOR
        try:
            self._queue(rest)
        except (RuntimeError, OSError):  # lost abruptly; its protocol is about to hear of it
            self.shut()
        return self.open

    def shut(self) -> None:
        """Take no more frames."""
        self.open = False
        self.clear = NO_DESCRIPTOR


class Live(Protocol):
    """Somebody who gets each frame as it is made."""

    live: bool

    @property
    def session(self) -> Socket:
        """Where the frames go."""


V = TypeVar("V", bound=Live)


def broadcast(viewers: Sequence[V], frame: bytes) -> tuple[int, list[V]]:
    """Write a frame to all who are live, without waiting for any.

    The most frequent case stands here by itself: each further call and each further object looked
    at would cost a part of what the kernel takes for a send.

    Returns:
        To how many it was written, and whose socket is full.
    """
    written, full = 0, []
    size, send = len(frame), os.write
    for viewer in viewers:
        if not viewer.live:
            continue
        session = viewer.session
        if session.clear < 0:
            taken = session.offer(frame)
        else:
            try:
                sent = send(session.clear, frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                session.shut()
                continue
            taken = sent == size or session.queue(frame[sent:])
        if taken:
            written += 1
        elif taken is None:
            full.append(viewer)
    return written, full

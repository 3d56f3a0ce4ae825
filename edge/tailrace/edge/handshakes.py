"""Connections that have not sent a whole request yet: they are given a little time."""

import asyncio

__all__ = ["Handshakes"]


class Handshakes:
    """Cuts off whoever has not sent a whole request in time.

    Holds one timer for each connection until then, and drops it with the request.

    Args:
        seconds: For the request line and all headers; a stream's request has no body.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timers: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Return how many requests are awaited."""
        return len(self._timers)

    def expect(self, transport: asyncio.Transport) -> None:
        """Await the first request of a connection."""
        loop = asyncio.get_running_loop()
        self._timers[transport] = loop.call_later(self._seconds, self._cut_off, transport)

    def done(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that a request has come."""
        timer = None if transport is None else self._timers.pop(transport, None)
        if timer is not None:
            timer.cancel()

    def _cut_off(self, transport: asyncio.Transport) -> None:
        del self._timers[transport]
        transport.abort()

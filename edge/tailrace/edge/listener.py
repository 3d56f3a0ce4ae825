"""The listening socket: what every connection inherits, and how fast they are let in."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

__all__ = ["listening"]

_log = structlog.get_logger(__name__)
_BACKLOG = 4096
_AT_ONCE = 4
"""Connections accepted in one turn of the loop: a storm of them must not hold up deliveries."""
_RETRY_SECONDS = 1.0
_UNSENT_BYTES = 1 << 16
"""Of a viewer who does not read: what waits in the kernel, which would take megabytes."""
_DEAD_MS = 120_000
"""A peer that acknowledges nothing for so long, or takes nothing, is cut off by the kernel."""


@asynccontextmanager
async def listening(
    factory: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    *,
    shared: bool = False,
    entered: Callable[[asyncio.Transport], object] = lambda _: None,
) -> AsyncIterator[str]:
    """Accept connections for as long as the block runs; gives the URL.

    Args:
        factory: Makes the protocol of a connection.
        host: An address, or a name of which the first address counts.
        port: 0 takes a free one.
        shared: Whether other processes listen on the same port.
        entered: Told of each connection.

    Raises:
        OSError: The address is taken or is none of this machine.
    """
    loop = asyncio.get_running_loop()
    [(family, kind, protocol, _, address), *_] = await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with socket.socket(family, kind, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MS)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(_BACKLOG)
        door = _Door(sock, factory, loop, entered)
        door.open()
        try:
            name, bound, *_ = sock.getsockname()
            yield f"http://{f'[{name}]' if ':' in name else name}:{bound}"
        finally:
            await door.close()


class _Door:
    """Lets connections in, a few in each turn of the loop."""

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        loop: asyncio.AbstractEventLoop,
        entered: Callable[[asyncio.Transport], object],
    ) -> None:
        self._told = entered
        self._sock = sock
        self._factory = factory
        self._loop = loop
        self._entering: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    async def close(self) -> None:
        self._loop.remove_reader(self._sock)
        if self._retry is not None:
            self._retry.cancel()
        await asyncio.gather(*self._entering, return_exceptions=True)

    def _accept(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                connection, _ = self._sock.accept()
                self._enter(connection)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptor or memory is left: let some end first
            _log.error("cannot accept connections", error=error.strerror)
            self._loop.remove_reader(self._sock)
            self._retry = self._loop.call_later(_RETRY_SECONDS, self.open)

    def _enter(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        entering = self._loop.create_task(self._let_in(connection))
        self._entering.add(entering)
        entering.add_done_callback(self._entering.discard)

    async def _let_in(self, connection: socket.socket) -> None:
        try:
            transport, _ = await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError as error:
            _log.debug("connection was gone before it was served", error=repr(error))
            connection.close()
        else:
            self._told(transport)  # before its first request is served

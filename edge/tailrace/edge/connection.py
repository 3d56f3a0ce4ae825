"""A connection's session: how the hub's writes reach the socket, and hear of its state."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from aiohttp import web

from tailrace.edge.direct import NO_DESCRIPTOR
from tailrace.edge.node import Node
from tailrace.edge.session import Session

__all__ = ["Connection", "bound_linger", "connect", "descriptor_of", "open_session", "release"]

_LOW_WATER = 1 << 14
_Close = Callable[[asyncio.Transport, int, bytes], None]


class Connection(NamedTuple):
    """What serves one viewer."""

    session: Session
    transport: asyncio.Transport


def open_session(transport: asyncio.Transport, close: _Close, *, max_buffered: int) -> Session:
    """Return what writes to a transport from now on, whole frames at a time.

    It refers to the transport only, so that a protocol may hold it without a cycle.

    Args:
        transport: Of one viewer.
        close: Begins to close the transport, with a code and a reason; returns at once.
        max_buffered: With more bytes waiting the socket is full.
    """
    # uvloop's default for the low one is 16 bytes.
    transport.set_write_buffer_limits(max_buffered, min(_LOW_WATER, max_buffered // 2))
    return Session(
        transport.write,
        transport.get_write_buffer_size,
        partial(close, transport),
        descriptor=descriptor_of(transport),
        max_buffered=max_buffered,
    )


def connect(
    node: Node,
    request: web.Request,
    close: _Close,
    lost: Callable[[], None] = lambda: None,
) -> Connection:
    """Return the session of a request whose answer has begun, and goes on under aiohttp.

    Args:
        node: Told when the socket has room again.
        request: Its transport is written to from now on, whole frames at a time.
        close: Begins to close the transport, with a code and a reason; returns at once.
        lost: Called when the connection is gone.

    Raises:
        ConnectionResetError: The peer is gone already.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("gone before it was served")
    session = open_session(transport, close, max_buffered=node.settings.session_buffer_bytes)
    transport.set_protocol(_Tap(request.protocol, node, session, lost))
    return Connection(session, transport)


def bound_linger(transport: asyncio.Transport | None, seconds: float) -> None:
    """Give what still waits in an ended viewer's socket a grace, then cut it off.

    Closing a transport waits for its buffer, without end where the peer does not read.
    """
    if transport is not None and transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(seconds, transport.abort)


def release(error: BaseException | None) -> None:
    """Free a lost connection at once instead of at the next full garbage collection.

    What aiohttp keeps of the loss refers by its traceback to the handler, and so to itself.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def descriptor_of(transport: asyncio.Transport) -> int:
    """Return where a transport's bytes may be written directly.

    `NO_DESCRIPTOR` where they are more than what is sent, as with TLS.
    """
    sock = transport.get_extra_info("socket")
    plain = (
        sock is not None
        and sock.family in {socket.AF_INET, socket.AF_INET6}
        and transport.get_extra_info("sslcontext") is None
    )
    return int(sock.fileno()) if plain else NO_DESCRIPTOR


class _Tap(asyncio.Protocol):
    """Stands between a transport and aiohttp, to hear when there is room and when all is over."""

    __slots__ = ("_inner", "_lost", "_node", "_session")

    def __init__(
        self, inner: asyncio.Protocol, node: Node, session: Session, lost: Callable[[], None]
    ) -> None:
        self._inner = inner
        self._node = node
        self._session = session
        self._lost = lost

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
        if self._session.waiting:
            self._node.drained(self._session.waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.end()
        self._lost()
        self._inner.connection_lost(exc)

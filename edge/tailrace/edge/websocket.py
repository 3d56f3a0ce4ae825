"""The WebSocket shell: one handler per connection, which only reads; the node writes."""

import asyncio
import logging

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from tailrace.edge.channel import ChannelKey
from tailrace.edge.node import Node
from tailrace.edge.protocol import PLAIN, CloseCode, close_reason, parse_types
from tailrace.edge.session import Allowance, Session
from tailrace.schemas import ParameterError, Subject

__all__ = ["WebSocketEndpoint"]

_CLOSE_SECONDS = 5.0
_LOW_WATER = 1 << 14
_HIGH_WATER = 1 << 16


class WebSocketEndpoint:
    """Serves the channel URLs in the plain dialect.

    Args:
        node: Whose channels to serve.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._closing: set[asyncio.Task[None]] = set()
        # Its warning prints every subprotocol offered, and so a bearer token.
        logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)

    async def serve(self, request: web.Request, subject: Subject | None) -> web.WebSocketResponse:
        """Serve one viewer until either side closes."""
        offered = _offered_protocols(request)
        ws = web.WebSocketResponse(
            protocols=offered[:1],  # a browser hears a close code only of a protocol it offered
            compress=False,  # a deflater per connection costs 5-29x and 218 KB
            heartbeat=self._node.settings.heartbeat_ms / 1000,
            max_msg_size=self._node.settings.max_message_bytes,
        )
        await ws.prepare(request)
        try:
            if offered and PLAIN not in offered:
                code = await _refuse(ws, CloseCode.UNKNOWN_SUBPROTOCOL, f"use {PLAIN}")
            else:
                code = await self._watch(request, ws, subject)
        finally:
            _release(request, ws)
            _bound_linger(request.transport)
        self._node.metrics.count_close(code)
        return ws

    async def _watch(
        self, request: web.Request, ws: web.WebSocketResponse, subject: Subject | None
    ) -> int:
        """Serve a viewer and return the code that its connection was closed with."""
        try:
            types = parse_types(request.query.get("types", "*"))
        except ParameterError as error:
            return await _refuse(ws, CloseCode.BAD_REQUEST, str(error))
        session = self._session(request, ws)
        leave = self._node.join(ChannelKey(request.match_info["project"], subject, types), session)
        self._node.metrics.connections["websocket"] += 1
        try:
            return await _read(ws, session)
        finally:
            self._node.metrics.connections["websocket"] -= 1
            leave()

    def _session(self, request: web.Request, ws: web.WebSocketResponse) -> Session:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("gone before it was served")
        transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)  # uvloop's low default is 16 B

        def close(code: int, reason: bytes) -> None:
            task = asyncio.create_task(_close(ws, transport, code, reason))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        return Session(transport.write, transport.get_write_buffer_size, close)

    async def closed(self) -> None:
        """Wait until every connection that was told to close is closed: bounded by the grace."""
        await asyncio.gather(*self._closing)


def _offered_protocols(request: web.Request) -> tuple[str, ...]:
    """Return the subprotocols offered, without the bearer token that may stand beside them."""
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    offered = (item.strip() for item in header.split(","))
    names = (item for item in offered if item and not item.startswith("bearer."))
    return tuple(sorted(names, key=lambda name: name != PLAIN))


async def _refuse(ws: web.WebSocketResponse, code: CloseCode, reason: str) -> int:
    await ws.close(code=code, message=close_reason(reason))
    return code


async def _read(ws: web.WebSocketResponse, session: Session) -> int:
    """Read until the connection ends; what a viewer says is ignored, up to the rate.

    Returns:
        The code that the connection was closed with: ours if we began, else the viewer's.
    """
    now = asyncio.get_running_loop().time
    allowance = Allowance(now())
    async for message in ws:
        if message.type is WSMsgType.ERROR:
            broken = isinstance(message.data, WebSocketError)
            return message.data.code if broken else WSCloseCode.ABNORMAL_CLOSURE
        if not allowance.spend(now()):
            session.close(CloseCode.TOO_MANY, close_reason("too many messages"))
    # aiohttp's own code is 1000 for whatever we closed with from another task.
    return session.close_code or ws.close_code or WSCloseCode.ABNORMAL_CLOSURE


async def _close(
    ws: web.WebSocketResponse, transport: asyncio.Transport, code: int, reason: bytes
) -> None:
    """Close politely; a peer that does not read is cut off after the grace."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await ws.close(code=code, message=reason)
    except TimeoutError:
        transport.abort()


def _bound_linger(transport: asyncio.Transport | None) -> None:
    """Give what still waits in an ended viewer's socket the grace, then cut it off.

    Closing a transport waits for its buffer, without end where the peer does not read.
    """
    if transport is not None and transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(_CLOSE_SECONDS, transport.abort)


def _release(request: web.Request, ws: web.WebSocketResponse) -> None:
    """Free a connection at once instead of at the next full garbage collection.

    aiohttp leaves two cycles: the protocol keeps the callback of the heartbeat, and after an
    abrupt loss the exception's traceback refers to the response. The answer to our close frame
    starts the heartbeat's timer again.
    """
    request.protocol._data_received_cb = None  # noqa: SLF001
    ws._cancel_heartbeat()  # noqa: SLF001
    error: BaseException | None = ws.exception()
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__

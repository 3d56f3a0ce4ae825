"""The WebSocket shell: one handler per connection, which only reads; the pump writes."""

import asyncio
import logging
import zlib

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from tailrace.edge.channel import Channel
from tailrace.edge.connection import bound_linger, connect, release
from tailrace.edge.conversation import Conversation
from tailrace.edge.dialect import Dialect, message
from tailrace.edge.locate import Start
from tailrace.edge.node import Node
from tailrace.edge.protocol import PLAIN, V1, CloseCode, close_reason
from tailrace.edge.request import parse_request
from tailrace.edge.session import Allowance, Subscription
from tailrace.schemas import ParameterError, Position, Subject, UnavailableError

__all__ = ["WebSocketEndpoint"]

_CLOSE_SECONDS = 5.0
_PING = b"\x89\x00"
_PONG = 0x8A


class WebSocketEndpoint:
    """Serves the channel URLs, and `/api/stream`, over WebSocket.

    Args:
        node: Whose channels to serve.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._closing: set[asyncio.Task[None]] = set()
        # Its warning prints every subprotocol offered, and so a bearer token.
        logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)

    async def serve(
        self, request: web.Request, subject: Subject | None, *, multiplexed: bool = False
    ) -> web.WebSocketResponse:
        """Serve one viewer until either side closes.

        Args:
            request: The handshake.
            subject: The run of its URL; None for the whole project.
            multiplexed: Whether its URL names no channel: it subscribes by message.
        """
        offered = _offered_protocols(request)
        ws = web.WebSocketResponse(
            protocols=offered[:1],  # a browser hears a close code only of a protocol it offered
            compress=True,  # negotiated only: our frames are compressed once for all
            autoping=False,
            max_msg_size=self._node.settings.max_message_bytes,
        )
        await ws.prepare(request)
        try:
            code = await self._choose(request, ws, subject, offered, multiplexed=multiplexed)
        finally:
            release(ws.exception())
            bound_linger(request.transport, _CLOSE_SECONDS)
        self._node.metrics.count_close(code)
        return ws

    async def _choose(
        self,
        request: web.Request,
        ws: web.WebSocketResponse,
        subject: Subject | None,
        offered: tuple[str, ...],
        *,
        multiplexed: bool,
    ) -> int:
        """Serve the dialect that was offered; return the code that the connection closed with."""
        if offered and offered[0] not in {PLAIN, V1}:
            return await _refuse(ws, CloseCode.UNKNOWN_SUBPROTOCOL, f"use {V1} or {PLAIN}")
        speaks_v1 = offered[:1] == (V1,)
        if multiplexed and not speaks_v1:
            return await _refuse(ws, CloseCode.BAD_REQUEST, f"this URL speaks {V1} only")
        viewer = _Viewer(self, request, ws, speaks_v1=speaks_v1)
        leave = self._node.roster.enter(viewer)
        self._node.metrics.connections["websocket"] += 1
        try:
            if not multiplexed:
                await viewer.follow(subject)
            else:
                viewer.conversation.greet()
            return await viewer.read()
        finally:
            self._node.metrics.connections["websocket"] -= 1
            leave()
            viewer.end()

    def close(
        self, ws: web.WebSocketResponse, transport: asyncio.Transport, code: int, reason: bytes
    ) -> None:
        """Begin to close a connection."""
        task = asyncio.create_task(_close(ws, transport, code, reason))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def closed(self, seconds: float) -> None:
        """Wait until every connection that was told to close is closed; cut off the others."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=seconds)
        for task in self._closing:
            task.cancel()

    @property
    def node(self) -> Node:
        """Who serves."""
        return self._node


class _Viewer:
    """One connection: what it reads, how it is pinged and sent away."""

    def __init__(
        self,
        endpoint: WebSocketEndpoint,
        request: web.Request,
        ws: web.WebSocketResponse,
        *,
        speaks_v1: bool,
    ) -> None:
        self._node = endpoint.node
        self._request = request
        self._ws = ws
        self._speaks_v1 = speaks_v1
        self._plain: Subscription | None = None
        # Nothing that the session holds may refer to this viewer, or they keep each other alive.
        self._session, self._transport = connect(
            self._node,
            request,
            lambda transport, code, reason: endpoint.close(ws, transport, code, reason),
        )
        self._deflated = ws.compress == zlib.MAX_WBITS  # else a smaller window than ours
        self.conversation = Conversation(self._node, self._session, deflated=self._deflated)

    async def follow(self, subject: Subject | None) -> None:
        """Subscribe to the channel of the URL, or close with the reason why not."""
        request = self._request
        if self._speaks_v1:
            self.conversation.greet()
        try:
            asked = parse_request(request.match_info["project"], subject, request.query)
            if self._speaks_v1:
                await self.conversation.subscribe(asked)
            else:
                await self._node.subscribe(asked, self._subscribe_plain)
        except ParameterError as error:
            self._session.close(CloseCode.BAD_REQUEST, close_reason(str(error)))
        except UnavailableError as error:
            self._session.close(CloseCode.GOING_AWAY, close_reason(str(error)))

    def _subscribe_plain(self, channel: Channel, position: Position, start: Start) -> Subscription:
        dialect = Dialect.PLAIN_DEFLATED if self._deflated else Dialect.PLAIN
        self._plain = Subscription(self._session, dialect, channel, position, start.gap)
        return self._plain

    async def read(self) -> int:
        """Read until the connection ends.

        Returns:
            The code that it was closed with: ours if we began, else the viewer's.
        """
        session, now = self._session, asyncio.get_running_loop().time
        allowance = Allowance(now())
        async for heard in self._ws:
            session.heard = True
            if heard.type is WSMsgType.ERROR:
                broken = isinstance(heard.data, WebSocketError)
                return heard.data.code if broken else WSCloseCode.ABNORMAL_CLOSURE
            if not allowance.spend(now()):
                session.close(CloseCode.TOO_MANY, close_reason("too many messages"))
            elif heard.type is WSMsgType.PING:
                session.write(bytes((_PONG, len(heard.data))) + bytes(heard.data))
            elif heard.type is WSMsgType.TEXT and self._speaks_v1 and session.open:
                await self.conversation.hear(heard.data)
            if session.full():  # answers must not pile up before one who does not read them
                await self._room()
        # aiohttp's own code is 1000 for whatever we closed with from another task.
        return session.close_code or self._ws.close_code or WSCloseCode.ABNORMAL_CLOSURE

    async def _room(self) -> None:
        """Wait until the socket has room, or is lost, which the next read tells."""
        try:
            await self._request.writer.drain()
        except ConnectionError as lost:
            release(lost)

    def ping(self) -> None:
        """Ask whether the peer is there; while it has something to take, the kernel sees to that.

        An answer is due only when all is taken: the question may be behind what waits.
        """
        if self._session.buffered():
            self._session.heard = True
            return
        if not self._session.heard:
            self._transport.abort()
            return
        self._session.heard = False
        self._session.write(_PING)

    def send_away(self, retry_after_ms: int) -> None:
        """Close with 1012."""
        after = {"retry_after_ms": retry_after_ms}
        if self._speaks_v1:
            self._session.write(message("drain", **after))
        self._session.close(CloseCode.DRAIN, close_reason(after))

    def end(self) -> None:
        """Forget what was subscribed."""
        self._session.end()
        self.conversation.end()
        if self._plain is not None:
            self._plain.left = True
            self._node.unsubscribe(self._plain)


def _offered_protocols(request: web.Request) -> tuple[str, ...]:
    """Return the subprotocols offered, those we speak first, without a bearer token beside them."""
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    offered = (item.strip() for item in header.split(","))
    names = (item for item in offered if item and not item.startswith("bearer."))
    return tuple(sorted(names, key=lambda name: name not in {PLAIN, V1}))


async def _refuse(ws: web.WebSocketResponse, code: CloseCode, reason: str) -> int:
    await ws.close(code=code, message=close_reason(reason))
    return code


async def _close(
    ws: web.WebSocketResponse, transport: asyncio.Transport, code: int, reason: bytes
) -> None:
    """Close politely; a peer that does not read is cut off after the grace."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await ws.close(code=code, message=reason)
    except TimeoutError:
        transport.abort()
    except asyncio.CancelledError:
        transport.abort()
        raise

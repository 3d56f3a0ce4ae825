"""The WebSocket shell: a protocol for each connection, and no task; the pump writes."""

import asyncio
import zlib
from typing import cast

from aiohttp import EofStream, WebSocketError, WSCloseCode, WSMessage, WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import WebSocketReader

from tailrace.edge.channel import Channel
from tailrace.edge.connection import open_session, release
from tailrace.edge.conversation import Conversation
from tailrace.edge.dialect import Dialect, message
from tailrace.edge.locate import Start
from tailrace.edge.node import Node
from tailrace.edge.protocol import PLAIN, V1, CloseCode, close_frame, close_reason
from tailrace.edge.request import parse_request
from tailrace.edge.session import Allowance, Subscription
from tailrace.edge.upgrade import Answered, Handshake, hand_over, shake_hands
from tailrace.schemas import ParameterError, Position, Subject, UnavailableError

__all__ = ["WebSocketEndpoint"]

_CLOSE_SECONDS = 5.0
_READ_BYTES = 1 << 16
"""Of messages that wait for the one before them; then nothing more is read from the socket."""
_CLOSE = b"\x88\x00"
_PING = b"\x89\x00"
_PONG = 0x8A
_EMPTY_PONG = bytes((_PONG, 0x80))
_EMPTY_PONG_BYTES = 6
"""Masked, as all that viewers send."""


class WebSocketEndpoint:
    """Serves the channel URLs, and `/api/stream`, over WebSocket.

    Args:
        node: Whose channels to serve.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._viewers: dict[asyncio.Transport, _Viewer] = {}
        self._cut_offs: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        """Of those that are told to close."""
        self._empty = asyncio.Event()

    async def serve(
        self, request: web.Request, subject: Subject | None, *, multiplexed: bool = False
    ) -> web.StreamResponse:
        """Answer a handshake and subscribe its viewer, who is served on after that.

        Args:
            request: The handshake.
            subject: The run of its URL; None for the whole project.
            multiplexed: Whether its URL names no channel: it subscribes by message.

        Raises:
            web.HTTPBadRequest: It is no handshake of version 13.
            ConnectionResetError: The peer is gone already.
        """
        offered = _offered_protocols(request)
        # A browser hears a close code only of a protocol that it offered.
        handshake = shake_hands(request, offered[0] if offered else None)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("gone before it was served")
        speaks_v1 = offered[:1] == (V1,)
        viewer = self._viewers[transport] = _Viewer(self, transport, handshake, v1=speaks_v1)
        hand_over(request, transport, viewer)
        try:
            if offered and offered[0] not in {PLAIN, V1}:
                viewer.refuse(CloseCode.UNKNOWN_SUBPROTOCOL, f"use {V1} or {PLAIN}")
            elif multiplexed and not speaks_v1:
                viewer.refuse(CloseCode.BAD_REQUEST, f"this URL speaks {V1} only")
            elif not multiplexed:
                await viewer.follow(request, subject)
        finally:
            viewer.proceed()
        return Answered()

    def close(self, transport: asyncio.Transport, code: int, reason: bytes) -> None:
        """Begin to close a connection: say so behind all that waits, and give the peer a grace."""
        try:
            transport.write(close_frame(code, reason))
        except RuntimeError:  # lost; its protocol is about to hear of it
            return
        self.expect_end(transport)

    def expect_end(self, transport: asyncio.Transport) -> None:
        """Cut a connection off after the grace, if it has not ended then."""
        if transport not in self._cut_offs:
            loop = asyncio.get_running_loop()
            self._cut_offs[transport] = loop.call_later(_CLOSE_SECONDS, transport.abort)

    def ended(self, transport: asyncio.Transport) -> None:
        """Forget a connection."""
        del self._viewers[transport]
        timer = self._cut_offs.pop(transport, None)
        if timer is not None:
            timer.cancel()
        if not self._viewers:
            self._empty.set()

    async def closed(self, seconds: float) -> None:
        """Close all connections that are left, and cut off those which take longer."""
        for viewer in tuple(self._viewers.values()):
            viewer.session.close(CloseCode.GOING_AWAY)
        self._empty.clear()
        try:
            async with asyncio.timeout(seconds):
                while self._viewers:
                    await self._empty.wait()
        except TimeoutError:
            for transport in self._viewers:
                transport.abort()


class _Viewer(asyncio.Protocol):
    """One connection after its handshake: what it reads, how it is pinged and sent away.

    aiohttp's reader takes its frames apart, into a queue which holds what comes while a command is
    carried out or its answer waits. Most viewers never say anything but that they are there: their
    pongs need no reader.
    """

    __slots__ = (
        "_allowance",
        "_busy",
        "_conversation",
        "_deaf",
        "_deflate",
        "_endpoint",
        "_heard_code",
        "_inflate",
        "_lost",
        "_plain",
        "_queue",
        "_reader",
        "_reading_paused",
        "_transport",
        "session",
    )

    def __init__(
        self,
        endpoint: WebSocketEndpoint,
        transport: asyncio.Transport,
        handshake: Handshake,
        *,
        v1: bool,
    ) -> None:
        node = endpoint.node
        self._endpoint = endpoint
        self._transport = transport
        self.session = open_session(
            transport, endpoint.close, max_buffered=node.settings.session_buffer_bytes
        )
        self._inflate = handshake.inflate
        self._deflate = handshake.deflate
        self._conversation: Conversation | None = None
        self._plain: Subscription | None = None
        self._allowance = Allowance(asyncio.get_running_loop().time())
        self._reader: WebSocketReader | None = None
        self._queue: WebSocketDataQueue | None = None
        self._reading_paused = False
        self._heard_code: int | None = None
        """What the viewer closed it with."""
        self._deaf = False
        """Whether nothing is understood any more: all is said."""
        self._busy = True
        """Whether something is being done that the next message must wait for."""
        self._lost = False
        node.roster.enter(self)
        node.metrics.connections["websocket"] += 1
        greeting = handshake.answer
        if v1:
            self._conversation = Conversation(node, self.session, deflated=handshake.deflate)
            greeting += self._conversation.hello()
        self.session.write(greeting)

    # --- its beginning ------------------------------------------------------------------------

    def refuse(self, code: CloseCode, reason: str) -> None:
        """Close it at once."""
        self.session.close(code, close_reason(reason))

    async def follow(self, request: web.Request, subject: Subject | None) -> None:
        """Subscribe to the channel of the URL, or close with the reason why not."""
        try:
            asked = parse_request(request.match_info["project"], subject, request.query)
            if self._conversation is not None:
                await self._conversation.subscribe(asked)
            else:
                await self._endpoint.node.subscribe(asked, self._subscribe_plain)
        except ParameterError as error:
            self.refuse(CloseCode.BAD_REQUEST, str(error))
        except UnavailableError as error:
            self.refuse(CloseCode.GOING_AWAY, str(error))

    def _subscribe_plain(self, channel: Channel, position: Position, start: Start) -> Subscription:
        dialect = Dialect.PLAIN_DEFLATED if self._deflate else Dialect.PLAIN
        self._plain = Subscription(self.session, dialect, channel, position, start.gap)
        return self._plain

    def proceed(self) -> None:
        """Go on with what came meanwhile."""
        self._busy = False
        if self._lost:
            self._end()
        else:
            self._hear()

    # --- what it says -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.session.heard = True
        if self._deaf:
            return
        if self._reader is None:
            if len(data) == _EMPTY_PONG_BYTES and data.startswith(_EMPTY_PONG):
                self._allowed()
                return
            self._listen()
        assert self._reader is not None, "just made"
        self._reader.feed_data(data)
        self._hear()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._queue = WebSocketDataQueue(cast("BaseProtocol", self), _READ_BYTES, loop=loop)
        self._queue.feed_eof()  # so that who reads an empty one is told so instead of waiting
        limit = self._endpoint.node.settings.max_message_bytes
        self._reader = WebSocketReader(self._queue, limit, compress=self._inflate, decode_text=True)

    def _hear(self) -> None:
        """Take what has come, until a command needs time or its answer waits."""
        while self._queue is not None and not self._busy and not self.session.full():
            try:
                heard = _next(self._queue)
            except EofStream:
                return
            except (WebSocketError, zlib.error) as error:
                release(error)
                self._fail(getattr(error, "code", WSCloseCode.PROTOCOL_ERROR))
            else:
                self._take(heard)

    def _fail(self, code: int) -> None:
        """Close it for what cannot be understood, and listen no more."""
        self._stop_hearing()
        self.session.close(code)
        if not self._transport.is_closing():
            self._transport.write_eof()  # it may be in the middle of saying more

    def _take(self, heard: WSMessage) -> None:
        if heard.type is WSMsgType.CLOSE:
            self._close_too(heard.data)
        elif not self.session.open or not self._allowed():
            pass
        elif heard.type is WSMsgType.PING:
            self.session.write(bytes((_PONG, len(heard.data))) + bytes(heard.data))
        elif heard.type is WSMsgType.TEXT and self._conversation is not None:
            self._busy = True
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._conversation.hear(heard.data))
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        try:
            task.result()
        finally:
            self.proceed()

    def _allowed(self) -> bool:
        """Count a message; closes with the one that is too many."""
        if self._allowance.spend(asyncio.get_running_loop().time()):
            return True
        self.refuse(CloseCode.TOO_MANY, "too many messages")
        return False

    def _close_too(self, code: int) -> None:
        """End the closing handshake, whoever began it."""
        self._stop_hearing()
        if self.session.open:
            self._heard_code = code or WSCloseCode.ABNORMAL_CLOSURE
            self.session.write(close_frame(code) if code else _CLOSE)
            self.session.end()
        self._endpoint.expect_end(self._transport)
        self._transport.close()

    def _stop_hearing(self) -> None:
        self._deaf = True
        self._reader = self._queue = None
        if self._reading_paused:
            self.resume_reading()

    def pause_reading(self) -> None:
        """Read nothing more for now; the queue is full."""
        self._reading_paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on; the queue has room."""
        self._reading_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def resume_writing(self) -> None:
        if self.session.waiting:
            self._endpoint.node.drained(self.session.waiting)
        self._hear()

    # --- its end ------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask whether the peer is there; while it has something to take, the kernel sees to that.

        An answer is due only when all is taken: the question may be behind what waits.
        """
        if self.session.buffered():
            self.session.heard = True
        elif self.session.heard:
            self.session.heard = False
            self.session.write(_PING)
        else:
            self.session.end()
            self._transport.abort()

    def send_away(self, retry_after_ms: int) -> None:
        """Close with 1012."""
        after = {"retry_after_ms": retry_after_ms}
        if self._conversation is not None:
            self.session.write(message("drain", **after))
        self.session.close(CloseCode.DRAIN, close_reason(after))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        self.session.end()
        self._lost = True
        if not self._busy:
            self._end()

    def _end(self) -> None:
        """Forget everything: nothing that is left may refer to this."""
        node = self._endpoint.node
        node.roster.leave(self)
        node.metrics.connections["websocket"] -= 1
        code = self.session.close_code or self._heard_code or WSCloseCode.ABNORMAL_CLOSURE
        node.metrics.count_close(code)
        self._endpoint.ended(self._transport)
        self._reader = self._queue = None
        if self._conversation is not None:
            self._conversation.end()
        if self._plain is not None:
            self._plain.left = True
            node.unsubscribe(self._plain)


def _next(queue: WebSocketDataQueue) -> WSMessage:
    """Return what is next in a queue at its end, where nothing waits.

    Raises:
        EofStream: There is nothing for now.
        WebSocketError, zlib.error: What came is no WebSocket.
    """
    try:
        queue.read().send(None)
    except StopIteration as read:
        return cast("WSMessage", read.value)
    raise AssertionError("a queue at its end does not wait")


def _offered_protocols(request: web.Request) -> tuple[str, ...]:
    """Return the subprotocols offered, those we speak first, without a bearer token beside them."""
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    offered = (item.strip() for item in header.split(","))
    names = (item for item in offered if item and not item.startswith("bearer."))
    return tuple(sorted(names, key=lambda name: name not in {PLAIN, V1}))

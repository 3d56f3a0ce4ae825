"""The server-sent events shell: one handler per connection, which only waits; the pump writes."""

import asyncio

from aiohttp import HttpVersion11, web

from tailrace.edge.channel import Channel
from tailrace.edge.connection import bound_linger, connect, release
from tailrace.edge.dialect import Dialect
from tailrace.edge.locate import Start
from tailrace.edge.node import Node
from tailrace.edge.request import StreamRequest
from tailrace.edge.session import Subscription
from tailrace.schemas import Position, UnavailableError

__all__ = ["SseEndpoint"]

_RETRY_MS = 2000
_CLOSE_SECONDS = 5.0
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
    "Connection": "close",
}


class SseEndpoint:
    """Serves the channel URLs as server-sent events (WHATWG HTML §9.2).

    Args:
        node: Whose channels to serve.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    async def serve(self, request: web.Request, asked: StreamRequest) -> web.StreamResponse:
        """Serve one viewer until either side ends it.

        While Kafka does not answer a stream ends at once: a browser connects again after that, and
        never after an error status.
        """
        response = web.StreamResponse(headers=_HEADERS)
        response.force_close()
        await response.prepare(request)
        await response.write(b"retry: %d\n\n" % _RETRY_MS)
        viewer = _Viewer(self._node, request)
        self._node.roster.enter(viewer)
        self._node.metrics.connections["sse"] += 1
        try:
            await self._node.subscribe(asked, viewer.subscribe)
            await viewer.ended.wait()
        except UnavailableError:
            pass
        finally:
            self._node.metrics.connections["sse"] -= 1
            self._node.roster.leave(viewer)
            viewer.leave()
        await _end(response, viewer.transport)
        return response


class _Viewer:
    """One connection."""

    def __init__(self, node: Node, request: web.Request) -> None:
        self._node = node
        # Nothing that the session holds may refer to this viewer, or they keep each other alive.
        self.ended = ended = asyncio.Event()
        self._session, self.transport = connect(
            node, request, lambda _transport, _code, _reason: ended.set(), lost=ended.set
        )
        chunked = request.version >= HttpVersion11
        self._dialect = Dialect.SSE if chunked else Dialect.SSE_RAW
        self._subscription: Subscription | None = None

    def subscribe(self, channel: Channel, position: Position, start: Start) -> Subscription:
        self._subscription = Subscription(
            self._session, self._dialect, channel, position, start.gap
        )
        return self._subscription

    def ping(self) -> None:
        """Do nothing: an idle stream has its heartbeat, a dead peer the kernel's timeout."""

    def send_away(self, retry_after_ms: int) -> None:  # noqa: ARG002 - `retry:` was told
        """End the stream: the browser connects again by itself."""
        self._session.close(0)

    def leave(self) -> None:
        self._session.end()
        if self._subscription is not None:
            self._subscription.left = True
            self._node.unsubscribe(self._subscription)


async def _end(response: web.StreamResponse, transport: asyncio.Transport) -> None:
    """End a stream whole; a peer that does not read is cut off after the grace."""
    bound_linger(transport, _CLOSE_SECONDS)
    try:
        await response.write_eof()
    except ConnectionError as lost:
        release(lost)

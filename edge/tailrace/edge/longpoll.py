"""The JSON catch-up shell: one answer per request, which may wait for its first event."""

import asyncio

from aiohttp import web

from tailrace.edge.channel import Channel
from tailrace.edge.dialect import page_body
from tailrace.edge.locate import Start
from tailrace.edge.node import Node
from tailrace.edge.page import Collector
from tailrace.edge.request import Page, StreamRequest
from tailrace.schemas import Position, UnavailableError

__all__ = ["LongPollEndpoint"]

_REPLAY_SECONDS = 30.0


class LongPollEndpoint:
    """Serves the channel URLs as JSON.

    Args:
        node: Whose channels to serve.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    async def serve(self, asked: StreamRequest, page: Page) -> web.Response:
        """Answer one request.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        poll = _Poll(page)
        self._node.roster.enter(poll)
        self._node.metrics.connections["json"] += 1
        try:
            await self._node.subscribe(asked, poll.collect)
            await poll.answered()
            answer = poll.collector.answer()
        finally:
            self._node.metrics.connections["json"] -= 1
            self._node.roster.leave(poll)
            if poll.begun:
                poll.collector.open = False
                self._node.unsubscribe(poll.collector)
        body = page_body(answer.chunk, more=answer.more, gap=answer.gap)
        return web.Response(
            body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
        )


class _Poll:
    """One request that waits for its answer."""

    collector: Collector

    def __init__(self, page: Page) -> None:
        self._page = page
        self._settled = asyncio.Event()
        """Set when it is answered, or has nothing left to catch up with."""
        self._done = asyncio.Event()
        self.begun = False

    def collect(self, channel: Channel, position: Position, start: Start) -> Collector:
        self.begun = True
        settled, done = self._settled, self._done

        def finished() -> None:  # must not refer to this poll, or they keep each other alive
            settled.set()
            done.set()

        self.collector = Collector(
            channel,
            position,
            limit=self._page.limit,
            gap=start.gap,
            idle=settled.set if self._page.wait else finished,
            done=finished,
        )
        return self.collector

    async def answered(self) -> None:
        """Wait until there is an answer: `wait` seconds for an event once nothing is left behind.

        Raises:
            UnavailableError: What is left behind cannot be read in time.
        """
        try:
            async with asyncio.timeout(_REPLAY_SECONDS):
                await self._settled.wait()
        except TimeoutError as exc:
            raise UnavailableError("the log cannot be read now: try again later") from exc
        try:
            async with asyncio.timeout(self._page.wait):
                await self._done.wait()
        except TimeoutError:
            self.collector.finish()

    def ping(self) -> None:
        """Do nothing: the answer comes soon enough."""

    def send_away(self, retry_after_ms: int) -> None:  # noqa: ARG002 - there is nothing to close
        """Answer with what there is."""
        if self.begun:
            self.collector.finish()

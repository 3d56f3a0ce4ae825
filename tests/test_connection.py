import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from edge_harness import WAIT_SECONDS, until
from socket_clients import RawClient, raw_client

from tailrace.edge.channel import Channel, ChannelKey
from tailrace.edge.connection import Connection, bound_linger, connect, release
from tailrace.edge.dialect import Dialect
from tailrace.edge.listener import listening
from tailrace.edge.node import Node
from tailrace.edge.session import Subscription
from tailrace.edge.settings import EdgeSettings
from tailrace.schemas import Position

START = Position(0, -1, -1, 1)


class _Node(Node):
    """A node that notes who has room again."""

    def __init__(self, buffer: int) -> None:
        super().__init__(EdgeSettings(session_buffer_bytes=buffer))
        self.has_room: list[tuple[Subscription, ...]] = []

    def drained(self, viewers: MutableMapping[Subscription, None]) -> None:
        self.has_room.append(tuple(viewers))
        viewers.clear()


class _Served:
    """A connection as the server sees it, and its client."""

    def __init__(self, node: _Node) -> None:
        self.node = node
        self.closes: list[tuple[int, bytes]] = []
        self.losses = 0
        self.ended = asyncio.Event()
        self.begun = asyncio.Event()
        self.request: web.Request
        self.connection: Connection
        self.client: RawClient

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.force_close()
        await response.prepare(request)
        self.request = request
        self.connection = connect(
            self.node,
            request,
            lambda _transport, code, reason: self.closes.append((code, reason)),
            lost=self._lost,
        )
        self.begun.set()
        await self.ended.wait()
        return response

    def _lost(self) -> None:
        self.losses += 1

    def subscribe(self) -> Subscription:
        channel = Channel(ChannelKey("p1", None), START, 0.0)
        return Subscription(self.connection.session, Dialect.PLAIN, channel, START)

    async def fill(self) -> int:
        """Write until the socket is full; return how much was written."""
        written = 0
        while not self.connection.session.full():
            self.connection.session.write(b"x" * 10_000)
            written += 10_000
            await asyncio.sleep(0)
        return written


@asynccontextmanager
async def _served(buffer: int = 1 << 16) -> AsyncIterator[_Served]:
    served = _Served(_Node(buffer))
    app = web.Application()
    app.router.add_get("/", served.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    try:
        async with (
            listening(runner.server, "127.0.0.1", 0) as url,
            raw_client(int(url.rpartition(":")[2])) as client,
        ):
            client.send("GET / HTTP/1.0")
            served.client = client
            async with asyncio.timeout(WAIT_SECONDS):
                await served.begun.wait()
            yield served
            served.ended.set()
    finally:
        await runner.cleanup()


async def _is(condition: Callable[[], Any]) -> None:
    async def holds() -> bool:
        return bool(condition())

    await until(holds)


async def test_what_the_session_writes_is_what_the_peer_reads() -> None:
    async with _served() as served:
        await served.client.until(b"\r\n\r\n")

        assert served.connection.session.write(b"one frame;")
        assert served.connection.session.write(b"another.")

        assert await served.client.until(b".") == b"one frame;another."
        assert served.connection.session.buffered() == 0


async def test_socket_is_full_past_the_bound_and_has_room_when_most_is_read() -> None:
    async with _served() as served:
        session = served.connection.session
        written = await served.fill()
        assert 1 << 16 < session.buffered() <= (1 << 16) + 10_000
        viewers = [served.subscribe(), served.subscribe()]
        for viewer in viewers:
            viewer.wait_for_room()
        assert served.node.has_room == []

        await served.client.until(b"\r\n\r\n")
        async with asyncio.timeout(WAIT_SECONDS):
            await served.client.reader.readexactly(written)

        await _is(lambda: served.node.has_room)
        assert served.node.has_room == [tuple(viewers)], "all at once, once"
        assert not session.full()
        assert session.waiting == {}


async def test_nobody_is_told_of_room_for_which_nobody_waits() -> None:
    async with _served() as served:
        written = await served.fill()
        await served.client.until(b"\r\n\r\n")
        async with asyncio.timeout(WAIT_SECONDS):
            await served.client.reader.readexactly(written)

        await _is(lambda: served.connection.session.buffered() == 0)
        assert served.node.has_room == []


async def test_low_water_mark_leaves_room_for_much_before_the_next_stall() -> None:
    """The loop's own is 16 bytes: a viewer would be written to in drops."""
    async with _served(1 << 18) as served:
        assert served.connection.transport.get_write_buffer_limits() == (1 << 14, 1 << 18)
    async with _served(1 << 12) as served:
        assert served.connection.transport.get_write_buffer_limits() == (1 << 11, 1 << 12)


async def test_loss_is_told_once_and_ends_the_session() -> None:
    async with _served() as served:
        served.client.lose()

        await _is(lambda: served.losses)
        assert served.losses == 1
        assert not served.connection.session.open
        assert not served.connection.session.write(b"to nobody")
        assert served.request.transport is None, "aiohttp has heard of it too"
        served.connection.session.close(1012)
        assert served.closes == []


async def test_peer_that_ends_its_side_is_lost() -> None:
    async with _served() as served:
        served.client.writer.write_eof()

        await _is(lambda: served.losses)
        assert not served.connection.session.open


async def test_closing_is_begun_once_and_nothing_is_written_after() -> None:
    async with _served() as served:
        session = served.connection.session
        session.close(4008, b"slow")
        session.close(1012, b"late")

        assert served.closes == [(4008, b"slow")]
        assert session.close_code == 4008
        assert not session.write(b"x")


async def test_aiohttp_still_hears_of_a_full_socket() -> None:
    async with _served() as served:
        assert not served.request.protocol.writing_paused
        written = await served.fill()
        assert served.request.protocol.writing_paused
        await served.client.until(b"\r\n\r\n")
        async with asyncio.timeout(WAIT_SECONDS):
            await served.client.reader.readexactly(written)

        await _is(lambda: not served.request.protocol.writing_paused)


async def test_one_gone_already_cannot_be_connected() -> None:
    async with _served() as served:
        served.client.lose()
        await _is(lambda: served.losses)

        with pytest.raises(ConnectionResetError):
            connect(served.node, served.request, lambda *_: None)


async def test_ended_connection_that_is_never_read_is_cut_off() -> None:
    async with _served() as served:
        await served.fill()
        bound_linger(served.connection.transport, 0.0)
        served.connection.transport.close()

        await _is(lambda: served.losses)


async def test_linger_of_nothing_needs_no_bound() -> None:
    async with _served() as served:
        await served.client.until(b"\r\n\r\n")
        bound_linger(served.connection.transport, 0.0)
        bound_linger(None, 0.0)
        await asyncio.sleep(0)
        served.connection.session.write(b"still there.")

        assert await served.client.until(b".") == b"still there."


def _raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def test_release_clears_the_tracebacks_of_all_causes() -> None:
    root = _raised(OSError("root"))
    middle = _raised(ConnectionError("middle"), root)
    top = _raised(RuntimeError("top"), middle)
    assert all(each.__traceback__ for each in (root, middle, top))

    release(top)
    release(None)

    assert not any(each.__traceback__ for each in (root, middle, top))

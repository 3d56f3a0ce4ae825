"""Byte for byte: whatever a socket takes at once, frames and control frames stay in order."""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

import pytest
from edge_harness import until

from tailrace.edge.connection import descriptor_of
from tailrace.edge.direct import NO_DESCRIPTOR, Socket, broadcast

WAIT_SECONDS = 20.0


def sock_of(transport: asyncio.Transport, most: int = 1 << 30) -> Socket:
    return Socket(
        transport.write,
        transport.get_write_buffer_size,
        descriptor=descriptor_of(transport),
        max_buffered=most,
    )


class OneViewer:
    """Somebody to whom is broadcast alone."""

    def __init__(self, session: Socket) -> None:
        self.live = True
        self.session = session

    def broadcast(self, frame: bytes) -> bool:
        """Tell whether it took a frame."""
        return broadcast([self], frame) == (1, [])


class Pair(NamedTuple):
    """A served connection and its peer, who reads only when told to."""

    transport: asyncio.Transport
    peer: socket.socket
    lost: asyncio.Event


class Served(asyncio.Protocol):
    def __init__(self, made: asyncio.Future[asyncio.Transport], lost: asyncio.Event) -> None:
        self._made = made
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.set_result(cast("asyncio.Transport", transport))

    def connection_lost(self, _exc: Exception | None) -> None:
        self._lost.set()


@asynccontextmanager
async def connected(*, send_buffer: int = 4096) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    made: asyncio.Future[asyncio.Transport] = loop.create_future()
    lost = asyncio.Event()
    server = await loop.create_server(lambda: Served(made, lost), "127.0.0.1", 0)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.setblocking(False)
        await loop.sock_connect(peer, server.sockets[0].getsockname())
        transport = await made
        try:
            yield Pair(transport, peer, lost)
        finally:
            transport.abort()
            server.close()


async def read(peer: socket.socket, size: int, most: int = 1 << 16) -> bytes:
    """Read exactly `size` bytes, at most `most` at a time."""
    loop = asyncio.get_running_loop()
    found = b""
    async with asyncio.timeout(WAIT_SECONDS):
        while len(found) < size:
            part = await loop.sock_recv(peer, min(most, size - len(found)))
            assert part, "the connection has ended"
            found += part
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_bytes_keep_their_order_however_little_the_socket_takes(seed: int) -> None:
    chance = random.Random(seed)
    async with connected(send_buffer=chance.choice([2048, 4096, 65536])) as pair:
        viewer = OneViewer(sock_of(pair.transport))
        writes = (viewer.broadcast, viewer.broadcast, viewer.session.write, viewer.session.offer)
        expected = bytearray()
        reading = asyncio.create_task(_trickle(pair.peer, chance))
        for number in range(400):
            frame = number.to_bytes(4, "big") * chance.choice([1, 50, 2_000, 20_000])
            assert chance.choice(writes)(frame)
            expected += frame
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            await until(lambda: _drained(pair), WAIT_SECONDS)
        assert await _whole(pair, reading) == expected


async def _drained(pair: Pair) -> bool:
    return pair.transport.get_write_buffer_size() < 1 << 20


async def _trickle(peer: socket.socket, chance: random.Random) -> bytes:
    """Read in fits and starts until the end."""
    loop = asyncio.get_running_loop()
    found = bytearray()
    while part := await loop.sock_recv(peer, chance.choice([1, 100, 4096, 1 << 16])):
        found += part
        if chance.random() < 0.05:
            await asyncio.sleep(0.001)
    return bytes(found)


async def _whole(pair: Pair, reading: asyncio.Task[bytes]) -> bytes:
    pair.transport.close()  # what waits is sent first
    async with asyncio.timeout(WAIT_SECONDS):
        return await reading


async def test_clean_socket_gets_a_frame_in_the_same_turn_of_the_loop() -> None:
    async with connected(send_buffer=1 << 16) as pair:
        sock_of(pair.transport).write(b"now")
        assert pair.transport.get_write_buffer_size() == 0
        assert await read(pair.peer, 3) == b"now"


async def test_frame_waits_behind_what_the_transport_holds() -> None:
    async with connected() as pair:
        first = b"a" * 2_000_000
        pair.transport.write(first)
        assert pair.transport.get_write_buffer_size() > 0
        sock_of(pair.transport).write(b"b" * 10)
        assert await read(pair.peer, len(first) + 10) == first + b"b" * 10


@pytest.mark.parametrize("how", ["broadcast", "write"])
async def test_lost_connection_is_shut_and_takes_nothing_more(how: str) -> None:
    async with connected() as pair:
        viewer = OneViewer(sock_of(pair.transport))
        write = viewer.broadcast if how == "broadcast" else viewer.session.write
        assert write(b"first")
        pair.peer.close()
        taken = [bool(write(b"x" * 1000)) for _ in range(1000)]
        assert taken.index(False) == taken.count(True), "from the first one on that is not taken"
        assert (viewer.session.open, viewer.session.clear) == (False, NO_DESCRIPTOR)


async def test_nothing_is_written_once_it_is_shut() -> None:
    async with connected() as pair:
        viewer = OneViewer(sock_of(pair.transport))
        assert viewer.broadcast(b"before")
        viewer.session.shut()
        assert viewer.session.write(b"after") is False
        assert not viewer.broadcast(b"after")
        pair.transport.close()
        assert await read(pair.peer, 6) == b"before"
        assert await asyncio.get_running_loop().sock_recv(pair.peer, 10) == b""


async def test_full_socket_takes_what_must_be_said_and_nothing_else() -> None:
    async with connected() as pair:
        viewer = OneViewer(sock_of(pair.transport, most=1000))
        first = b"a" * 2_000_000
        pair.transport.write(first)
        held = pair.transport.get_write_buffer_size()
        assert held > 1000
        assert viewer.session.offer(b"b") is None
        assert broadcast([viewer], b"b") == (0, [viewer])
        assert pair.transport.get_write_buffer_size() == held
        assert viewer.session.write(b"c")
        assert await read(pair.peer, len(first) + 1) == first + b"c"


async def test_broadcast_goes_to_those_who_are_live() -> None:
    async with connected() as one, connected() as other:
        here, away = OneViewer(sock_of(one.transport)), OneViewer(sock_of(other.transport))
        away.live = False
        assert broadcast([here, away], b"frame") == (1, [])
        assert await read(one.peer, 5) == b"frame"
        with pytest.raises(BlockingIOError):
            other.peer.recv(1)


async def test_descriptor_is_open_until_the_loss_is_known() -> None:
    async with connected() as pair:
        descriptor = pair.transport.get_extra_info("socket").fileno()
        open_then: list[bool] = []
        pair.transport.set_protocol(_Looking(descriptor, open_then, pair.lost))
        pair.transport.abort()
        async with asyncio.timeout(WAIT_SECONDS):
            await pair.lost.wait()
    assert open_then == [True]


class _Looking(asyncio.Protocol):
    """Looks, when the connection is lost, whether the descriptor is still its own."""

    def __init__(self, descriptor: int, found: list[bool], lost: asyncio.Event) -> None:
        self._descriptor = descriptor
        self._found = found
        self._lost = lost

    def connection_lost(self, _exc: Exception | None) -> None:
        with socket.socket() as other:
            self._found.append(other.fileno() != self._descriptor)
        self._lost.set()


class _Told(asyncio.Transport):
    """A transport that says what it is."""

    def __init__(self, extra: dict[str, object]) -> None:
        super().__init__(extra)
        self.written: list[bytes] = []

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


@pytest.mark.parametrize("kind", ["tls", "unix", "no socket"])
def test_what_is_no_plain_tcp_goes_through_its_transport(kind: str) -> None:
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    with socket.socket(family) as sock:
        extra: dict[str, object] = {} if kind == "no socket" else {"socket": sock}
        if kind == "tls":
            extra["sslcontext"] = ssl.create_default_context()
        transport = _Told(extra)
        assert descriptor_of(transport) == NO_DESCRIPTOR
        assert sock_of(transport).write(b"frame")
    assert transport.written == [b"frame"]

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

from tailrace.edge.direct import Gate, Offer, direct_writer

WAIT_SECONDS = 20.0


def writer(transport: asyncio.Transport, gate: Gate | None = None, most: int = 1 << 30) -> Offer:
    return direct_writer(transport, gate or Gate(), most)


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
        write = writer(pair.transport)
        expected = bytearray()
        reading = asyncio.create_task(_trickle(pair.peer, chance))
        for number in range(400):
            frame = number.to_bytes(4, "big") * chance.choice([1, 50, 2_000, 20_000])
            control = chance.random() < 0.2  # a ping or a close goes through the transport
            (pair.transport.write if control else write)(frame)
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
        writer(pair.transport)(b"now")
        assert pair.transport.get_write_buffer_size() == 0
        assert await read(pair.peer, 3) == b"now"


async def test_frame_waits_behind_what_the_transport_holds() -> None:
    async with connected() as pair:
        write = writer(pair.transport)
        first = b"a" * 2_000_000
        pair.transport.write(first)
        assert pair.transport.get_write_buffer_size() > 0
        write(b"b" * 10)
        assert await read(pair.peer, len(first) + 10) == first + b"b" * 10


async def test_lost_connection_closes_the_gate_and_takes_nothing_more() -> None:
    async with connected() as pair:
        gate = Gate()
        write = writer(pair.transport, gate)
        pair.peer.close()
        taken = [write(b"x" * 1000) for _ in range(1000)]
        assert taken.index(False) == taken.count(True), "from the first one on that is not taken"
        assert not gate.open


async def test_nothing_is_written_behind_a_closed_gate() -> None:
    async with connected() as pair:
        gate = Gate()
        write = writer(pair.transport, gate)
        assert write(b"before")
        gate.open = False
        assert write(b"after") is False
        pair.transport.close()
        assert await read(pair.peer, 6) == b"before"
        assert await asyncio.get_running_loop().sock_recv(pair.peer, 10) == b""


async def test_full_socket_takes_what_may_wait_and_nothing_else() -> None:
    async with connected() as pair:
        write = writer(pair.transport, most=1000)
        first = b"a" * 2_000_000
        pair.transport.write(first)
        held = pair.transport.get_write_buffer_size()
        assert held > 1000
        assert write(b"b") is None
        assert pair.transport.get_write_buffer_size() == held
        assert write(b"c", 1 << 30)
        assert await read(pair.peer, len(first) + 1) == first + b"c"


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
        writer(transport)(b"frame")
    assert transport.written == [b"frame"]

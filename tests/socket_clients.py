"""An HTTP client on a bare socket, for what a well-behaved one cannot do."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge_harness import WAIT_SECONDS


class RawClient:
    """A connection of which every byte is seen."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._port = port

    def send(self, line: str, *headers: str) -> None:
        """Send a request without a body."""
        lines = (line, f"Host: 127.0.0.1:{self._port}", *headers, "", "")
        self.writer.write("\r\n".join(lines).encode())

    async def until(self, end: bytes) -> bytes:
        """Return what comes, up to and with `end`."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.reader.readuntil(end)

    async def rest(self) -> bytes:
        """Return what comes up to the end of the connection."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.reader.read()

    def lose(self) -> None:
        """Vanish without a word, with a reset."""
        sock = self.writer.get_extra_info("socket")
        if not self.writer.transport.is_closing():
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


@asynccontextmanager
async def raw_client(port: int, *, limit: int = 1 << 17) -> AsyncIterator[RawClient]:
    """Give a connection to a port of this machine, which vanishes at the end of the block.

    Args:
        port: Where to connect.
        limit: Longest thing that can be read `until`; twice as much is taken unasked.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # fills up soon
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    client = RawClient(reader, writer, port)
    try:
        yield client
    finally:
        client.lose()

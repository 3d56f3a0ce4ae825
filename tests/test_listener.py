import asyncio
import errno
import socket

import pytest

from tailrace.edge import listener
from tailrace.edge.listener import listening


class _Accepted(asyncio.Protocol):
    """Notes the options of the socket that it is given, and says so by closing it."""

    def __init__(self, options: list[tuple[int, int]]) -> None:
        self._options = options

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        self._options.append(
            (
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT),
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        )
        transport.close()


async def _connect(url: str) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    assert await reader.read() == b""
    writer.close()


async def test_accepted_sockets_have_the_bounds_of_the_listening_one() -> None:
    options: list[tuple[int, int]] = []
    async with listening(lambda: _Accepted(options), "127.0.0.1", 0) as url:
        for _ in range(3):
            await _connect(url)

    assert options == [(listener._UNSENT_BYTES, listener._DEAD_MS)] * 3
    assert options[0] == (65_536, 120_000)


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")]
)
async def test_url_names_where_it_really_listens(host: str, shown: str) -> None:
    async with listening(lambda: _Accepted([]), host, 0) as url:
        assert url.startswith(shown)
        assert not url.endswith(":0")
        await _connect(url)


async def test_nothing_listens_after_the_block() -> None:
    async with listening(lambda: _Accepted([]), "127.0.0.1", 0) as url:
        pass

    with pytest.raises(ConnectionRefusedError):
        await _connect(url)


async def test_address_in_use_is_an_oserror() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        with pytest.raises(OSError, match="in use") as refused:
            async with listening(lambda: _Accepted([]), *taken.getsockname()):
                pass

    assert refused.value.errno == errno.EADDRINUSE


async def test_foreign_address_is_an_oserror() -> None:
    with pytest.raises(OSError, match="assign"):
        async with listening(lambda: _Accepted([]), "192.0.2.1", 0):
            pass

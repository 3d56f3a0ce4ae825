"""The opening handshake of a WebSocket (RFC 6455 §4.2), after which aiohttp is out of the way.

aiohttp keeps two tasks, the request and a parser for each connection for as long as it lasts, four
fifths of what an idle viewer takes (`python -m bench memory`). So it is told that the connection is
gone, and a protocol of our own has it from then on.
"""

import asyncio
import base64
import binascii
import hashlib
import zlib
from typing import NamedTuple, cast

from aiohttp import hdrs, web
from aiohttp.http import WS_KEY, WebSocketReader, ws_ext_gen, ws_ext_parse

__all__ = ["Answered", "Handshake", "hand_over", "shake_hands"]

_KEY_BYTES = 16
_VERSION = "13"


class Handshake(NamedTuple):
    """What was agreed."""

    answer: bytes
    """Of the server, up to the first frame."""
    inflate: bool
    """Whether the viewer may compress what it says."""
    deflate: bool
    """Whether it takes what refers 32 KiB back."""


class Answered(web.StreamResponse):
    """A response of which aiohttp has nothing to write: the connection is no longer its."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write no head."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write no end."""


def shake_hands(request: web.Request, subprotocol: str | None) -> Handshake:
    """Return the answer to a request that asks for a WebSocket.

    Args:
        request: The handshake.
        subprotocol: One that it offers, or None.

    Raises:
        web.HTTPBadRequest: It is no handshake of version 13.
    """
    headers = request.headers
    connection = ",".join(headers.getall(hdrs.CONNECTION, ())).lower()
    if "upgrade" not in {item.strip() for item in connection.split(",")}:
        raise web.HTTPBadRequest(text="Connection: upgrade is missing")
    if headers.get(hdrs.SEC_WEBSOCKET_VERSION) != _VERSION:
        raise web.HTTPBadRequest(text=f"Sec-WebSocket-Version must be {_VERSION}")
    key = headers.get(hdrs.SEC_WEBSOCKET_KEY, "")
    if not _is_key(key):
        raise web.HTTPBadRequest(text="Sec-WebSocket-Key is not 16 bytes of base64")
    accept = base64.b64encode(hashlib.sha1(key.encode() + WS_KEY).digest()).decode()  # noqa: S324 - RFC 6455 §4.2.2
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
    ]
    window, no_takeover = ws_ext_parse(headers.get(hdrs.SEC_WEBSOCKET_EXTENSIONS), isserver=True)
    if window:
        extension = ws_ext_gen(window, isserver=True, server_notakeover=no_takeover)
        lines.append(f"Sec-WebSocket-Extensions: {extension}")
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    answer = "\r\n".join([*lines, "", ""]).encode()
    return Handshake(answer, bool(window), window == zlib.MAX_WBITS)


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


class _Tail:
    """Takes from aiohttp what came right behind the request."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Do nothing: nothing reads on from here."""


def hand_over(
    request: web.Request, transport: asyncio.Transport, protocol: asyncio.Protocol
) -> None:
    """Let a protocol have the connection of a request; return `Answered` from its handler then.

    Args:
        request: Whose handshake is answered.
        transport: Its own.
        protocol: Gets what follows the handshake.
    """
    tail = _Tail()
    request.protocol.set_parser(cast("WebSocketReader", tail))
    transport.set_protocol(protocol)
    request.protocol.transport = None  # which it would close
    request.protocol.connection_lost(None)
    if tail.data:
        protocol.data_received(tail.data)

"""The opening handshake, and that nothing said around it is lost with the change of hands."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
from edge_harness import MemoryEdge, memory_edge, raw
from shell_viewers import JOB, V1, next_frame
from socket_clients import raw_client

from tailrace.edge.app import serving
from tailrace.edge.node import Node
from tailrace.edge.settings import EdgeSettings

PING = orjson.dumps({"t": "ping", "at": 7})
SPEAK_V1 = f"Sec-WebSocket-Protocol: {V1}"
HANDSHAKE = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",  # the example of RFC 6455 §1.3
}


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    async with memory_edge() as edge:
        yield edge


async def answer(edge: MemoryEdge, **changed: str) -> tuple[str, bytes]:
    """Send a handshake with some headers changed; return the answer's head and body."""
    headers = {**HANDSHAKE, **{name.replace("_", "-"): value for name, value in changed.items()}}
    async with raw_client(edge.port) as client:
        client.send(f"GET {JOB} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items() if v))
        head = (await client.until(b"\r\n\r\n")).decode()
        sizes = [line for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        size = int(sizes[0].partition(":")[2]) if sizes else 0
        async with asyncio.timeout(10):
            return head, await client.reader.readexactly(size)


async def test_accepting_key_is_that_of_the_rfc(edge: MemoryEdge) -> None:
    head, _ = await answer(edge)
    assert head.startswith("HTTP/1.1 101 ")
    assert "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert "Sec-WebSocket-Protocol" not in head
    assert "Sec-WebSocket-Extensions" not in head


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Connection", ""),
        ("Connection", "keep-alive"),
        ("Sec_WebSocket_Version", ""),
        ("Sec_WebSocket_Version", "12"),
        ("Sec_WebSocket_Key", ""),
        ("Sec_WebSocket_Key", "c2hvcnQ="),
        ("Sec_WebSocket_Key", "not base64 at all!!!!!!"),
    ],
)
async def test_what_is_no_handshake_is_answered_with_what_is_wrong(
    edge: MemoryEdge, header: str, value: str
) -> None:
    head, body = await answer(edge, **{header: value})
    assert head.startswith("HTTP/1.1 400 ")
    error = orjson.loads(body)["error"]
    assert error["code"] == "bad_request"
    assert header.replace("_", "-") in error["message"]


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=10",
        ),
        ("x-unknown", None),
    ],
)
async def test_compression_is_agreed_on_where_it_is_offered(
    edge: MemoryEdge, offered: str, agreed: str | None
) -> None:
    head, _ = await answer(edge, Sec_WebSocket_Extensions=offered)
    lines = [line for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Extensions")]
    assert lines == ([] if agreed is None else [f"Sec-WebSocket-Extensions: {agreed}"])


async def _said(edge: MemoryEdge, *pieces: bytes) -> list[bytes]:
    """Send a handshake and frames in these pieces; return the payloads of three answers."""
    async with raw(edge, "/api/stream", SPEAK_V1) as viewer:
        for piece in pieces:
            viewer.writer.write(piece)
            await viewer.writer.drain()
            await edge.metrics()  # a round trip: the piece is taken
        await viewer.head()
        return [(await next_frame(viewer))[1] for _ in range(3)]


def _frame(payload: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


@pytest.mark.parametrize("cut", [0, 1, 3, 9, 20])
async def test_commands_right_behind_the_handshake_are_heard_in_order(
    edge: MemoryEdge, cut: int
) -> None:
    other = _frame(orjson.dumps({"t": "ping", "at": 8}))
    both = _frame(PING) + other

    hello, first, second = await _said(edge, both[:cut], both[cut:])

    assert orjson.loads(hello)["t"] == "hello"
    assert [orjson.loads(pong)["at"] for pong in (first, second)] == [7, 8]


async def test_command_in_the_same_packet_as_the_handshake_is_heard(edge: MemoryEdge) -> None:
    lines = [f"{name}: {value}" for name, value in HANDSHAKE.items()]
    request = "\r\n".join(["GET /api/stream HTTP/1.1", "Host: x", SPEAK_V1, *lines, "", ""])
    async with raw_client(edge.port) as client:
        client.writer.write(request.encode() + _frame(PING))
        await client.until(b'"t":"hello"')
        assert b'"at":7' in await client.until(b'"t":"pong"') + await client.until(b"}")


async def test_pongs_and_messages_may_come_in_any_mixture(edge: MemoryEdge) -> None:
    pong = bytes((0x8A, 0x80, 0, 0, 0, 0))
    half = len(_frame(PING)) // 2

    hello, first, second = await _said(
        edge,
        pong,
        pong + _frame(PING)[:half],
        _frame(PING)[half:],
        pong,
        pong[:3],
        pong[3:] + _frame(PING),
    )

    assert orjson.loads(hello)["t"] == "hello"
    assert [orjson.loads(each)["at"] for each in (first, second)] == [7, 7]


async def test_who_is_left_when_the_server_ends_is_told_and_waited_for() -> None:
    async with aiohttp.ClientSession() as http:
        async with serving(Node(EdgeSettings(port=0))) as url:
            viewer = await http.ws_connect(f"{url}/api/stream", protocols=[V1])
            assert (await viewer.receive_json())["t"] == "hello"
        assert (await viewer.receive()).data == 1001

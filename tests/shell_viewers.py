"""Viewers of each kind, as the tests of the edge's shells use them, and how to find leaks."""

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from edge_harness import WAIT_SECONDS, Client, Edge, RawViewer, Viewer, channel_url, until
from yarl import URL

from tailrace.edge.channel import Channel
from tailrace.edge.page import Collector
from tailrace.edge.session import Session, Subscription

V1 = "tailrace.v1.json"
JOB = channel_url("p1", "ingest", "j1")
PROJECT = channel_url("p1")
SSE = {"Accept": "text/event-stream"}

Message = dict[str, Any]


class Talk:
    """A connection that speaks `tailrace.v1.json`."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.ws = viewer.ws

    async def message(self) -> Message:
        """Return the next message."""
        return dict(orjson.loads(await self.viewer.text()))

    async def expect(self, t: str) -> Message:
        """Return the next message, which must be of this kind, without its `t`."""
        message = await self.message()
        assert message.pop("t") == t, message
        return message

    async def say(self, **members: Any) -> None:
        await self.ws.send_str(orjson.dumps(members).decode())

    async def ask(self, **members: Any) -> Message:
        """Send a command and return the next message."""
        await self.say(**members)
        return await self.message()

    async def nothing_more(self) -> None:
        """Prove that nothing is underway: the next thing that comes is the answer to a ping."""
        assert (await self.ask(t="ping", at="nothing more"))["t"] == "pong"


@asynccontextmanager
async def talk(
    client: Client, path: str = "/api/stream", *, greeted: bool = True
) -> AsyncIterator[Talk]:
    """Speak `tailrace.v1.json` for as long as the block runs; `hello` is taken off."""
    async with client.watch(path, protocols=[V1]) as viewer:
        spoken = Talk(viewer)
        if greeted:
            await spoken.expect("hello")
        yield spoken


class Stream:
    """Server-sent events, block by block."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def block(self) -> dict[str, str]:
        """Return the fields of the next block."""
        async with asyncio.timeout(WAIT_SECONDS):
            text = (await self.response.content.readuntil(b"\n\n")).decode()
        fields = [line.split(": ", 1) for line in text.rstrip("\n").split("\n")]
        assert len({name for name, _ in fields}) == len(fields), text
        return {field[0]: field[1] for field in fields}

    async def event(self) -> Message:
        """Return the next event, heartbeats left aside."""
        while set(block := await self.block()) == {"id"}:
            pass
        assert set(block) == {"id", "data"}, block
        return dict(orjson.loads(block["data"]))

    async def rest(self) -> bytes:
        """Read up to the end of the response, which must come in order."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.response.read()


@asynccontextmanager
async def stream(client: Client, path: str = JOB, **headers: str) -> AsyncIterator[Stream]:
    """Follow a channel by server-sent events; `retry` is taken off."""
    url = URL(client.url + path, encoded=True)
    async with client.http.get(url, headers={**SSE, **headers}) as response:
        assert response.status == 200, await response.text()
        following = Stream(response)
        assert await following.block() == {"retry": "2000"}
        yield following


async def page(client: Client, path: str = JOB, **headers: str) -> Message:
    """Return the answer of a JSON catch-up."""
    status, _, body = await client.get(path, **headers)
    assert status == 200, body
    return dict(orjson.loads(body))


async def connected(client: Client, transport: str, count: int) -> None:
    """Wait until the node counts this many open connections of a transport."""
    name = f"tailrace_connections{{transport={transport}}}"

    async def counted() -> bool:
        return (await client.metrics()).get(name, 0) == count

    await until(counted)


async def metric(client: Client, name: str, value: float) -> None:
    """Wait until a metric has this value."""

    async def reached() -> bool:
        return (await client.metrics()).get(name, 0) == value

    await until(reached)


def subscriptions(edge: Edge) -> list[Subscription]:
    """Return who follows a channel of this node by a stream."""
    viewers = [viewer for channel in edge.node.hub.channels() for viewer in channel.viewers]
    return [viewer for viewer in viewers if isinstance(viewer, Subscription)]


async def next_frame(viewer: RawViewer) -> tuple[int, bytes]:
    """Return opcode and payload of the next frame of a server."""
    first, size = await viewer.read(2)
    if size == 126:
        size = int.from_bytes(await viewer.read(2), "big")
    elif size == 127:
        size = int.from_bytes(await viewer.read(8), "big")
    assert first & 0x80, "each is final"
    return first & 0x0F, await viewer.read(size)


async def next_message(viewer: RawViewer) -> Message:
    """Return the next text message of a server, pings and pongs left aside."""
    while True:
        opcode, payload = await next_frame(viewer)
        if opcode in {9, 10}:
            continue
        assert opcode == 1, (opcode, payload)
        return dict(orjson.loads(payload))


def alive() -> list[object]:
    """Return every object of a connection that exists."""
    kinds = (
        web.WebSocketResponse,
        web.StreamResponse,
        web.Request,
        Session,
        Subscription,
        Channel,
        Collector,
    )
    return [found for found in gc.get_objects() if type(found) in kinds]


async def nothing_left(edge: Edge, before: list[object]) -> None:
    """Wait until nobody is connected, and no object is left that was not there `before`."""
    # Without keep-alive, lest the request that asks stays the last one of its connection.
    status, _, _ = await edge.get("/healthz", Connection="close")
    assert status == 200

    async def gone() -> bool:
        return not {id(each) for each in alive()} - {id(each) for each in before}

    await until(gone)
    assert edge.sockets <= 1
    assert len(edge.node.hub) == 0
    assert len(edge.node.roster) == 0


def chained(messages: list[Message], cursor: str) -> str:
    """Check that each of a channel's messages goes on from the one before; return the end."""
    for message in messages:
        assert message["prev"] == cursor
        cursor = message["cursor"]
    return cursor


def errors(body: bytes) -> tuple[str, str]:
    """Return code and message of an error's JSON body, which must hold nothing else."""
    answer: Mapping[str, Mapping[str, str]] = orjson.loads(body)
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "message"}
    return answer["error"]["code"], answer["error"]["message"]

"""An edge that plays one scene per connection: real sockets, and a script for the rest."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import WSMsgType, web
from yarl import URL

WAIT_SECONDS = 20.0
"""Bound of every wait; a test that reaches it has failed."""

CHANNEL = "p/ingest/j1"


class Side:
    """The server's side of one connection."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        self.request = request
        self.ws = ws

    @property
    def after(self) -> str | None:
        """The cursor that the client resumes after."""
        return self.request.query.get("after")

    async def say(self, t: str, **members: Any) -> None:
        await self.ws.send_str(orjson.dumps({"t": t, **members}).decode())

    async def hello(self, heartbeat_ms: int = 25_000) -> None:
        await self.say("hello", v=1, session="s", node="n", heartbeat_ms=heartbeat_ms)

    async def subscribed(self, cursor: str, *, heartbeat_ms: int = 25_000, **more: Any) -> None:
        """Say hello and how the channel goes on: by default as the client asked."""
        await self.hello(heartbeat_ms)
        members = {"resumed": self.after is not None, "gap": None, **more}
        await self.say("subscribed", ch=CHANNEL, cursor=cursor, **members)

    async def batch(self, prev: str, cursor: str, *numbers: int, skipped: int = 0) -> None:
        """Send a batch of one event for each number."""
        events = [event(n) for n in numbers]
        await self.say(
            "batch", ch=CHANNEL, prev=prev, cursor=cursor, skipped=skipped, events=events
        )

    async def close(self, code: int, reason: str = "") -> None:
        await self.ws.close(code=code, message=reason.encode())

    def abort(self) -> None:
        """Drop the connection without a word."""
        transport = self.request.transport
        assert transport is not None
        transport.abort()

    async def receive(self) -> Any:
        """Return the next message of the client, parsed."""
        async with asyncio.timeout(WAIT_SECONDS):
            message = await self.ws.receive()
        assert message.type is WSMsgType.TEXT, message
        return orjson.loads(message.data)

    async def left(self) -> int | None:
        """Wait until the client has closed, and return its code."""
        async with asyncio.timeout(WAIT_SECONDS):
            async for _ in self.ws:
                pass
        return self.ws.close_code


Scene = Callable[[Side], Awaitable[None]]


def begin(*batches: tuple[int, ...], then: Scene) -> Scene:
    """Return a scene: subscribed at c0, each of the batches, then another scene."""

    async def scene(side: Side) -> None:
        await side.subscribed("c0")
        for n, batch in enumerate(batches):
            await side.batch(f"c{n}", f"c{n + 1}", *batch)
        await then(side)

    return scene


async def end(side: Side) -> None:
    """End the stream as it should be."""
    await side.close(1000)


async def stay(side: Side) -> None:
    """Say no more until the client leaves."""
    await side.left()


def refuse(status: int, **headers: str) -> web.Response:
    """Return a scene that answers the handshake with a status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, headers=named)


class ScriptedEdge:
    """Serves the scenes one after the other; one connection too many is closed with 4500."""

    def __init__(
        self, url: str, scenes: Sequence[Scene | web.Response], protocols: Sequence[str]
    ) -> None:
        self.url = url
        self._protocols = protocols
        self.requests: list[web.Request] = []
        self._scenes = iter(scenes)

    @property
    def targets(self) -> list[str]:
        """Path and query of each handshake."""
        return [str(request.rel_url) for request in self.requests]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        scene = next(self._scenes, None)
        if isinstance(scene, web.Response):
            return scene
        ws = web.WebSocketResponse(
            protocols=self._protocols, compress=False, timeout=WAIT_SECONDS, autoping=True
        )
        await ws.prepare(request)
        side = Side(request, ws)
        if scene is None:
            await side.close(4500, "no scene is left")
        else:
            await scene(side)
        return ws


@asynccontextmanager
async def scripted_edge(
    *scenes: Scene | web.Response, protocols: Sequence[str] = ("tailrace.v1.json",)
) -> AsyncIterator[ScriptedEdge]:
    """Serve the scenes on a free port for as long as the block runs."""
    app = web.Application()
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    edge = ScriptedEdge("", scenes, protocols)
    app.router.add_get("/{path:.*}", edge.serve)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port, *_ = runner.addresses[0]
        edge.url = str(URL.build(scheme="http", host=host, port=port))
        yield edge
    finally:
        await runner.cleanup()


def event(n: int) -> dict[str, Any]:
    """Return an event JSON that `n` tells from its neighbours."""
    return {
        "type": "ingest.job.updated",
        "timestamp": f"2026-11-23T10:15:{n % 60:02}.123456+00:00",
        "job": {"id": "j1", "n": n},
    }

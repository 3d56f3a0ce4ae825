"""The simulated edge on a real port, with a finished log, in all dialects.

It says goodbye in the middle of things, in every way that the contract knows.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast
from urllib.parse import unquote

import orjson
from aiohttp import web

from verifier.dialects import Dialect, locate
from verifier.expectation import Watch
from verifier.record import Record
from verifier.simulator import Simulator

__all__ = ["honest_edge"]

_KINDS: Final = {"ingest": "ingest", "agent-runs": "agent", "workflows": "workflow"}
_GOODBYE: Final = 0.05
"""How often it ends a connection after a message."""


@asynccontextmanager
async def honest_edge(records: Sequence[Record], seed: int) -> AsyncIterator[str]:
    """Serve a log for as long as the block runs; gives the URL."""
    app = web.Application()
    served = _Served(records, seed)
    app.router.add_get("/api/stream{rest:.*}", served.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port, *_ = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class _Served:
    def __init__(self, records: Sequence[Record], seed: int) -> None:
        self._records = records
        self._random = random.Random(seed)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self._random.random() < _GOODBYE:
            return web.Response(status=503, headers={"Retry-After": "0"})
        if request.headers.get("Upgrade", "").lower() == "websocket":
            ws = web.WebSocketResponse(protocols=_offered(request))
            with suppress(ConnectionError):  # the viewer has left
                await self._socket(request, ws)
            return ws
        if request.headers.get("Accept") == "text/event-stream":
            return await self._sse(request)
        simulator, at = self._place(request, "json", request.headers.get("Last-Event-ID"))
        for frame in simulator.frames(at):
            for _, text in simulator.told(frame):
                return web.json_response(text=text)
        raise AssertionError("a viewer that saw the end asked for more")

    def _place(
        self, request: web.Request, dialect: Dialect, after: str | None
    ) -> tuple[Simulator, int]:
        query = request.query
        asked = {n: query[n] for n in ("types", "delivery") if n in query}
        watch = Watch(
            *_channel(request.raw_path.partition("?")[0]),
            start=cast("Any", query.get("from", "live")),
            **cast("Any", asked),
        )
        return self._at(watch, dialect, after or query.get("after"))

    def _at(self, watch: Watch, dialect: Dialect, after: str | None) -> tuple[Simulator, int]:
        project = [r for r in self._records if r.key == watch.project.encode()]
        simulator = Simulator(project, watch, dialect, self._random.randrange(2**32))
        place = locate(after) if after else None
        return simulator, simulator.begin() if place is None else place.offset

    def _leaves(self) -> bool:
        return self._random.random() < _GOODBYE

    async def _sse(self, request: web.Request) -> web.StreamResponse:
        simulator, at = self._place(request, "sse", request.headers.get("Last-Event-ID"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        with suppress(ConnectionError):
            await self._stream_events(request, response, simulator, at)
        return response

    async def _stream_events(
        self, request: web.Request, response: web.StreamResponse, simulator: Simulator, at: int
    ) -> None:
        await response.prepare(request)
        await response.write(b"retry: 2000\n\n")
        for frame in simulator.frames(at):
            for _, block in simulator.told(frame):
                text = "".join(f"{name}: {value}\n" for name, value in block.items()) + "\n"
                half = len(text) // 2
                await response.write(text[:half].encode())
                if self._leaves():
                    return  # in the middle of a block, which then does not count
                await response.write(text[half:].encode())

    async def _socket(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        await ws.prepare(request)
        if not _offered(request):
            await self._send(ws, *self._place(request, "plain", None))
            return
        await ws.send_str('{"t":"hello","v":1}')
        if request.path == "/api/stream":
            await self._bundle(ws)
            return
        simulator, at = self._place(request, "v1", None)
        await ws.send_str(simulator.subscribed(at, resumed="after" in request.query))
        await self._send(ws, simulator, at)

    async def _send(self, ws: web.WebSocketResponse, simulator: Simulator, at: int) -> None:
        for frame in simulator.frames(at):
            for _, text in simulator.told(frame):
                await ws.send_str(text)
                if self._leaves():
                    await ws.close(code=1012, message=b'{"retry_after_ms":1}')
                    return
        await self._wait_for_goodbye(ws)

    async def _bundle(self, ws: web.WebSocketResponse) -> None:
        """Serve whatever channels are asked for."""
        streams: list[AsyncIterator[str]] = []
        asked = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._take_turns(ws, streams, asked))
            async for message in ws:
                streams.append(self._stream(orjson.loads(message.data)))
                asked.set()
            sending.cancel()

    async def _take_turns(
        self, ws: web.WebSocketResponse, streams: list[AsyncIterator[str]], asked: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while await asked.wait():
                asked.clear()
                while streams:
                    stream = self._random.choice(streams)
                    text = await anext(stream, None)
                    if text is None:
                        streams.remove(stream)
                    else:
                        await ws.send_str(text)
                    if self._leaves():
                        await ws.close(code=1001)
                        return

    async def _stream(self, asked: dict[str, Any]) -> AsyncIterator[str]:
        watch = Watch(
            asked["project"],
            asked.get("kind"),
            asked.get("run"),
            ",".join(asked.get("types", ["*"])),
            asked.get("from", "live"),
            asked["delivery"],
        )
        simulator, at = self._at(watch, "v1", asked.get("after"))
        yield simulator.subscribed(at, resumed="after" in asked, id=asked["id"])
        for frame in simulator.frames(at):
            for _, text in simulator.told(frame):
                yield text

    async def _wait_for_goodbye(self, ws: web.WebSocketResponse) -> None:
        async for _ in ws:
            pass


def _offered(request: web.Request) -> tuple[str, ...]:
    return tuple(filter(None, [request.headers.get("Sec-WebSocket-Protocol")]))


def _channel(path: str) -> tuple[str, str | None, str | None]:
    _, _, _, _, project, *run = path.split("/")
    if not run:
        return unquote(project), None, None
    return unquote(project), _KINDS[run[0]], unquote(run[-1])

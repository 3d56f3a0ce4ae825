"""The HTTP surface of a node, and the process around it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from importlib import resources

import orjson
import structlog
import uvloop
from aiohttp import web

from tailrace.edge.access import origin_allowed
from tailrace.edge.node import Node
from tailrace.edge.settings import EdgeSettings
from tailrace.edge.websocket import WebSocketEndpoint
from tailrace.schemas import Subject

__all__ = ["create_app", "run", "serve"]

_log = structlog.get_logger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_RUN_URLS = {
    "/api/stream/projects/{project}/ingest/{run}": "ingest",
    "/api/stream/projects/{project}/agent-runs/{run}": "agent",
    "/api/stream/projects/{project}/workflows/runs/{run}": "workflow",
}


def create_app(node: Node) -> web.Application:
    """Return the application that serves `node`: streams, health, metrics and the live page."""
    app = web.Application(middlewares=[_json_errors])
    surface = _Surface(node)
    app.router.add_get("/api/stream/projects/{project}", surface.stream(None))
    for path, kind in _RUN_URLS.items():
        app.router.add_get(path, surface.stream(kind))
    app.router.add_get("/healthz", surface.healthz)
    app.router.add_get("/readyz", surface.readyz)
    app.router.add_get("/metrics", surface.metrics)
    app.router.add_get("/", surface.page)
    app.on_shutdown.append(surface.close)
    return app


class _Surface:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._websockets = WebSocketEndpoint(node)
        self._page = resources.files("tailrace.edge").joinpath("live.html").read_text()

    def stream(self, kind: str | None) -> _Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            self._admit(request)
            subject = None if kind is None else Subject(kind, request.match_info["run"])
            return await self._websockets.serve(request, subject)

        return handler

    def _admit(self, request: web.Request) -> None:
        """Refuse before the upgrade what must not reach it.

        Raises:
            web.HTTPException: 403 for a foreign origin, 426 for plain HTTP, 503 when full.
        """
        allowed = self._node.settings.origins
        if not origin_allowed(request.headers.get("Origin"), request.host, allowed):
            raise web.HTTPForbidden(reason="origin not allowed")
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise web.HTTPUpgradeRequired(
                headers={"Upgrade": "websocket"}, reason="connect with a WebSocket"
            )
        if self._node.full:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"}, reason="no room")

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(self, _request: web.Request) -> web.Response:
        reason = await self._node.not_ready()
        if reason is None:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready", "reason": reason}, status=503)

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=await self._node.render_metrics(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")

    async def close(self, _app: web.Application) -> None:
        self._node.drain()
        await self._websockets.closed()


@web.middleware
async def _json_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004
            raise
        return _error(error)


def _error(error: web.HTTPException) -> web.Response:
    code = error.reason.lower().replace(" ", "_")
    headers = {k: v for k, v in error.headers.items() if k in {"Retry-After", "Allow", "Upgrade"}}
    body = orjson.dumps({"error": {"code": code, "message": error.reason}})
    return web.Response(
        body=body, status=error.status, headers=headers, content_type="application/json"
    )


async def serve(settings: EdgeSettings, stop: asyncio.Event) -> None:
    """Run a node until `stop` is set, then end in order: listener, viewers, consumer.

    Raises:
        OSError: The port is taken.
    """
    node = Node(settings)
    runner = web.AppRunner(
        create_app(node),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=settings.drain_seconds,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
        host, port, *_ = runner.addresses[0]
        _log.info("listening", url=f"http://{host}:{port}", topic=settings.topic)
        async with asyncio.TaskGroup() as tasks:
            consuming = tasks.create_task(node.run())
            await stop.wait()
            _log.info("draining")
            await runner.cleanup()
            consuming.cancel()
    finally:
        await runner.cleanup()


async def _serve_until_signalled(settings: EdgeSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():  # a second one exits at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await serve(settings, stop)


def run(settings: EdgeSettings) -> None:
    """Run one edge process on uvloop until SIGTERM or SIGINT; a second signal exits at once.

    Raises:
        OSError: The port is taken.
    """
    uvloop.run(_serve_until_signalled(settings))

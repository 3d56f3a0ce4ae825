"""The HTTP surface of a node, and the process around it."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources

import orjson
import structlog
import uvloop
from aiohttp import web

from tailrace.edge.access import origin_allowed
from tailrace.edge.connection import release
from tailrace.edge.garbage import take_over
from tailrace.edge.listener import listening
from tailrace.edge.longpoll import LongPollEndpoint
from tailrace.edge.node import Node
from tailrace.edge.request import parse_page, parse_request
from tailrace.edge.settings import EdgeSettings
from tailrace.edge.siblings import Siblings, merged, not_ready
from tailrace.edge.sse import SseEndpoint
from tailrace.edge.websocket import WebSocketEndpoint
from tailrace.edge.workers import Workers, reserve
from tailrace.schemas import ParameterError, Subject, UnavailableError

__all__ = ["run", "serve", "serving"]

_log = structlog.get_logger(__name__)
_LAST_SECONDS = 1.0
"""For closing handshakes when all viewers are sent away, and then for what is still answered."""
_IDLE_SECONDS = 75.0
"""Between two requests of a connection: longer than proxies keep theirs."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_RUN_URLS = {
    "/api/stream/projects/{project}/ingest/{run}": "ingest",
    "/api/stream/projects/{project}/agent-runs/{run}": "agent",
    "/api/stream/projects/{project}/workflows/runs/{run}": "workflow",
}


def create_app(node: Node, siblings: Siblings | None = None) -> web.Application:
    """Return the application that serves `node`: streams, health, metrics and the live page.

    Args:
        node: Serves the streams.
        siblings: For whom it answers as well when it is asked about readiness and metrics.
    """
    surface = _Surface(node, siblings)
    app = web.Application(middlewares=[surface.in_time, _json_errors])
    app.router.add_get("/api/stream", surface.multiplexed, allow_head=False)
    streams = {"/api/stream/projects/{project}": None, **_RUN_URLS}
    for path, kind in streams.items():
        app.router.add_get(path, surface.stream(kind), allow_head=False)
        app.router.add_route("OPTIONS", path, surface.preflight)
    app.router.add_get("/healthz", surface.healthz)
    app.router.add_get("/readyz", surface.readyz)
    app.router.add_get("/metrics", surface.metrics)
    app.router.add_get("/", surface.page)
    app.on_response_prepare.append(surface.allow_origin)
    app.on_shutdown.append(surface.close)
    return app


class _Surface:
    def __init__(self, node: Node, siblings: Siblings | None) -> None:
        self._node = node
        self._siblings = siblings
        self._websockets = WebSocketEndpoint(node)
        self._sse = SseEndpoint(node)
        self._longpoll = LongPollEndpoint(node)
        self._page = resources.files("tailrace.edge").joinpath("live.html").read_text()

    def stream(self, kind: str | None) -> _Handler:
        """Return what serves a channel URL: one resource, three ways."""

        async def handler(request: web.Request) -> web.StreamResponse:
            self._admit(request)
            subject = None if kind is None else Subject(kind, request.match_info["run"])
            if _is_websocket(request):
                return await self._websockets.serve(request, subject)
            return await self._over_http(request, subject)

        return handler

    async def _over_http(self, request: web.Request, subject: Subject | None) -> web.StreamResponse:
        """Serve server-sent events or a JSON answer, as the request accepts.

        Raises:
            web.HTTPException: 400 for a bad parameter, 406, 503 while Kafka does not answer.
        """
        sse = _accepts(request, "text/event-stream", by_name=True)
        if not sse and not _accepts(request, "application/json"):
            raise web.HTTPNotAcceptable(reason="accept text/event-stream or application/json")
        query = dict(request.query)
        if sse and (last := request.headers.get("Last-Event-ID")):
            query["after"] = last  # newer than what its URL says
        try:
            asked = parse_request(request.match_info["project"], subject, query)
            if sse:
                return await self._sse.serve(request, asked)
            return await self._longpoll.serve(asked, parse_page(query))
        except ParameterError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        except UnavailableError as error:
            raise web.HTTPServiceUnavailable(
                headers={"Retry-After": "1"}, text=str(error)
            ) from error

    async def multiplexed(self, request: web.Request) -> web.StreamResponse:
        """Serve a connection that subscribes by message."""
        self._admit(request)
        if not _is_websocket(request):
            raise web.HTTPUpgradeRequired(
                headers={"Upgrade": "websocket"}, reason="connect with a WebSocket"
            )
        return await self._websockets.serve(request, None, multiplexed=True)

    def _admit(self, request: web.Request) -> None:
        """Refuse what must not reach a stream.

        Raises:
            web.HTTPException: 403 for a foreign origin, 503 when full or draining.
        """
        if not self._allowed(request):
            raise web.HTTPForbidden(reason="origin not allowed")
        if self._node.full:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"}, reason="no room")

    @web.middleware
    async def in_time(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Note that a connection has sent its request."""
        self._node.handshakes.done(request.transport)
        return await handler(request)

    def _allowed(self, request: web.Request) -> bool:
        allowed = self._node.settings.origins
        return origin_allowed(request.headers.get("Origin"), request.host, allowed)

    async def preflight(self, request: web.Request) -> web.Response:
        """Answer what a browser asks before a request with headers (Fetch §3.2.2)."""
        if not self._allowed(request):
            raise web.HTTPForbidden(reason="origin not allowed")
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": "GET",
                "Access-Control-Allow-Headers": "Authorization, Last-Event-ID",
                "Access-Control-Max-Age": "600",
            },
        )

    async def allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let pages of allowed origins read the answer."""
        origin = request.headers.get("Origin")
        if origin is not None and request.path.startswith("/api/"):
            response.headers["Vary"] = "Origin"
            if self._allowed(request):
                response.headers["Access-Control-Allow-Origin"] = origin

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(self, _request: web.Request) -> web.Response:
        if self._siblings is None:
            reason = await self._node.not_ready()
        else:
            reason = not_ready(await self._siblings.ask("/readyz"))
        if reason is None:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready", "reason": reason}, status=503)

    async def metrics(self, _request: web.Request) -> web.Response:
        if self._siblings is None:
            text = await self._node.render_metrics()
        else:
            text = merged(await self._siblings.ask("/metrics"))
        return web.Response(
            body=text,
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")

    async def close(self, _app: web.Application) -> None:
        """Wait for the last closing handshakes."""
        await self._websockets.closed(_LAST_SECONDS)


def _is_websocket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _accepts(request: web.Request, media_type: str, *, by_name: bool = False) -> bool:
    """Tell whether a request accepts a media type (RFC 9110 §12.5.1), weights left aside.

    Args:
        request: Without an `Accept` header it accepts everything.
        media_type: The type.
        by_name: Whether it must be named itself.
    """
    header = ",".join(request.headers.getall("Accept", ()))
    named = {item.partition(";")[0].strip().lower() for item in header.split(",")} - {""}
    if media_type in named:
        return True
    wildcards = {"*/*", media_type.partition("/")[0] + "/*"}
    return not by_name and (not named or bool(named & wildcards))


@web.middleware
async def _json_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004
            raise
        return _error(error)
    except ConnectionError as lost:  # gone before it was served
        release(lost)
        return web.Response(status=400)  # which nobody reads


def _error(error: web.HTTPException) -> web.Response:
    """Return an error as JSON: a stable code, and a message for people."""
    code = type(error).__name__.removeprefix("HTTP")
    headers = {k: v for k, v in error.headers.items() if k in {"Retry-After", "Allow", "Upgrade"}}
    said = error.text if error.text and error.text != f"{error.status}: {error.reason}" else None
    message = {
        "code": re.sub(r"(?<!^)(?=[A-Z])", "_", code).lower(),
        "message": said or error.reason,
    }
    return web.Response(
        body=orjson.dumps({"error": message}),
        status=error.status,
        headers=headers,
        content_type="application/json",
    )


async def serve(
    settings: EdgeSettings, stop: asyncio.Event, siblings: Siblings | None = None
) -> None:
    """Run a node until `stop` is set, then end in order: viewers, consumer, listener.

    Args:
        settings: Of the node.
        stop: Set it to end.
        siblings: The other workers; it also ends when their parent is gone.

    Raises:
        OSError: The port is taken.
    """
    node = Node(settings)
    if siblings is not None:
        asyncio.get_running_loop().add_reader(siblings.parent, stop.set)
    async with serving(node, siblings), asyncio.TaskGroup() as tasks:
        consuming = tasks.create_task(node.run())
        await stop.wait()
        _log.info("draining", viewers=len(node.roster))
        await node.drain()
        consuming.cancel()


@asynccontextmanager
async def serving(node: Node, siblings: Siblings | None = None) -> AsyncIterator[str]:
    """Serve a node over HTTP for as long as the block runs; gives the URL.

    Raises:
        OSError: The port is taken.
    """
    settings = node.settings
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(_running(create_app(node, siblings)))
        if siblings is not None:
            own = await stack.enter_async_context(_running(create_app(node)))
            loop = asyncio.get_running_loop()
            asked = await loop.create_unix_server(own, str(siblings.socket(siblings.place)))
            stack.callback(asked.close)
        shared = siblings is not None
        url = await stack.enter_async_context(
            listening(
                server,
                settings.host,
                settings.port,
                shared=shared,
                entered=node.handshakes.expect,
            )
        )
        _log.info("listening", url=url, topic=settings.topic)
        yield url


@asynccontextmanager
async def _running(app: web.Application) -> AsyncIterator[web.Server]:
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_LAST_SECONDS / 2,  # which aiohttp may wait for twice
        keepalive_timeout=_IDLE_SECONDS,
    )
    await runner.setup()
    assert runner.server is not None, "just set up"
    try:
        yield runner.server
    finally:
        await runner.cleanup()


async def _serve_until_signalled(settings: EdgeSettings, siblings: Siblings | None = None) -> None:
    take_over()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():  # a second one exits at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await serve(settings, stop, siblings)


def run(settings: EdgeSettings) -> None:
    """Run an edge on uvloop until SIGTERM or SIGINT; a second signal exits at once.

    Raises:
        OSError: The port is taken.
    """
    if settings.workers == 1:
        uvloop.run(_serve_until_signalled(settings))
        return
    with reserve(settings.host, settings.port) as reserved:
        told = settings.model_copy(update={"port": reserved.getsockname()[1]})
        Workers(
            settings.workers,
            lambda siblings: uvloop.run(_serve_until_signalled(told, siblings)),
        ).run()

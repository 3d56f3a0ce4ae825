import asyncio
import errno
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from unittest import mock

import aiohttp
import orjson
import pytest
from edge_harness import (
    Client,
    EdgeProcess,
    MemoryEdge,
    channel_url,
    client_of,
    make_event,
    memory_edge,
    numbers,
    raw,
    record_of,
    until,
)
from memory_topic import MemoryConsumer, MemoryTopic
from shell_viewers import connected, metric, stream, talk
from socket_clients import raw_client
from structlog.testing import capture_logs

from tailrace.cli.ports import free_ports
from tailrace.edge import node as node_module
from tailrace.edge.app import serve
from tailrace.edge.settings import EdgeSettings

JOB = channel_url("p1", "ingest", "j1")
FACT = "ingest.job.completed"


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    async with memory_edge(allowed_origins="https://app.example") as edge:
        yield edge


def _error(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}


async def test_foreign_origin_is_refused_before_the_upgrade(edge: MemoryEdge) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with edge.watch(JOB, origin="https://evil.example"):
            pass
    status, headers, body = await edge.get(JOB, Origin="https://evil.example")

    assert refused.value.status == status == 403
    assert headers["Content-Type"] == "application/json"
    assert orjson.loads(body) == _error("forbidden", "origin not allowed")


@pytest.mark.parametrize("origin", ["https://app.example", None])
async def test_allowed_origin_and_none_may_watch(edge: MemoryEdge, origin: str | None) -> None:
    async with edge.watch(JOB, origin=origin) as viewer:
        edge.consumer.put(record_of(make_event()))
        assert numbers([await viewer.event()]) == [1]


async def test_own_origin_may_watch(edge: MemoryEdge) -> None:
    async with edge.watch(JOB, origin=edge.url) as viewer:
        edge.consumer.put(record_of(make_event()))
        assert numbers([await viewer.event()]) == [1]


async def test_malformed_origin_is_refused_like_any_other(edge: MemoryEdge) -> None:
    status, _, _ = await edge.get(JOB, Origin="http://[")

    assert status == 403


async def test_url_without_a_channel_is_for_websockets_only(edge: MemoryEdge) -> None:
    for accept in ("application/json", "text/event-stream"):
        status, headers, body = await edge.get("/api/stream", Accept=accept)

        assert status == 426
        assert headers["Upgrade"] == "websocket"
        assert orjson.loads(body) == _error("upgrade_required", "connect with a WebSocket")


# CORS (PROTOCOL §5)

ALLOWED = "https://app.example"


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_allowed_origin_may_read_the_answer(edge: MemoryEdge, accept: str) -> None:
    async with edge.http.get(
        edge.url + JOB, headers={"Accept": accept, "Origin": ALLOWED}
    ) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == ALLOWED
        assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize("query", ["?types=A", "?limit=0"])
async def test_allowed_origin_may_read_an_error_too(edge: MemoryEdge, query: str) -> None:
    status, headers, _ = await edge.get(JOB + query, Origin=ALLOWED)

    assert status == 400
    assert headers["Access-Control-Allow-Origin"] == ALLOWED
    assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_foreign_origin_is_refused_and_may_not_read_why(
    edge: MemoryEdge, accept: str
) -> None:
    status, headers, _ = await edge.get(JOB, Accept=accept, Origin="https://evil.example")

    assert status == 403
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Vary"] == "Origin"
    assert (await edge.metrics())["tailrace_channels"] == 0


async def test_no_origin_gets_no_cors_headers(edge: MemoryEdge) -> None:
    _, headers, _ = await edge.get(JOB)

    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "path",
    [
        channel_url("p1"),
        JOB,
        channel_url("p1", "agent", "r"),
        channel_url("p1", "workflow", "r"),
    ],
)
async def test_preflight_of_an_allowed_origin_names_method_and_headers(
    edge: MemoryEdge, path: str
) -> None:
    asked = {"Origin": ALLOWED, "Access-Control-Request-Method": "GET"}
    async with edge.http.options(edge.url + path, headers=asked) as response:
        assert response.status == 204
        headers = response.headers

    assert headers["Access-Control-Allow-Origin"] == ALLOWED
    assert headers["Access-Control-Allow-Methods"] == "GET"
    assert headers["Access-Control-Allow-Headers"] == "Authorization, Last-Event-ID"
    assert headers["Vary"] == "Origin"


async def test_preflight_of_a_foreign_origin_is_refused(edge: MemoryEdge) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    async with edge.http.options(edge.url + JOB, headers=asked) as response:
        assert response.status == 403
        assert "Access-Control-Allow-Origin" not in response.headers


# Errors


@pytest.mark.parametrize("path", ["/nowhere", "/api/stream/projects/", "/api/stream/projects/p/x"])
async def test_unknown_path_is_404_in_json(edge: MemoryEdge, path: str) -> None:
    status, headers, body = await edge.get(path)

    assert status == 404
    assert headers["Content-Type"] == "application/json"
    assert orjson.loads(body) == _error("not_found", "Not Found")


async def test_wrong_method_is_405_in_json_and_names_the_right_one(edge: MemoryEdge) -> None:
    async with edge.http.post(edge.url + "/metrics") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert await response.json() == _error("method_not_allowed", "Method Not Allowed")
    async with edge.http.post(edge.url + JOB) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,OPTIONS"


@pytest.mark.parametrize(
    "spoiled", [b"Sec-WebSocket-Version: 1", b"Sec-WebSocket-Key: no", b"Connection: close"]
)
async def test_bad_handshake_is_400(edge: MemoryEdge, spoiled: bytes) -> None:
    name = spoiled.partition(b":")[0].decode()
    good = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    status, _, body = await edge.get(JOB, **{**good, name: spoiled.partition(b": ")[2].decode()})

    assert status == 400
    assert orjson.loads(body)["error"]["code"] == "bad_request"


async def test_bytes_that_are_not_http_harm_nobody(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        for path in (b"/\xff", b"/" + b"x" * 20_000, b"/ HTTP/9.9\r\n\r\n\x00"):
            async with raw(edge, path) as client:
                assert b" 400 " in await client.head()

        edge.consumer.put(record_of(make_event()))
        assert numbers([await viewer.event()]) == [1]


async def _all_ways_are_refused(client: Client, reason: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with client.watch(JOB):
            pass
    assert refused.value.status == 503
    assert refused.value.headers is not None
    assert refused.value.headers["Retry-After"] == "1"
    for accept in ("application/json", "text/event-stream"):
        status, headers, body = await client.get(JOB, Accept=accept)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert orjson.loads(body) == _error("service_unavailable", reason)


async def test_full_node_refuses_with_503_and_takes_again_when_one_left() -> None:
    async with memory_edge(max_connections=2) as edge, AsyncExitStack() as stack:
        first = await stack.enter_async_context(edge.watch(JOB))
        await stack.enter_async_context(edge.watch(JOB))

        await _all_ways_are_refused(edge, "no room")

        await first.ws.close()
        await edge.connections(1)
        await stack.enter_async_context(edge.watch(JOB))
        await edge.connections(2)


async def test_health_page_and_metrics_are_served(edge: MemoryEdge) -> None:
    assert (await edge.get("/healthz"))[2] == b'{"status": "alive"}'
    assert (await edge.get("/readyz"))[2] == b'{"status": "ready"}'
    assert (await edge.get("/"))[1]["Content-Type"] == "text/html; charset=utf-8"
    _, headers, _ = await edge.get("/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    metrics = await edge.metrics()
    assert metrics["tailrace_channels"] == 0
    assert metrics["tailrace_partition_lag_records{partition=0}"] == 0


async def test_lagging_node_is_not_ready_and_says_why(edge: MemoryEdge) -> None:
    edge.consumer.log.lag = edge.node.settings.ready_lag_records + 1

    status, _, body = await edge.get("/readyz")

    assert status == 503
    assert orjson.loads(body) == {
        "status": "not ready",
        "reason": "a partition lags by 10001 records",
    }


class Served:
    """A node run by `serve`, and how to stop it."""

    def __init__(self, client: Client, consumer: MemoryConsumer, stop: asyncio.Event) -> None:
        self.client = client
        self.consumer = consumer
        self.stop = stop


@asynccontextmanager
async def _served(port: int, drain_seconds: float) -> AsyncIterator[Served]:
    consumer = MemoryConsumer(MemoryTopic(partitions=1))
    stop = asyncio.Event()
    settings = EdgeSettings(port=port, drain_seconds=drain_seconds)
    with mock.patch.object(node_module, "Consumer", return_value=consumer):
        async with (
            client_of(f"http://127.0.0.1:{port}") as client,
            asyncio.timeout(20),
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(serve(settings, stop))
            await client.ready()
            yield Served(client, consumer, stop)


async def test_shutdown_tells_every_viewer_to_come_back_later() -> None:
    [port] = free_ports(1)
    async with _served(port, 1.0) as served, AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(served.client.watch(JOB)) for _ in range(30)]
        served.consumer.put(record_of(make_event()))
        for viewer in viewers:
            await viewer.event()

        served.stop.set()

        told = [await viewer.closed() for viewer in viewers]

    assert {code for code, _ in told} == {1012}
    delays = [orjson.loads(reason or "")["retry_after_ms"] for _, reason in told]
    assert all(0 <= delay <= 1000 for delay in delays)
    assert len(set(delays)) > 10, "spread, or all come back at once"


async def test_draining_node_is_not_ready_and_refuses_while_it_sends_away() -> None:
    [port] = free_ports(1)
    async with (
        _served(port, 3.0) as served,
        talk(served.client, JOB) as first,
        talk(served.client, JOB) as second,
        stream(served.client) as third,
    ):
        await first.expect("subscribed")
        await second.expect("subscribed")
        served.stop.set()

        # They are sent away one after the other; the node answers meanwhile.
        drain = await first.expect("drain")
        status, _, body = await served.client.get("/readyz")
        assert (status, orjson.loads(body)["reason"]) == (503, "draining")
        assert await served.client.status("/healthz") == 200
        await _all_ways_are_refused(served.client, "no room")
        served.consumer.put(record_of(make_event(n=7)))
        assert numbers((await second.expect("batch"))["events"]) == [7], "it is still served"

        closed = await first.viewer.closed()
        assert (closed.code, orjson.loads(closed.reason or "")) == (1012, drain)
        await second.expect("drain")
        assert (await second.viewer.closed()).code == 1012
        assert b'"n":7' in await third.rest(), "and ends whole"


@pytest.mark.parametrize("headers", [(), ("Sec-WebSocket-Protocol: tailrace.v1.json",)])
async def test_deaf_viewers_do_not_hold_up_the_end(headers: tuple[str, ...]) -> None:
    [port] = free_ports(1)
    data = orjson.dumps({"job": {"n": 1, "x": "x" * 100_000}}).decode()
    async with AsyncExitStack() as stack:
        async with _served(port, 0.5) as served:
            client = served.client
            for _ in range(3):
                await stack.enter_async_context(raw(client, JOB, *headers))
            deaf = await stack.enter_async_context(raw_client(client.port))
            deaf.send(f"GET {JOB} HTTP/1.1", "Accept: text/event-stream")
            await connected(client, "websocket", 3)
            await connected(client, "sse", 1)
            for _ in range(20):
                served.consumer.put(record_of(make_event(type=FACT, data=data)))
            await metric(client, "tailrace_lagging_sessions", 4)

            served.stop.set()
        # `serve` has returned, though none of them has read a byte or answered the close.
        assert await client_status(port) is None


async def client_status(port: int) -> int | None:
    async with client_of(f"http://127.0.0.1:{port}") as client:
        return await client.status("/healthz")


async def test_shutdown_ends_everything_that_serve_began() -> None:
    [port] = free_ports(1)
    before = asyncio.all_tasks()
    with capture_logs() as lines:
        async with _served(port, 0.0) as served, served.client.watch(JOB) as viewer:
            served.stop.set()
            assert (await viewer.closed()).code == 1012

    assert asyncio.all_tasks() == before
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
    assert [line["event"] for line in lines] == ["listening", "draining"]
    assert lines[0]["url"] == f"http://127.0.0.1:{port}"


async def test_port_in_use_is_an_oserror() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = EdgeSettings(port=taken.getsockname()[1])

        with pytest.raises(OSError, match="in use") as refused:
            await serve(settings, asyncio.Event())

    assert refused.value.errno == errno.EADDRINUSE


async def test_failing_consumer_ends_the_process_instead_of_serving_silence() -> None:
    class Failing(MemoryConsumer):
        async def poll(self, timeout: float) -> dict[int, list[object]]:  # type: ignore[override] # noqa: ARG002, ASYNC109
            raise ZeroDivisionError

    [port] = free_ports(1)
    with (
        mock.patch.object(node_module, "Consumer", return_value=Failing()),
        pytest.raises(ExceptionGroup) as failed,
    ):
        async with asyncio.timeout(20):
            await serve(EdgeSettings(port=port), asyncio.Event())

    assert failed.group_contains(ZeroDivisionError)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_a_process_that_waits_for_kafka(number: signal.Signals) -> None:
    kafka_port, port = free_ports(2)
    async with (
        EdgeProcess(f"127.0.0.1:{kafka_port}", "t", port) as process,
        client_of(process.url) as client,
    ):
        await until(lambda: _has_status(client, "/healthz", 200))
        assert await client.status("/readyz") == 503

        assert await process.end(number) == 0


async def test_second_signal_ends_a_process_that_still_drains() -> None:
    kafka_port, port = free_ports(2)
    async with (
        EdgeProcess(f"127.0.0.1:{kafka_port}", "t", port, drain_seconds=60.0) as process,
        client_of(process.url) as client,
    ):
        await until(lambda: _has_status(client, "/healthz", 200))
        async with raw(client, JOB) as first, raw(client, JOB) as second:
            for mute in (first, second):
                await mute.head()
            await client.connections(2)
            process.send(signal.SIGTERM)  # one is sent away at once, the other after 24 s
            await until(lambda: _is_draining(client))

            assert await process.end(signal.SIGTERM) == -signal.SIGTERM


async def _has_status(client: Client, path: str, status: int | None) -> bool:
    return await client.status(path) == status


async def _is_draining(client: Client) -> bool:
    _, _, body = await client.get("/readyz")
    return b'"draining"' in body

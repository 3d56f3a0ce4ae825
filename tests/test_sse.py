import gc
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import orjson
import pytest
from edge_harness import (
    MemoryEdge,
    channel_url,
    make_event,
    memory_edge,
    numbers,
    record_of,
    until,
)
from shell_viewers import (
    JOB,
    PROJECT,
    SSE,
    Message,
    alive,
    connected,
    errors,
    metric,
    nothing_left,
    stream,
    subscriptions,
)
from socket_clients import RawClient, raw_client

from tailrace.edge import sse
from tailrace.edge.connection import _Tap
from tailrace.schemas import format_cursor, parse_cursor

FACT = "ingest.job.completed"


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    async with memory_edge() as edge:
        yield edge


def _put(edge: MemoryEdge, *ns: int, size: int = 0) -> None:
    for n in ns:
        data = orjson.dumps({"job": {"n": n, "x": "x" * size}}).decode()
        edge.consumer.put(record_of(make_event(type=FACT, data=data)))


async def _seen(edge: MemoryEdge, count: int) -> None:
    await metric(edge, "tailrace_records_total", count)


# What is sent


async def test_stream_says_how_long_to_wait_and_is_never_cached(edge: MemoryEdge) -> None:
    async with stream(edge) as viewer:  # which reads `retry: 2000`
        headers = viewer.response.headers

    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Accel-Buffering"] == "no"
    assert "Content-Encoding" not in headers


async def test_event_is_an_id_and_the_event_json_without_a_cursor(edge: MemoryEdge) -> None:
    async with stream(edge) as viewer:
        edge.consumer.put(record_of(make_event(type=FACT, n=5), 7))
        block = await viewer.block()

    assert list(block) == ["id", "data"], "no `event:`, so `onmessage` gets all"
    position = parse_cursor(block["id"])
    assert (position.offset, position.timestamp_ms) == (7, 1007)
    event = orjson.loads(block["data"])
    assert list(event) == ["type", "timestamp", "job"]
    assert (event["type"], event["job"]["n"]) == (FACT, 5)


async def test_text_with_line_breaks_stays_one_line(edge: MemoryEdge) -> None:
    text = "a\nb\r\nc\u2028d"
    async with stream(edge) as viewer:
        data = orjson.dumps({"job": {"text": text}}).decode()
        edge.consumer.put(record_of(make_event(type=FACT, data=data)))

        assert (await viewer.event())["job"]["text"] == text


async def test_all_viewers_of_a_channel_share_one_rendering(edge: MemoryEdge) -> None:
    async with AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(stream(edge)) for _ in range(10)]
        _put(edge, 1)

        blocks = [await viewer.block() for viewer in viewers]

    assert all(block == blocks[0] for block in blocks)
    assert edge.node.hub.counts.rendered == 1


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (JOB, [1, 2, 9]),
        (JOB + "?from=live", [9]),
        (PROJECT, [9]),
        (PROJECT + "?from=start", [1, 2, 9]),
        (JOB + "?types=ingest.job.failed", []),
    ],
)
async def test_parameters_mean_what_they_mean_elsewhere(
    edge: MemoryEdge, path: str, seen: list[int]
) -> None:
    _put(edge, 1, 2)
    await _seen(edge, 2)

    async with stream(edge, path) as viewer:
        await metric(edge, "tailrace_connections{transport=sse}", 1)
        await metric(edge, "tailrace_channels", 1)
        await metric(edge, "tailrace_lagging_sessions", 0)
        _put(edge, 9)
        edge.consumer.put(record_of(make_event(type="ingest.job.failed", n=10)))

        assert numbers([await viewer.event() for _ in seen] + [await viewer.event()]) == [*seen, 10]


# Resuming


async def test_stream_resumes_after_its_last_id(edge: MemoryEdge) -> None:
    _put(edge, *range(6))
    async with stream(edge) as viewer:
        ids = [(await viewer.block())["id"] for _ in range(4)]

    async with stream(edge, **{"Last-Event-ID": ids[2]}) as viewer:
        assert numbers([await viewer.event() for _ in range(3)]) == [3, 4, 5]


async def test_last_event_id_goes_before_the_urls_cursor(edge: MemoryEdge) -> None:
    _put(edge, *range(6))
    async with stream(edge) as viewer:
        ids = [(await viewer.block())["id"] for _ in range(6)]

    async with stream(edge, f"{JOB}?after={ids[0]}", **{"Last-Event-ID": ids[3]}) as viewer:
        assert numbers([await viewer.event()]) == [4]
    async with stream(edge, f"{JOB}?after={ids[0]}") as viewer:
        assert numbers([await viewer.event()]) == [1]
    async with stream(edge, f"{JOB}?after={ids[0]}", **{"Last-Event-ID": ""}) as viewer:
        assert numbers([await viewer.event()]) == [1]


async def test_gap_is_an_event_of_its_own_with_an_id_to_resume_after(edge: MemoryEdge) -> None:
    _put(edge, 1)
    await _seen(edge, 1)
    async with stream(edge, **{"Last-Event-ID": "no-cursor"}) as viewer:
        gap = await viewer.block()
        event = await viewer.event()

    assert gap["event"] == "gap"
    told = orjson.loads(gap["data"])
    assert told == {"type": "stream.gap", "reason": "invalid", "cursor": gap["id"]}
    assert numbers([event]) == [1]
    async with stream(edge, **{"Last-Event-ID": gap["id"]}) as viewer:
        assert numbers([await viewer.event()]) == [1]


# Heartbeats


async def test_idle_stream_has_its_cursor_moved_by_an_id_alone() -> None:
    async with memory_edge(heartbeat_ms=1000) as edge, stream(edge) as viewer:
        edge.consumer.put(record_of(make_event("other")))
        blocks = [await viewer.block() for _ in range(2)]

    assert [list(block) for block in blocks] == [["id"], ["id"]]
    assert parse_cursor(blocks[-1]["id"]).offset == 0


# HTTP


async def test_http_1_0_gets_the_stream_without_chunks(edge: MemoryEdge) -> None:
    async with _raw(edge, "HTTP/1.0") as client:
        head = await client.until(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0]
        assert b"transfer-encoding" not in head.lower()
        assert await client.until(b"\n\n") == b"retry: 2000\n\n"
        _put(edge, 1)
        block = await client.until(b"\n\n")
        assert block.startswith(b"id: ")
        assert b"\ndata: {" in block

        await edge.node.drain()

        assert await client.rest() == b""


async def test_http_1_1_gets_chunks_and_a_last_one(edge: MemoryEdge) -> None:
    async with _raw(edge, "HTTP/1.1") as client:
        head = await client.until(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        assert await client.until(b"\n\n\r\n") == b"d\r\nretry: 2000\n\n\r\n"
        _put(edge, 1)
        size, _, block = (await client.until(b"\n\n\r\n")).partition(b"\r\n")
        assert int(size, 16) == len(block) - 2

        await edge.node.drain()

        assert await client.rest() == b"0\r\n\r\n"


@asynccontextmanager
async def _raw(
    edge: MemoryEdge, version: str, path: str = JOB, *, limit: int = 1 << 17
) -> AsyncIterator[RawClient]:
    async with raw_client(edge.port, limit=limit) as client:
        client.send(f"GET {path} {version}", "Accept: text/event-stream")
        yield client


@pytest.mark.parametrize("headers", [SSE, {}])
async def test_head_is_no_stream(edge: MemoryEdge, headers: dict[str, str]) -> None:
    async with edge.http.head(edge.url + JOB, headers=headers) as response:
        assert response.status == 405

    assert (await edge.metrics())["tailrace_channels"] == 0


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("types=A", "types"), ("from=x", "from"), ("delivery=x", "delivery"), ("window=1", "window")],
)
async def test_bad_parameter_is_a_400_before_any_stream(
    edge: MemoryEdge, query: str, parameter: str
) -> None:
    status, headers, body = await edge.get(f"{JOB}?{query}", **SSE)

    assert (status, headers["Content-Type"]) == (400, "application/json")
    code, message = errors(body)
    assert code == "bad_request"
    assert message.startswith(f"{parameter}: ")


async def test_parameters_of_the_json_way_are_not_looked_at(edge: MemoryEdge) -> None:
    _put(edge, 1)

    async with stream(edge, JOB + "?limit=no&wait=no") as viewer:
        assert numbers([await viewer.event()]) == [1]


# The end


async def test_drain_ends_a_stream_whole(edge: MemoryEdge) -> None:
    async with stream(edge) as viewer:
        _put(edge, 1)
        await viewer.event()

        await edge.node.drain()

        assert await viewer.rest() == b""  # a stream cut off would raise
    await connected(edge, "sse", 0)


async def test_stream_ends_whole_while_kafka_does_not_answer(
    edge: MemoryEdge, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser connects again after a stream that ends, and never after an error status."""
    _put(edge, 1)
    async with stream(edge) as viewer:
        position = parse_cursor((await viewer.block())["id"])
    ahead = format_cursor(position._replace(offset=position.offset + 10))
    edge.consumer.log.unavailable = True

    async with stream(edge, **{"Last-Event-ID": ahead}) as viewer:
        assert await viewer.rest() == b""

    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    await connected(edge, "sse", 0)


async def test_slow_stream_catches_up_with_all_facts_and_is_live_again() -> None:
    async with (
        memory_edge(session_buffer_bytes=1 << 16) as edge,
        stream(edge, JOB + "?from=live") as healthy,
        _raw(edge, "HTTP/1.0", JOB + "?from=live") as slow,
    ):
        await connected(edge, "sse", 2)
        await metric(edge, "tailrace_channels", 1)
        n = 0
        while edge.node.hub.lagging() == 0:
            _put(edge, n, size=50_000)
            n += 1
            await edge.metrics()
        for first in range(n, n + 3000, 100):
            edge.consumer.put(
                *(record_of(make_event(n=first + i)) for i in range(99)),
                record_of(make_event(type=FACT, n=first + 99)),
            )
        total = n + 3000
        while numbers([await healthy.event()]) != [total - 1]:
            pass

        await slow.until(b"retry: 2000\n\n")
        seen: list[Message] = []
        while not seen or seen[-1]["job"]["n"] != total - 1:
            block = await slow.until(b"\n\n")
            if b"\ndata: " in block:
                seen.append(orjson.loads(block.partition(b"data: ")[2]))
        facts = numbers(event for event in seen if event["type"] == FACT)
        assert facts == [*range(n), *range(n + 99, total, 100)]
        assert len(seen) < total / 2

        await metric(edge, "tailrace_lagging_sessions", 0)
        _put(edge, total)
        assert b'"n":%d' % total in await slow.until(b"\n\n")
        assert numbers([await healthy.event()]) == [total]


async def _deafen(edge: MemoryEdge) -> None:
    """Write to the only viewer until 50 kB wait in its socket, or as much as may wait."""
    await connected(edge, "sse", 1)
    while not (viewers := subscriptions(edge)):
        await edge.metrics()
    session = viewers[0].session
    while session.buffered() < 50_000 and not session.full():
        _put(edge, 1, size=20_000)
        await edge.metrics()


@pytest.mark.parametrize("buffer", [1 << 18, 40_000], ids=["some-waits", "full"])
async def test_stream_that_is_never_read_is_cut_off_at_its_end(
    monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    monkeypatch.setattr(sse, "_CLOSE_SECONDS", 0.0)
    async with memory_edge(session_buffer_bytes=buffer) as edge, _raw(edge, "HTTP/1.1", limit=4096):
        await _deafen(edge)
        assert _tapped() == 1

        await edge.node.drain()

        async def cut_off() -> bool:
            return _tapped() == 0

        await connected(edge, "sse", 0)
        await until(cut_off, 5.0)  # some kernels end such a connection of themselves after 15 s


def _tapped() -> int:
    """Return how many sockets are still open: one that is closed has let go of its tap."""
    return sum(type(found) is _Tap for found in gc.get_objects())


# Losses


@pytest.fixture
def no_collector() -> Iterator[list[object]]:
    """Keep the garbage collector off: only references free an object; what was there before."""
    gc.collect()
    gc.disable()
    yield alive()
    gc.enable()


@pytest.mark.parametrize("how", ["reset", "closed", "half-open"])
async def test_losses_leave_no_object_behind(
    edge: MemoryEdge, no_collector: list[object], how: str
) -> None:
    for _ in range(3):
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(_raw(edge, "HTTP/1.1")) for _ in range(30)]
            await connected(edge, "sse", 30)
            _put(edge, 1, size=50_000)
            for client in clients:
                if how == "half-open":
                    client.writer.write_eof()
                elif how == "closed":
                    client.writer.close()
                else:
                    client.lose()
            await connected(edge, "sse", 0)

    await nothing_left(edge, no_collector)


async def test_ordered_ends_leave_no_object_behind(
    edge: MemoryEdge, no_collector: list[object]
) -> None:
    async with stream(edge):
        await connected(edge, "sse", 1)
    async with stream(edge, channel_url("p2")) as viewer:
        await edge.node.drain()
        await viewer.rest()
    await connected(edge, "sse", 0)

    await nothing_left(edge, no_collector)


async def test_one_lost_while_it_is_caught_up_leaves_no_object_behind(
    no_collector: list[object],
) -> None:
    async with memory_edge(session_buffer_bytes=40_000) as edge:
        async with _raw(edge, "HTTP/1.1", limit=4096):
            await _deafen(edge)
            _put(edge, 2)
            await metric(edge, "tailrace_lagging_sessions", 1)
        await connected(edge, "sse", 0)

        await nothing_left(edge, no_collector)

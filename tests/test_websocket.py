import gc
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import orjson
import pytest
from aiohttp import web
from edge_harness import (
    Closed,
    MemoryEdge,
    channel_url,
    make_event,
    memory_edge,
    numbers,
    raw,
    record_of,
    until,
)

from tailrace.edge import websocket
from tailrace.edge.channel import Channel
from tailrace.edge.session import Session

JOB = channel_url("p1", "ingest", "j1")


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    async with memory_edge() as edge:
        yield edge


IDS = ["plain", "a/b", "50%", "%2F", "a b", "café", "🌊", "a?b#c", "a+b", "..", "Ⅷ", "1"]


@pytest.mark.parametrize("name", IDS)
async def test_ids_of_any_text_name_their_channels(edge: MemoryEdge, name: str) -> None:
    types = {
        None: "shop.till.opened",
        "ingest": "ingest.job.created",
        "agent": "agent.run.created",
        "workflow": "workflow.run.created",
    }
    for offset, (kind, event_type) in zip(range(0, 12, 3), types.items(), strict=True):
        async with edge.watch(channel_url(name, kind, name)) as viewer:
            edge.consumer.put(
                record_of(make_event(name + "x", event_type, name, n=1), offset),
                record_of(make_event(name, event_type, name + "x", n=2), offset + 1),
                record_of(make_event(name, event_type, name, n=3), offset + 2),
            )

            seen = numbers(await viewer.events(2 if kind is None else 1))

            assert seen == ([2, 3] if kind is None else [3])


async def test_path_that_is_not_utf8_harms_nobody(edge: MemoryEdge) -> None:
    for path in (b"/api/stream/projects/\xff", b"/api/stream/projects/%ff"):
        async with raw(edge, path) as viewer:
            await viewer.head()

    async with edge.watch(JOB) as follower:
        edge.consumer.put(record_of(make_event()))
        assert numbers([await follower.event()]) == [1]


async def test_types_parameter_filters(edge: MemoryEdge) -> None:
    async with edge.watch(f"{JOB}?types=ingest.job.failed,agent.*&unknown=1") as viewer:
        edge.consumer.put(
            record_of(make_event(n=1), 0),
            record_of(make_event(type="ingest.job.failed", n=2), 1),
        )

        assert numbers([await viewer.event()]) == [2]


@pytest.mark.parametrize("types", ["", "A", "a,,b", "%2A%2A", "caf%C3%A9" * 50])
async def test_bad_types_are_told_by_4500_with_the_reason(edge: MemoryEdge, types: str) -> None:
    async with edge.watch(f"{JOB}?types={types}") as viewer:
        code, reason = await viewer.closed()

    assert code == 4500
    assert reason is not None
    assert reason.startswith("types: ")
    await edge.connections(0)
    assert (await edge.metrics())["tailrace_closes_total{code=4500}"] == 1


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), None),
        (("tailrace.plain",), "tailrace.plain"),
        (("tailrace.plain", "bearer.secret"), "tailrace.plain"),
        (("bearer.secret", "tailrace.plain"), "tailrace.plain"),
        (("tailrace.v9.cbor", "tailrace.plain"), "tailrace.plain"),
    ],
)
async def test_plain_is_echoed_if_offered_and_a_bearer_never(
    edge: MemoryEdge, offered: tuple[str, ...], chosen: str | None
) -> None:
    async with edge.watch(JOB, protocols=offered) as viewer:
        edge.consumer.put(record_of(make_event()))

        assert numbers([await viewer.event()]) == [1]
        assert viewer.ws.protocol == chosen


@pytest.mark.parametrize("offered", [("soap",), ("bearer.secret", "soap"), ("Tailrace.Plain",)])
async def test_unknown_subprotocol_hears_4506(edge: MemoryEdge, offered: tuple[str, ...]) -> None:
    async with edge.watch(JOB, protocols=offered) as viewer:
        assert viewer.ws.protocol == offered[-1]  # else a browser would not hear the code
        assert await viewer.closed() == Closed(4506, "use tailrace.plain")

    await edge.connections(0)
    assert (await edge.metrics())["tailrace_closes_total{code=4506}"] == 1


async def test_bearer_alone_is_neither_echoed_nor_logged(
    edge: MemoryEdge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with raw(edge, JOB, "Sec-WebSocket-Protocol: bearer.s3cret") as viewer:
        head = await viewer.head()

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"s3cret" not in head
    assert "s3cret" not in caplog.text


async def test_offered_compression_is_not_taken(edge: MemoryEdge) -> None:
    async with raw(edge, JOB, "Sec-WebSocket-Extensions: permessage-deflate") as viewer:
        head = await viewer.head()

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in head.lower()


async def test_what_a_viewer_says_is_ignored(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        await viewer.ws.send_str('{"t":"subscribe"}')
        await viewer.ws.send_bytes(b"\x00\xff")
        await viewer.ws.ping(b"still there?")
        edge.consumer.put(record_of(make_event()))

        assert numbers([await viewer.event()]) == [1]


async def test_message_up_to_the_limit_is_taken(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        await viewer.ws.send_str("x" * 60_000)
        edge.consumer.put(record_of(make_event()))

        assert numbers([await viewer.event()]) == [1]


async def test_too_large_a_message_closes_with_1009(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        await viewer.ws.send_str("x" * 70_000)

        assert (await viewer.closed()).code == 1009

    await edge.connections(0)
    assert (await edge.metrics())["tailrace_closes_total{code=1009}"] == 1


async def test_flood_of_messages_closes_with_4029(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        for _ in range(200):
            await viewer.ws.send_str("x")

        assert await viewer.closed() == Closed(4029, "too many messages")

    await edge.connections(0)
    assert (await edge.metrics())["tailrace_closes_total{code=4029}"] == 1


@pytest.mark.parametrize(("code", "counted"), [(1000, "1000"), (1001, "1001"), (4321, "other")])
async def test_closing_by_the_viewer_is_answered_and_counted(
    edge: MemoryEdge, code: int, counted: str
) -> None:
    async with edge.watch(JOB) as viewer:
        await viewer.ws.close(code=code)
        assert viewer.ws.close_code == 1000

    await edge.connections(0)
    metrics = await edge.metrics()
    assert metrics[f"tailrace_closes_total{{code={counted}}}"] == 1
    assert metrics["tailrace_channels"] == 0


async def test_viewer_that_never_reads_is_cut_off_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "_CLOSE_SECONDS", 0.0)
    data = orjson.dumps({"job": {"n": 1, "x": "x" * 50_000}}).decode()
    async with (
        memory_edge(session_buffer_bytes=1 << 16) as edge,
        edge.watch(JOB) as reader,
        raw(edge, JOB),
    ):
        await edge.connections(2)

        for offset in range(200):
            edge.consumer.put(record_of(make_event(data=data), offset))
            assert numbers([await reader.event()]) == [1]

        await edge.connections(1)
        assert (await edge.metrics())["tailrace_closes_total{code=4008}"] == 1


async def test_viewer_too_slow_hears_4008_with_its_last_cursor(
    edge: MemoryEdge,
) -> None:
    async with edge.watch(JOB) as viewer:
        edge.consumer.put(record_of(make_event(n=1), 0))
        cursor = orjson.loads(await viewer.text())["cursor"]
        [session] = edge.node._sessions
        session.buffered = lambda: 1 << 30  # as if its socket were full

        edge.consumer.put(record_of(make_event(n=2), 1))

        code, reason = await viewer.closed()

    assert code == 4008
    assert orjson.loads(reason or "") == {"cursor": cursor}
    await edge.connections(0)
    assert (await edge.metrics())["tailrace_closes_total{code=4008}"] == 1


@pytest.mark.parametrize("by", ["viewer", "node"])
async def test_viewer_that_never_reads_its_close_is_cut_off(
    edge: MemoryEdge, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(websocket, "_CLOSE_SECONDS", 0.0)
    data = orjson.dumps({"job": {"x": "x" * 50_000}}).decode()
    async with raw(edge, JOB) as deaf:
        await edge.connections(1)
        [session] = edge.node._sessions
        offset = 0
        while session.buffered() < 100_000:
            edge.consumer.put(record_of(make_event(data=data), offset))
            offset += 1
            await edge.metrics()
        assert edge.sockets == 2

        if by == "viewer":
            deaf.send(8)
        else:
            session.close(1012)

        async def cut_off() -> bool:
            return edge.sockets == 1

        await edge.connections(0)
        await until(cut_off, 5.0)  # some kernels end such a connection of themselves after 15 s


async def test_viewer_that_answers_no_ping_is_dropped() -> None:
    async with memory_edge(heartbeat_ms=1000) as edge, raw(edge, JOB) as viewer:
        await viewer.head()
        await edge.connections(1)

        assert await viewer.read(2) == b"\x89\x00"  # a ping

        await edge.connections(0)
        assert (await edge.metrics())["tailrace_closes_total{code=1006}"] == 1


async def test_viewer_that_answers_pings_stays() -> None:
    async with memory_edge(heartbeat_ms=1000) as edge, raw(edge, JOB) as viewer:
        await viewer.head()
        for _ in range(2):
            assert await viewer.read(2) == b"\x89\x00"
            viewer.send(10)

        edge.consumer.put(record_of(make_event()))

        assert await viewer.read(1) == b"\x81"


@pytest.fixture
def no_collector() -> Iterator[list[object]]:
    """Keep the garbage collector off: only references free an object; what was there before."""
    gc.collect()
    gc.disable()
    yield _alive()
    gc.enable()


def _alive() -> list[object]:
    kinds = (web.WebSocketResponse, web.Request, Session, Channel)
    return [found for found in gc.get_objects() if type(found) in kinds]


async def _nothing_left(edge: MemoryEdge, before: list[object]) -> None:
    await edge.connections(0)
    # Without keep-alive, lest the request that asks stays the last one of its connection.
    status, _, _ = await edge.get("/healthz", Connection="close")
    assert status == 200

    async def gone() -> bool:
        return not {id(each) for each in _alive()} - {id(each) for each in before}

    await until(gone)
    assert edge.sockets <= 1
    assert len(edge.node.hub) == 0
    assert edge.node._sessions == set()


async def test_200_abrupt_losses_leave_no_object_behind(
    edge: MemoryEdge, no_collector: list[object]
) -> None:
    for offset in range(4):
        async with AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(raw(edge, JOB))
            await edge.connections(50)
            edge.consumer.put(record_of(make_event(), offset))
        await edge.connections(0)

    await _nothing_left(edge, no_collector)


async def test_ordered_ends_leave_no_object_behind(
    edge: MemoryEdge, no_collector: list[object]
) -> None:
    async with edge.watch(JOB) as viewer:
        edge.consumer.put(record_of(make_event()))
        await viewer.event()
        await viewer.ws.close()
    async with edge.watch(JOB + "?types=") as viewer:
        await viewer.closed()
    async with edge.watch(JOB, protocols=["soap"]) as viewer:
        await viewer.closed()
    async with edge.watch(JOB) as viewer:
        await viewer.ws.send_str("x" * 70_000)
        await viewer.closed()
    async with edge.watch(JOB) as viewer:
        edge.node.drain()
        await viewer.closed()

    await _nothing_left(edge, no_collector)

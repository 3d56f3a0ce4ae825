import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import aiohttp
import orjson
import pytest
from edge_harness import (
    Closed,
    MemoryEdge,
    RawViewer,
    channel_url,
    make_event,
    memory_edge,
    numbers,
    raw,
    record_of,
    until,
)
from shell_viewers import (
    JOB,
    PROJECT,
    V1,
    Message,
    Talk,
    alive,
    chained,
    metric,
    next_frame,
    next_message,
    nothing_left,
    subscriptions,
    talk,
)
from socket_clients import raw_client

from tailrace.edge import websocket
from tailrace.edge.session import Session
from tailrace.schemas import parse_cursor

SPEAK_V1 = f"Sec-WebSocket-Protocol: {V1}"
FACT = "ingest.job.completed"
LIVE = f"{JOB}?from=live&window=0"


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    async with memory_edge() as edge:
        yield edge


def _large(n: int, size: int = 50_000) -> str:
    return orjson.dumps({"job": {"id": "j1", "n": n, "x": "x" * size}}).decode()


# Which channel a URL names

IDS = ["plain", "a/b", "50%", "%2F", "a b", "café", "🌊", "a?b#c", "a+b", "..", "Ⅷ", "1"]


@pytest.mark.parametrize("name", IDS)
async def test_ids_of_any_text_name_their_channels(edge: MemoryEdge, name: str) -> None:
    types = {
        None: "shop.till.opened",
        "ingest": "ingest.job.created",
        "agent": "agent.run.created",
        "workflow": "workflow.run.created",
    }
    for kind, event_type in types.items():
        async with edge.watch(channel_url(name, kind, name) + "?from=live") as viewer:
            edge.consumer.put(
                record_of(make_event(name + "x", event_type, name, n=1)),
                record_of(make_event(name, event_type, name + "x", n=2)),
                record_of(make_event(name, event_type, name, n=3)),
            )

            seen = numbers(await viewer.events(2 if kind is None else 1))

            assert seen == ([2, 3] if kind is None else [3])


async def test_same_run_id_of_another_kind_is_another_channel(edge: MemoryEdge) -> None:
    async with (
        edge.watch(channel_url("p1", "ingest", "7")) as job,
        edge.watch(channel_url("p1", "workflow", "7")) as run,
    ):
        edge.consumer.put(
            record_of(make_event(type="ingest.job.created", run="7", n=1)),
            record_of(make_event(type="workflow.run.created", run="7", n=2)),
        )

        assert numbers([await job.event()]) == [1]
        assert numbers([await run.event()]) == [2]


async def test_path_that_is_not_utf8_harms_nobody(edge: MemoryEdge) -> None:
    for path in (b"/api/stream/projects/\xff", b"/api/stream/projects/%ff"):
        async with raw(edge, path) as viewer:
            assert b" 500 " not in await viewer.head()

    async with edge.watch(JOB) as follower:
        edge.consumer.put(record_of(make_event()))
        assert numbers([await follower.event()]) == [1]


# Parameters


async def test_types_parameter_filters_and_unknown_parameters_are_ignored(
    edge: MemoryEdge,
) -> None:
    async with edge.watch(f"{JOB}?types=ingest.job.failed,agent.*&unknown=1") as viewer:
        edge.consumer.put(
            record_of(make_event(n=1)), record_of(make_event(type="ingest.job.failed", n=2))
        )

        assert numbers([await viewer.event()]) == [2]


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (JOB, [1, 2, 9]),
        (JOB + "?from=start", [1, 2, 9]),
        (JOB + "?from=live", [9]),
        (PROJECT, [9]),
        (PROJECT + "?from=live", [9]),
        (PROJECT + "?from=start", [1, 2, 9]),
    ],
)
async def test_run_is_followed_from_its_start_and_a_project_live(
    edge: MemoryEdge, path: str, seen: list[int]
) -> None:
    edge.consumer.put(
        record_of(make_event(type="ingest.job.created", n=1)),
        record_of(make_event(type=FACT, n=2)),
    )
    await metric(edge, "tailrace_records_total", 2)

    async with edge.watch(path) as viewer:
        await metric(edge, "tailrace_lagging_sessions", 0)
        edge.consumer.put(record_of(make_event(type=FACT, n=9)))

        assert numbers(await viewer.events(len(seen))) == seen


@pytest.mark.parametrize(("delivery", "seen"), [("latest", [7]), ("every", [*range(1, 8)])])
async def test_states_coalesce_unless_every_is_asked_for(
    edge: MemoryEdge, delivery: str, seen: list[int]
) -> None:
    edge.consumer.put(*(record_of(make_event(n=n)) for n in range(1, 8)))
    await metric(edge, "tailrace_records_total", 7)

    async with edge.watch(f"{JOB}?delivery={delivery}") as viewer:
        assert numbers(await viewer.events(len(seen))) == seen


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("types=", "types"),
        ("types=A", "types"),
        ("types=a,,b", "types"),
        ("types=%2A%2A", "types"),
        ("types=" + "caf%C3%A9" * 50, "types"),
        ("from=end", "from"),
        ("delivery=some", "delivery"),
        ("window=41", "window"),
        ("window=fast", "window"),
        ("window=", "window"),
    ],
)
@pytest.mark.parametrize("protocols", [[], [V1]])
async def test_bad_parameter_is_told_by_4500_with_its_name(
    edge: MemoryEdge, query: str, parameter: str, protocols: list[str]
) -> None:
    async with edge.watch(f"{JOB}?{query}", protocols=protocols) as viewer:
        code, reason = await viewer.closed()

    assert code == 4500
    assert reason is not None
    assert reason.startswith(f"{parameter}: ")
    await edge.connections(0)
    assert (await edge.metrics())["tailrace_closes_total{code=4500}"] == 1


# Subprotocols


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), None),
        (("tailrace.plain",), "tailrace.plain"),
        (("tailrace.plain", "bearer.secret"), "tailrace.plain"),
        (("bearer.secret", "tailrace.plain"), "tailrace.plain"),
        (("tailrace.v9.cbor", "tailrace.plain"), "tailrace.plain"),
        (("tailrace.plain", V1), "tailrace.plain"),
    ],
)
async def test_plain_is_echoed_if_offered_and_a_bearer_never(
    edge: MemoryEdge, offered: tuple[str, ...], chosen: str | None
) -> None:
    async with edge.watch(JOB, protocols=offered) as viewer:
        edge.consumer.put(record_of(make_event()))

        assert numbers([await viewer.event()]) == [1]
        assert viewer.ws.protocol == chosen


@pytest.mark.parametrize(
    "offered",
    [
        (V1,),
        (V1, "tailrace.plain"),
        ("bearer.secret", V1),
        ("soap", V1, "tailrace.plain"),
    ],
)
async def test_v1_is_spoken_where_it_is_offered_before_plain(
    edge: MemoryEdge, offered: tuple[str, ...]
) -> None:
    async with edge.watch(JOB, protocols=offered) as viewer:
        assert viewer.ws.protocol == V1
        assert orjson.loads(await viewer.text())["t"] == "hello"


async def test_protocols_may_stand_in_several_headers(edge: MemoryEdge) -> None:
    async with raw(edge, JOB, "Sec-WebSocket-Protocol: bearer.s3cret", SPEAK_V1) as viewer:
        head = await viewer.head()

        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"s3cret" not in head
        assert (await next_message(viewer))["t"] == "hello"


@pytest.mark.parametrize("path", [JOB, "/api/stream"])
@pytest.mark.parametrize("offered", [("soap",), ("bearer.secret", "soap"), ("Tailrace.Plain",)])
async def test_unknown_subprotocol_hears_4506(
    edge: MemoryEdge, path: str, offered: tuple[str, ...]
) -> None:
    async with edge.watch(path, protocols=offered) as viewer:
        assert viewer.ws.protocol == offered[-1]  # else a browser would not hear the code
        assert await viewer.closed() == Closed(4506, f"use {V1} or tailrace.plain")

    await metric(edge, "tailrace_closes_total{code=4506}", 1)


@pytest.mark.parametrize("offered", [(), ("tailrace.plain",), ("bearer.secret",)])
async def test_plain_is_refused_where_the_url_names_no_channel(
    edge: MemoryEdge, offered: tuple[str, ...]
) -> None:
    async with edge.watch("/api/stream", protocols=offered) as viewer:
        assert await viewer.closed() == Closed(4500, f"this URL speaks {V1} only")

    await metric(edge, "tailrace_closes_total{code=4500}", 1)


async def test_bearer_alone_is_neither_echoed_nor_logged(
    edge: MemoryEdge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with raw(edge, JOB, "Sec-WebSocket-Protocol: bearer.s3cret") as viewer:
        head = await viewer.head()

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"s3cret" not in head
    assert "s3cret" not in caplog.text


_DEFLATED = "Sec-WebSocket-Extensions: permessage-deflate"
_SMALL_WINDOW = f"{_DEFLATED}; server_max_window_bits=10"


@pytest.mark.parametrize(
    ("offers", "first_bytes"),
    [
        pytest.param((_DEFLATED, _DEFLATED), {0xC1}, id="two takers"),
        pytest.param((_DEFLATED,), {0x81}, id="one alone: it does not pay"),
        pytest.param((_SMALL_WINDOW, _SMALL_WINDOW), {0x81}, id="smaller windows than ours"),
        pytest.param(("X-None: 1", "X-None: 2"), {0x81}, id="not offered"),
    ],
)
async def test_frame_is_compressed_once_for_all_who_take_it(
    edge: MemoryEdge, offers: tuple[str, ...], first_bytes: set[int]
) -> None:
    async with AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(raw(edge, LIVE, offer)) for offer in offers]
        for viewer in viewers:
            await viewer.head()
        await _followed_by(edge, len(offers))
        edge.consumer.put(record_of(make_event(type=FACT, data=_large(1))))
        assert {(await viewer.read(1))[0] for viewer in viewers} == first_bytes


@pytest.mark.parametrize("protocols", [(), (V1,)], ids=["plain", "v1"])
async def test_compressed_messages_are_read_by_a_client_with_one_context(
    edge: MemoryEdge, protocols: tuple[str, ...]
) -> None:
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(
                edge.http.ws_connect(edge.url + LIVE, protocols=protocols, compress=15)
            )
            for _ in range(3)
        ]
        await _followed_by(edge, 3)
        for n in range(20):
            edge.consumer.put(record_of(make_event(type=FACT, n=n, data=_large(n, 3000)), n))
        for ws in sockets:
            assert ws.compress == 15
            assert await _jobs(ws, 20) == list(range(20))


async def _followed_by(edge: MemoryEdge, count: int) -> None:
    async def followed() -> bool:
        return len(subscriptions(edge)) == count

    await until(followed)


async def _jobs(ws: aiohttp.ClientWebSocketResponse, count: int) -> list[int]:
    """Return the numbers of the next jobs, in whichever dialect."""
    found: list[int] = []
    while len(found) < count:
        message = orjson.loads((await ws.receive(timeout=10)).data)
        found += numbers(message.get("events", [message] if "job" in message else []))
    return found


# The plain dialect


async def test_plain_message_is_the_event_with_its_cursor_as_last_member(
    edge: MemoryEdge,
) -> None:
    async with edge.watch(JOB) as viewer:
        edge.consumer.put(record_of(make_event(type=FACT, n=5), 7))

        text = await viewer.text()

    members = orjson.loads(text)
    assert list(members) == ["type", "timestamp", "job", "cursor"]
    assert (members["type"], members["job"]["n"]) == (FACT, 5)
    cursor = parse_cursor(members["cursor"])
    assert (cursor.offset, cursor.timestamp_ms) == (7, 1007)


async def test_each_of_many_events_in_one_flush_is_a_message_of_its_own(
    edge: MemoryEdge,
) -> None:
    async with edge.watch(JOB) as viewer:
        edge.consumer.put(*(record_of(make_event(type=FACT, n=n), n) for n in range(20)))
        messages = [orjson.loads(text) for text in await viewer.texts(20)]

    assert numbers(messages) == [*range(20)]
    assert [parse_cursor(m["cursor"]).offset for m in messages] == [*range(20)]


@pytest.mark.parametrize("read", [1, 4, 9])
async def test_plain_viewer_resumes_after_any_cursor_it_was_given(
    edge: MemoryEdge, read: int
) -> None:
    edge.consumer.put(*(record_of(make_event(type=FACT, n=n)) for n in range(10)))
    async with edge.watch(JOB) as viewer:
        cursor = orjson.loads((await viewer.texts(read))[-1])["cursor"]

    async with edge.watch(f"{JOB}?after={cursor}") as viewer:
        assert numbers(await viewer.events(10 - read)) == [*range(read, 10)]

    assert (await edge.metrics())["tailrace_resumes_total{outcome=journal}"] == 1


async def test_cursor_goes_before_from(edge: MemoryEdge) -> None:
    edge.consumer.put(*(record_of(make_event(type=FACT, n=n)) for n in range(3)))
    async with edge.watch(JOB) as viewer:
        cursor = orjson.loads(await viewer.text())["cursor"]

    async with edge.watch(f"{JOB}?after={cursor}&from=live") as viewer:
        assert numbers(await viewer.events(2)) == [1, 2]


async def test_plain_viewer_is_told_of_a_gap_first(edge: MemoryEdge) -> None:
    edge.consumer.put(record_of(make_event(type=FACT, n=1)))
    await metric(edge, "tailrace_records_total", 1)

    async with edge.watch(f"{JOB}?after=no-cursor") as viewer:
        gap = orjson.loads(await viewer.text())
        event = orjson.loads(await viewer.text())

    assert list(gap) == ["type", "reason", "cursor"]
    assert (gap["type"], gap["reason"]) == ("stream.gap", "invalid")
    assert parse_cursor(gap["cursor"]).offset < parse_cursor(event["cursor"]).offset
    assert numbers([event]) == [1]
    metrics = await edge.metrics()
    assert metrics["tailrace_gaps_total{reason=invalid}"] == 1
    assert metrics["tailrace_resumes_total{outcome=gap}"] == 1


async def test_what_a_plain_viewer_says_is_ignored(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        await viewer.ws.send_str('{"t":"subscribe","project":"p2"}')
        await viewer.ws.send_str("not json")
        await viewer.ws.send_bytes(b"\x00\xff")
        await viewer.ws.ping(b"still there?")
        edge.consumer.put(record_of(make_event()))

        assert numbers([await viewer.event()]) == [1]


async def test_ping_of_a_viewer_is_answered_with_its_payload(edge: MemoryEdge) -> None:
    async with raw(edge, JOB) as viewer:
        await viewer.head()
        for payload in (b"", b"still there?", b"x" * 125):
            viewer.send(9, payload)
            assert await next_frame(viewer) == (10, payload)


# What a viewer may send


async def test_message_up_to_the_limit_is_taken(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        await viewer.ws.send_str("x" * 60_000)
        edge.consumer.put(record_of(make_event()))

        assert numbers([await viewer.event()]) == [1]


@pytest.mark.parametrize("protocols", [[], [V1]])
async def test_too_large_a_message_closes_with_1009(edge: MemoryEdge, protocols: list[str]) -> None:
    async with edge.watch(JOB, protocols=protocols) as viewer:
        await viewer.ws.send_str("x" * 70_000)

        assert (await viewer.closed()).code == 1009

    await edge.connections(0)
    assert (await edge.metrics())["tailrace_closes_total{code=1009}"] == 1


async def test_text_that_is_not_utf8_closes_with_1007(edge: MemoryEdge) -> None:
    async with raw(edge, JOB) as viewer:
        await viewer.head()
        viewer.send(1, b"\xff\xfe")

        opcode, payload = await next_frame(viewer)

    assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1007)
    await metric(edge, "tailrace_closes_total{code=1007}", 1)


async def test_what_cannot_be_inflated_closes_with_1002(
    edge: MemoryEdge, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw(edge, JOB, "Sec-WebSocket-Extensions: permessage-deflate") as viewer:
        await viewer.head()
        viewer.send(0x41, b"\xff\xff\xff\xff")  # says that it is compressed

        opcode, payload = await next_frame(viewer)

    assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1002)
    await metric(edge, "tailrace_closes_total{code=1002}", 1)
    assert caplog.records == []


@pytest.mark.parametrize("first", [b"\x83", b"\xf1", b"\x09"])
async def test_what_is_no_frame_closes_with_1002(edge: MemoryEdge, first: bytes) -> None:
    async with raw(edge, JOB) as viewer:
        await viewer.head()
        viewer.writer.write(first + b"\x80" + bytes(4))

        opcode, payload = await next_frame(viewer)

        assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1002)
        assert await viewer.reader.read() == b"", "the end, while it may still speak"


@pytest.mark.parametrize("protocols", [[], [V1]])
async def test_flood_of_messages_closes_with_4029(edge: MemoryEdge, protocols: list[str]) -> None:
    async with edge.watch(JOB, protocols=protocols) as viewer:
        for _ in range(400):
            await viewer.ws.send_str("{}")

        assert await viewer.closed() == Closed(4029, "too many messages")

    await edge.connections(0)
    assert (await edge.metrics())["tailrace_closes_total{code=4029}"] == 1


async def _ask_and_never_read(edge: MemoryEdge, deaf: RawViewer) -> Session:
    """Send pings until the node reads no more of them; return the session."""
    [guest] = [each for each in edge.node.roster._slot_of if isinstance(each, websocket._Viewer)]
    session = guest.session
    ping = orjson.dumps({"t": "ping", "at": "x" * 60_000})
    frame = b"\x81\xfe" + len(ping).to_bytes(2, "big") + bytes(4) + ping
    for _ in range(200):
        deaf.writer.write(frame)

    async def stopped_reading() -> bool:
        return session.full()

    await until(stopped_reading)
    return session


async def test_answers_do_not_pile_up_for_one_who_sends_and_never_reads() -> None:
    async with (
        memory_edge(session_buffer_bytes=1 << 16) as edge,
        raw(edge, "/api/stream", SPEAK_V1) as deaf,
    ):
        await edge.connections(1)
        session = await _ask_and_never_read(edge, deaf)
        async with edge.watch(JOB) as follower:
            for n in range(50):  # others are served as ever
                edge.consumer.put(record_of(make_event(n=n)))
                assert numbers([await follower.event()]) == [n]

        assert session.buffered() <= (1 << 16) + 60_200
        assert session.open


@pytest.mark.parametrize(("code", "counted"), [(1000, "1000"), (1001, "1001"), (4321, "other")])
async def test_closing_by_the_viewer_is_answered_and_counted(
    edge: MemoryEdge, code: int, counted: str
) -> None:
    async with edge.watch(JOB) as viewer:
        await viewer.ws.close(code=code)
        assert viewer.ws.close_code == code, "the echo"

    await edge.connections(0)
    metrics = await edge.metrics()
    assert metrics[f"tailrace_closes_total{{code={counted}}}"] == 1
    assert metrics["tailrace_channels"] == 0


# Slow viewers


def _mixed(count: int) -> list[str]:
    """Return types of events: mostly states, each hundredth a fact."""
    return [FACT if n % 100 == 0 else "ingest.job.updated" for n in range(count)]


async def test_slow_viewer_misses_thousands_and_is_live_again_without_a_hole() -> None:
    async with (
        memory_edge(session_buffer_bytes=1 << 16) as edge,
        talk(edge, JOB + "?from=live") as healthy,
        raw(edge, JOB + "?from=live", SPEAK_V1) as slow,
    ):
        begun = (await healthy.expect("subscribed"))["cursor"]
        await slow.head()
        await edge.connections(2)
        n = 0
        while edge.node.hub.lagging() == 0:
            edge.consumer.put(record_of(make_event(type=FACT, n=n, data=_large(n))))
            n += 1
            await edge.metrics()
        for first in range(0, 4000, 100):
            edge.consumer.put(
                *(record_of(make_event(type=t, n=n + first + i)) for i, t in enumerate(_mixed(100)))
            )
        total = n + 4000

        heard = await _range(healthy, total)
        chained(heard, begun)
        assert edge.node.hub.lagging() == 1

        assert (await next_message(slow))["t"] == "hello"
        assert (await next_message(slow))["cursor"] == begun
        seen: list[Message] = []
        while sum(len(m["events"]) + m["skipped"] for m in seen) < total:
            seen.append(await next_message(slow))
        end = chained(seen, begun)

        events = [event for message in seen for event in message["events"]]
        facts = [event for event in events if event["type"] == FACT]
        wanted = [*range(n), *range(n, total, 100)]
        assert numbers(facts) == wanted
        assert numbers(events) == sorted(numbers(events)), "nothing is reordered"
        assert numbers(events)[-1] == total - 1, "the last state is the newest"
        assert sum(m["skipped"] for m in seen) > 3000, "what it missed is coalesced"
        assert len(seen) < 40, "in few chunks"

        await metric(edge, "tailrace_lagging_sessions", 0)
        edge.consumer.put(record_of(make_event(type=FACT, n=total)))
        last = await next_message(slow)
        assert (last["prev"], numbers(last["events"])) == (end, [total])
        assert last == await healthy.message(), "it shares the healthy ones' chain again"


async def _range(viewer: Talk, total: int) -> list[Message]:
    """Read batches until they cover so many records."""
    batches: list[Message] = []
    while sum(len(m["events"]) + m["skipped"] for m in batches) < total:
        batches.append(await viewer.message())
    return batches


async def test_viewer_that_never_reads_delays_nobody_and_takes_no_memory() -> None:
    async with (
        memory_edge(session_buffer_bytes=1 << 16) as edge,
        edge.watch(JOB) as reader,
        raw(edge, JOB),
    ):
        await edge.connections(2)

        for n in range(100):
            edge.consumer.put(record_of(make_event(type=FACT, data=_large(n))))
            assert numbers([await reader.event()]) == [n]

        [lagging] = [each for each in subscriptions(edge) if not each.live]
        assert lagging.session.buffered() < (1 << 16) + 51_000
        assert lagging.open, "it may come back"


async def test_viewer_past_the_replay_bound_hears_4008_with_its_cursor(edge: MemoryEdge) -> None:
    async with edge.watch(JOB) as viewer:
        edge.consumer.put(record_of(make_event(n=1)))
        cursor = orjson.loads(await viewer.text())["cursor"]
        [subscription] = subscriptions(edge)
        edge.node.hub.fall_behind(subscription, subscription.channel.cursor)

        subscription.give_up()

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
    async with raw(edge, JOB) as deaf:
        await edge.connections(1)
        [subscription] = subscriptions(edge)
        session = subscription.session
        while session.buffered() < 100_000:
            edge.consumer.put(record_of(make_event(type=FACT, data=_large(1))))
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


# Pings


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
        for _ in range(3):
            assert await viewer.read(2) == b"\x89\x00"
            viewer.send(10)

        edge.consumer.put(record_of(make_event()))

        assert await viewer.read(1) == b"\x81"


async def test_viewer_that_says_anything_at_all_stays() -> None:
    async with memory_edge(heartbeat_ms=1000) as edge, raw(edge, JOB) as viewer:
        await viewer.head()
        for _ in range(3):
            assert await viewer.read(2) == b"\x89\x00"
            viewer.send(1, b"x")

        edge.consumer.put(record_of(make_event()))

        assert await viewer.read(1) == b"\x81"


@pytest.mark.parametrize("enough", [20_000, 200_000], ids=["some-waits", "full"])
async def test_stalled_viewer_is_not_dropped_for_a_ping_that_it_cannot_see(enough: int) -> None:
    async with (
        memory_edge(heartbeat_ms=1000, session_buffer_bytes=100_000) as edge,
        raw(edge, JOB) as viewer,
    ):
        await viewer.head()
        await edge.connections(1)
        [subscription] = subscriptions(edge)
        session = subscription.session
        sent = 0
        while session.buffered() < enough and subscription.live:
            edge.consumer.put(record_of(make_event(type=FACT, n=sent, data=_large(sent, 20_000))))
            sent += 1
            await edge.metrics()
        session.heard = False  # pinged just before: the ping waits behind all this

        await asyncio.sleep(2.2)  # two rounds of pings; it may say nothing in them

        assert session.open
        seen = [await next_message(viewer) for _ in range(sent)]
        assert numbers(seen) == [*range(sent)]


# Losses


async def test_one_gone_before_it_is_served_is_no_error(
    edge: MemoryEdge, caplog: pytest.LogCaptureFixture
) -> None:
    for accept in (*_UPGRADES, "Accept: text/event-stream", "Accept: application/json"):
        for _ in range(20):
            async with raw_client(edge.port) as client:
                client.send(f"GET {JOB} HTTP/1.1", *accept.split("|"))
                client.writer.write_eof()

    async def gone() -> bool:
        return edge.sockets <= 1 and len(edge.node.roster) == 0

    await until(gone)
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


_UPGRADES = [
    "Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Version: 13"
    f"|Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==|Sec-WebSocket-Protocol: {protocol}"
    for protocol in (V1, "tailrace.plain", "soap")
]


@pytest.fixture
def no_collector() -> Iterator[list[object]]:
    """Keep the garbage collector off: only references free an object; what was there before."""
    gc.collect()
    gc.disable()
    yield alive()
    gc.enable()


@pytest.mark.parametrize("header", ["X-None: 1", SPEAK_V1])
async def test_1000_abrupt_losses_leave_no_object_behind(
    edge: MemoryEdge, no_collector: list[object], header: str
) -> None:
    for _ in range(20):
        async with AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(raw(edge, JOB, header))
            await edge.connections(50)
            edge.consumer.put(record_of(make_event()))
        await edge.connections(0)

    await nothing_left(edge, no_collector)


async def test_losses_in_the_middle_of_a_broadcast_leave_no_object_behind(
    edge: MemoryEdge, no_collector: list[object]
) -> None:
    async with edge.watch(JOB) as follower:
        for n in range(10):
            async with AsyncExitStack() as stack:
                viewers = [await stack.enter_async_context(raw(edge, JOB)) for _ in range(30)]
                await edge.connections(31)
                edge.consumer.put(record_of(make_event(type=FACT, n=n, data=_large(n))))
                viewers[n].lose()
                viewers[-n - 1].send(8)
            assert numbers([await follower.event()]) == [n]
            await edge.connections(1)
    await edge.connections(0)

    await nothing_left(edge, no_collector)


async def test_half_open_viewer_is_ended_and_leaves_no_object_behind(
    edge: MemoryEdge, no_collector: list[object]
) -> None:
    async with raw(edge, JOB) as viewer:
        await viewer.head()
        viewer.writer.write_eof()  # it reads on, and says nothing any more
        await edge.connections(0)

    await nothing_left(edge, no_collector)


async def test_one_lost_while_its_answers_wait_leaves_no_object_and_no_traceback(
    no_collector: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_edge(session_buffer_bytes=1 << 16) as edge:
        async with raw(edge, "/api/stream", SPEAK_V1) as deaf:
            await edge.connections(1)
            await _ask_and_never_read(edge, deaf)

        await edge.connections(0)
        assert (await edge.metrics())["tailrace_closes_total{code=1006}"] == 1
        assert caplog.records == []
        await nothing_left(edge, no_collector)


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
    async with talk(edge, JOB) as spoken:
        await spoken.expect("subscribed")
        await spoken.ws.close()
    async with talk(edge, JOB) as spoken:
        await edge.node.drain()
        assert (await spoken.viewer.closed()).code == 1012
    await edge.connections(0)

    await nothing_left(edge, no_collector)

"""The Python client against an edge that plays what real ones do on bad days."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import pytest
from scripted_edge import (
    CHANNEL,
    WAIT_SECONDS,
    Scene,
    Side,
    begin,
    end,
    event,
    refuse,
    scripted_edge,
    stay,
)

from tailrace.client import (
    Batch,
    DialectError,
    EdgeUnreachableError,
    Event,
    Gap,
    RefusedError,
    Stream,
)
from tailrace.client import stream as module
from tailrace.client.follower import Counters
from tailrace.schemas import ParameterError

RUN: dict[str, Any] = {"kind": "ingest", "run": "j1"}


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client waited before each connection; it does not really wait."""
    waited: list[float] = []

    async def pass_over(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(module, "sleep", pass_over)
    return waited


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(WAIT_SECONDS):
        yield


def numbers(events: Iterable[Event]) -> list[int]:
    return [event["job"]["n"] for event in events]  # type: ignore[index]


async def rest(stream: Stream) -> list[int]:
    """Return the numbers of all events until the edge ends the stream."""
    return numbers([event async for event in stream])


async def good_end(side: Side) -> None:
    """Go on after whatever cursor the client has with one event, and end."""
    assert side.after is not None
    await side.subscribed(side.after)
    await side.batch(side.after, "end", 99)
    await side.close(1000)


async def abort(side: Side) -> None:
    side.abort()


async def flood(side: Side, text: str) -> None:
    """Send until the client is gone."""
    with suppress(ConnectionError):
        while True:
            await side.ws.send_str(text)
            await asyncio.sleep(0)


# The straight road


async def test_events_come_in_order_until_the_edge_ends_the_stream() -> None:
    async with (
        scripted_edge(begin((1, 2), (3,), then=end)) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert [event async for event in stream] == [event(1), event(2), event(3)]
        assert stream.counters == Counters(events=3)
    assert edge.targets == ["/api/stream/projects/p/ingest/j1"]


async def test_position_is_known_when_the_block_begins() -> None:
    async with scripted_edge(begin(then=stay)) as edge, Stream(edge.url, "p", **RUN) as stream:
        assert stream.cursor == "c0"


async def test_leaving_the_block_closes_the_connection() -> None:
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def scene(side: Side) -> None:
        await side.subscribed("c0")
        codes.put_nowait(await side.left())

    async with scripted_edge(scene) as edge:
        async with Stream(edge.url, "p", **RUN) as stream:
            pass
        assert await codes.get() == 1000
        assert await rest(stream) == []


async def test_cursor_moves_with_the_last_event_of_a_batch() -> None:
    async with (
        scripted_edge(begin((1, 2, 3), (), (4,), then=end)) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        seen = [stream.cursor async for _ in stream]
    assert seen == ["c0", "c0", "c1", "c3"]


async def test_empty_batch_moves_the_cursor() -> None:
    told: list[str | None] = []

    async def gap(side: Side) -> None:
        await side.say("gap", ch=CHANNEL, prev="c2", cursor="c8", reason="reset")
        await side.close(1000)

    async with (
        scripted_edge(begin((), (), then=gap)) as edge,
        Stream(edge.url, "p", **RUN, on_gap=lambda _: told.append(stream.cursor)) as stream,
    ):
        assert await rest(stream) == []
    assert told == ["c2"]


async def test_batches_are_given_as_they_came() -> None:
    async def scene(side: Side) -> None:
        await side.subscribed("c0")
        await side.batch("c0", "c1", 1, 2, skipped=5)
        await side.batch("c1", "c2")
        await side.close(1000)

    async with scripted_edge(scene) as edge, Stream(edge.url, "p", **RUN) as stream:
        assert [(batch, stream.cursor) async for batch in stream.batches()] == [
            (Batch("c0", "c1", 5, [event(1), event(2)]), "c1"),
            (Batch("c1", "c2", 0, []), "c2"),
        ]
        assert stream.counters == Counters(events=2, skipped=5)


async def test_batches_after_events_begin_with_the_rest() -> None:
    async with (
        scripted_edge(begin((1, 2, 3), (4,), then=end)) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert numbers([await anext(stream)]) == [1]
        assert [numbers(batch.events) async for batch in stream.batches()] == [[2, 3], [4]]


async def test_loop_that_was_left_goes_on_where_it_stopped() -> None:
    async with (
        scripted_edge(begin((1, 2, 3), then=end)) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        async for _ in stream:
            break
        assert await rest(stream) == [2, 3]


async def test_iteration_that_was_cancelled_goes_on() -> None:
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def scene(side: Side) -> None:
        await side.subscribed("c0")
        await go_on.wait()
        await side.batch("c0", "c1", 1)
        await side.close(1000)

    async def next_batch(batches: AsyncIterator[Batch]) -> Batch:
        waiting.set()
        return await anext(batches)

    async with scripted_edge(scene) as edge, Stream(edge.url, "p", **RUN) as stream:
        batches = stream.batches()
        task = asyncio.create_task(next_batch(batches))
        await waiting.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        go_on.set()
        assert [numbers(batch.events) async for batch in batches] == [[1]]
        assert stream.counters.reconnects == 0


async def test_parameters_and_token_are_presented() -> None:
    async with (
        scripted_edge(begin(then=end)) as edge,
        Stream(
            edge.url + "/behind/",
            "p/1",
            types=["ingest.*"],
            delivery="every",
            window=0,
            from_="start",
            token="secret",
        ),
    ):
        pass
    assert edge.targets == [
        "/behind/api/stream/projects/p%2F1?types=ingest.*&delivery=every&window=0&from=start"
    ]
    [request] = edge.requests
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["Sec-WebSocket-Protocol"] == "tailrace.v1.json"


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "ü"])
def test_text_that_is_no_token_is_refused_before_connecting(token: str) -> None:
    with pytest.raises(ParameterError, match=r"^token: "):
        Stream("http://127.0.0.1:1", "p", token=token)


# Reconnecting


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4008, 4029])
async def test_after_these_closes_it_resumes(code: int) -> None:
    async def close(side: Side) -> None:
        await side.close(code)

    async with (
        scripted_edge(begin((1, 2), then=close), good_end) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == [1, 2, 99]
        assert stream.counters == Counters(events=3, reconnects=1)
    assert edge.requests[1].query_string == "after=c1"


async def test_after_an_abrupt_loss_nothing_is_missing_and_nothing_comes_twice() -> None:
    async with (
        scripted_edge(begin((1, 2, 3), then=abort), good_end) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert numbers([await anext(stream)]) == [1]
        assert stream.cursor == "c0"
        assert await rest(stream) == [2, 3, 99]


async def test_resume_replaces_the_start_that_was_asked_for() -> None:
    async with (
        scripted_edge(begin(then=abort), good_end) as edge,
        Stream(edge.url, "p", from_="start") as stream,
    ):
        await rest(stream)
    assert [request.query_string for request in edge.requests] == ["from=start", "after=c0"]


async def test_connection_lost_before_its_subscription_begins_anew() -> None:
    async def dies_after_hello(side: Side) -> None:
        await side.hello()
        side.abort()

    async with (
        scripted_edge(dies_after_hello, begin((1,), then=end)) as edge,
        Stream(edge.url, "p", from_="live") as stream,
    ):
        assert await rest(stream) == [1]
        assert stream.counters.reconnects == 0
    assert [request.query_string for request in edge.requests] == ["from=live", "from=live"]


async def test_broken_chain_resumes_after_the_last_good_cursor() -> None:
    async def loses_a_batch(side: Side) -> None:
        await side.batch("c2", "c3", 3)
        await side.left()

    async with (
        scripted_edge(begin((1,), then=loses_a_batch), good_end) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == [1, 99]
        assert stream.counters == Counters(events=2, reconnects=1, chain_breaks=1)
    assert edge.requests[1].query_string == "after=c1"


async def test_peer_that_floods_after_a_broken_chain_is_left_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CLOSE_S", 0.1)

    async def floods(side: Side) -> None:
        await side.batch("c8", "c9", 3)
        await flood(side, "{}")

    async with (
        scripted_edge(begin(then=floods), good_end) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == [99]


async def test_each_reconnect_goes_to_the_next_url() -> None:
    async with (
        scripted_edge(begin((1,), then=abort), good_end) as first,
        scripted_edge(refuse(503)) as second,
        Stream([first.url, second.url], "p", **RUN) as stream,
    ):
        assert await rest(stream) == [1, 99]
    assert (len(first.requests), len(second.requests)) == (2, 1)
    assert second.requests[0].query_string == "after=c1"


async def test_edge_that_is_gone_in_the_middle_is_no_error() -> None:
    async with (
        scripted_edge(begin((1,), then=abort), good_end) as edge,
        Stream([edge.url, free_url()], "p", **RUN) as stream,
    ):
        assert await rest(stream) == [1, 99]
        assert stream.counters.reconnects == 1


@pytest.mark.parametrize("seed", range(8))
async def test_no_event_is_missing_or_twice_whatever_the_connections_do(seed: int) -> None:
    chance, total = random.Random(seed), 300

    async def closes(side: Side, _: int) -> None:
        await side.close(chance.choice([1001, 1012, 4008, 4029]))

    async def drains(side: Side, _: int) -> None:
        await side.say("drain", retry_after_ms=10)
        side.abort()

    async def aborts_in_a_frame(side: Side, at: int) -> None:
        transport = side.request.transport
        assert transport is not None
        transport.write(b"\x81\x7e\x01\x00" + f'{{"t":"batch","prev":"{at}",'.encode())
        side.abort()

    async def leaves_a_batch_out(side: Side, at: int) -> None:
        await side.batch(str(at + 1), str(at + 2), at + 1)
        await side.left()

    ends = [closes, drains, aborts_in_a_frame, leaves_a_batch_out]

    async def scene(side: Side) -> None:
        at = int(side.after or 0)
        await side.subscribed(str(at))
        while at < total:
            if chance.random() < 0.1:
                await chance.choice(ends)(side, at)
                return
            to = min(at + chance.randrange(6), total)
            await side.batch(str(at), str(to), *range(at, to))
            at = to
        await side.close(1000)

    async with (
        scripted_edge(*[scene] * 200) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        seen, batches = [], stream.batches()
        with suppress(StopAsyncIteration):
            while True:
                if chance.random() < 0.7:
                    seen += numbers([await anext(stream)])
                else:
                    seen += numbers((await anext(batches)).events)
        assert seen == list(range(total))
        assert stream.counters.events == total
        assert 0 < stream.counters.reconnects == len(edge.requests) - 1


# How long it waits


async def test_draining_node_is_left_alone(waits: list[float]) -> None:
    async def drain(side: Side) -> None:
        await side.say("drain", retry_after_ms=5000)
        await side.batch("c0", "c1", 1)
        await side.close(1012, '{"retry_after_ms":7000}')

    async with (
        scripted_edge(begin(then=drain), good_end) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == [1, 99]
    assert waits[0] == 0
    assert 6.9 < waits[1] <= 7.5


async def test_full_node_is_asked_again_when_it_said(waits: list[float]) -> None:
    async with (
        scripted_edge(refuse(503, Retry_After="7"), begin((1,), then=end)) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == [1]
    assert 6.9 < waits[1] <= 7.5


async def test_waits_grow_while_no_connection_is_good(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)
    dies = begin(then=abort)

    async def dies_again(side: Side) -> None:
        assert side.after == "c0"
        await side.subscribed("c0")
        side.abort()

    async def breaks_the_chain(side: Side) -> None:
        await side.subscribed("c0")
        await side.batch("c5", "c6", 1)
        await side.left()

    async with (
        scripted_edge(dies, dies_again, breaks_the_chain, good_end) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        await rest(stream)
    assert [round(wait, 1) for wait in waits] == [0.0, 0.5, 1.0, 2.0]


async def test_good_connection_makes_waits_short_again(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)
    async with (
        scripted_edge(refuse(503), refuse(503), begin((1,), then=abort), good_end) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        await rest(stream)
    assert [round(wait, 1) for wait in waits] == [0.0, 0.5, 1.0, 0.5]


# Gaps


async def test_gap_in_the_middle_is_told_in_its_place() -> None:
    told: list[object] = []

    async def gap(side: Side) -> None:
        await side.say("gap", ch=CHANNEL, prev="c1", cursor="c8", reason="too_far")
        await side.batch("c8", "c9", 2)
        await side.close(1000)

    async with (
        scripted_edge(begin((1,), then=gap)) as edge,
        Stream(
            edge.url, "p", **RUN, on_gap=lambda gap: told.append((gap, stream.cursor))
        ) as stream,
    ):
        async for each in stream:
            told += numbers([each])
    assert told == [1, (Gap("c1", "c8", "too_far"), "c1"), 2]
    assert stream.cursor == "c9"
    assert stream.counters == Counters(events=2, gaps=1)


async def test_gap_of_the_first_resume_is_told_when_the_block_begins() -> None:
    told: list[Gap] = []

    async def scene(side: Side) -> None:
        await side.subscribed("c9", resumed=False, gap={"reason": "retention"})
        await side.left()

    async with (
        scripted_edge(scene) as edge,
        Stream(edge.url, "p", **RUN, after="old", on_gap=told.append) as stream,
    ):
        assert told == [Gap("old", "c9", "retention")]
        assert stream.cursor == "c9"
    assert edge.requests[0].query_string == "after=old"


async def test_gap_that_nobody_asks_for_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    async def gap(side: Side) -> None:
        await side.say("gap", ch=CHANNEL, prev="c0", cursor="c8", reason="reset")
        await side.close(1000)

    async with (
        scripted_edge(begin(then=gap)) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == []
    assert "reason=reset" in capsys.readouterr().out


# Is anybody there?


async def test_silent_edge_is_pinged_then_left() -> None:
    pings: list[Any] = []

    async def falls_silent(side: Side) -> None:
        await side.subscribed("c0", heartbeat_ms=100)
        pings.append(await side.receive())
        await side.left()

    async with (
        scripted_edge(falls_silent, good_end) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == [99]
        assert stream.counters.reconnects == 1
    assert [set(ping) for ping in pings] == [{"t", "at"}]


async def test_edge_that_answers_pings_is_kept() -> None:
    async def answers(side: Side) -> None:
        await side.subscribed("c0", heartbeat_ms=100)
        for _ in range(3):
            ping = await side.receive()
            await side.say("pong", at=ping["at"], now_us=1)
        await side.batch("c0", "c1", 1)
        await side.close(1000)

    async with (
        scripted_edge(answers) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == [1]
        assert stream.counters.reconnects == 0


async def test_pings_of_the_edge_are_answered_and_keep_the_connection() -> None:
    async def pings(side: Side) -> None:
        await side.subscribed("c0", heartbeat_ms=25_000)
        await side.ws.ping(b"there?")
        message = await side.ws.receive()
        await side.batch("c0", "c1", len(message.data))
        await side.close(1000)

    async with (
        scripted_edge(without_autoping(pings)) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        assert await rest(stream) == [len("there?")]


def without_autoping(scene: Scene) -> Scene:
    """Let a scene see the pongs of the client."""

    async def seeing(side: Side) -> None:
        side.ws._autoping = False
        await scene(side)

    return seeing


# What is final


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
async def test_handshake_that_is_refused_for_good_is_an_error(status: int) -> None:
    async with scripted_edge(refuse(status)) as edge:
        with pytest.raises(RefusedError) as caught:
            await Stream(edge.url, "p").__aenter__()
    assert caught.value.code == status


@pytest.mark.parametrize("code", [1009, 4001, 4500, 4501, 4503, 4506])
async def test_close_for_good_is_an_error(code: int) -> None:
    async def scene(side: Side) -> None:
        await side.close(code, "why")

    async with (
        scripted_edge(begin((1,), then=scene)) as edge,
        Stream(edge.url, "p", **RUN, token="t") as stream,
    ):
        assert numbers([await anext(stream)]) == [1]
        with pytest.raises(RefusedError, match="why") as caught:
            await anext(stream)
    assert caught.value.code == code


async def test_expired_token_is_renewed() -> None:
    async def expired(side: Side) -> None:
        await side.close(4001)

    tokens = iter(["first", "second"])

    async def token() -> str:
        return next(tokens)

    async with (
        scripted_edge(begin((1,), then=expired), good_end) as edge,
        Stream(edge.url, "p", **RUN, token=token) as stream,
    ):
        assert await rest(stream) == [1, 99]
    shown = [request.headers["Authorization"] for request in edge.requests]
    assert shown == ["Bearer first", "Bearer second"]


def free_url() -> str:
    """Return a URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


async def test_nobody_there_when_it_begins_is_an_error() -> None:
    urls = [free_url(), free_url()]
    with pytest.raises(EdgeUnreachableError) as caught:
        await Stream(urls, "p").__aenter__()
    assert caught.value.urls == tuple(urls)


async def test_one_url_that_answers_is_enough_to_begin() -> None:
    async with (
        scripted_edge(begin((1,), then=end)) as edge,
        Stream([free_url(), edge.url], "p", **RUN) as stream,
    ):
        assert await rest(stream) == [1]


@pytest.mark.parametrize("kind", ["text", "binary"])
async def test_message_of_no_edge_is_an_error(kind: str) -> None:
    async def scene(side: Side) -> None:
        await (side.ws.send_str("hi") if kind == "text" else side.ws.send_bytes(b"hi"))
        await side.left()

    async with scripted_edge(scene) as edge:
        with pytest.raises(DialectError):
            await Stream(edge.url, "p").__aenter__()


async def test_server_that_speaks_another_dialect_is_an_error() -> None:
    async def scene(side: Side) -> None:
        await side.ws.send_str('{"type":"ingest.job.created","job":{},"cursor":"c"}')
        await side.left()

    async with scripted_edge(scene, protocols=()) as edge:
        with pytest.raises(DialectError, match="subprotocol"):
            await Stream(edge.url, "p").__aenter__()


async def test_message_beyond_the_bound_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_MESSAGE_BYTES", 1000)

    async def scene(side: Side) -> None:
        await side.batch("c0", "c1", *range(100))
        await side.left()

    async with (
        scripted_edge(begin(then=scene)) as edge,
        Stream(edge.url, "p", **RUN) as stream,
    ):
        with pytest.raises(DialectError, match="1000"):
            await anext(stream)


# Back-pressure


async def test_consumer_that_does_not_read_stops_the_edge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CLOSE_S", 0.1)

    async def floods(side: Side) -> None:
        await side.subscribed("c0")
        await flood(side, '{"t":"news","text":"' + "x" * 10_000 + '"}')

    async with scripted_edge(floods) as edge, Stream(edge.url, "p", **RUN) as stream:
        assert stream._ws is not None
        connection = stream._ws._response.connection
        assert connection is not None
        transport = connection.transport
        assert isinstance(transport, asyncio.Transport)
        while transport.is_reading():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        held = sum(size for _, size in stream._ws._reader._buffer)
        assert held < 512 << 10

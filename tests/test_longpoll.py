import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
from edge_harness import MemoryEdge, channel_url, make_event, memory_edge, numbers, record_of
from shell_viewers import (
    JOB,
    PROJECT,
    Message,
    alive,
    connected,
    errors,
    metric,
    nothing_left,
    page,
    talk,
)

from tailrace.edge import longpoll
from tailrace.schemas import format_cursor, parse_cursor

FACT = "ingest.job.completed"


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    async with memory_edge() as edge:
        yield edge


def _put(edge: MemoryEdge, *ns: int) -> None:
    edge.consumer.put(*(record_of(make_event(type=FACT, n=n)) for n in ns))


async def _held(edge: MemoryEdge, *ns: int) -> None:
    """Put events and wait until the node has them."""
    _put(edge, *ns)
    await metric(edge, "tailrace_records_total", len(ns))


# What is answered


async def test_answer_has_exactly_the_members_of_the_contract(edge: MemoryEdge) -> None:
    await _held(edge, 1, 2)

    status, headers, body = await edge.get(JOB)

    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert headers["Cache-Control"] == "no-store"
    answer = orjson.loads(body)
    assert list(answer) == ["prev", "cursor", "skipped", "more", "gap", "events"]
    assert (answer["skipped"], answer["more"], answer["gap"]) == (0, False, None)
    assert numbers(answer["events"]) == [1, 2]
    assert set(answer["events"][0]) == {"type", "timestamp", "job"}
    assert parse_cursor(answer["cursor"]).offset == 1


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/*", "text/html, */*"])
async def test_json_is_what_is_answered_otherwise(edge: MemoryEdge, accept: str) -> None:
    assert numbers((await page(edge, JOB, Accept=accept))["events"]) == []


@pytest.mark.parametrize("accept", ["text/html", "image/*, text/plain", "application/xml"])
async def test_other_types_are_not_acceptable(edge: MemoryEdge, accept: str) -> None:
    status, _, body = await edge.get(JOB, Accept=accept)

    assert status == 406
    assert errors(body)[0] == "not_acceptable"
    assert "text/event-stream" in errors(body)[1]


async def test_nothing_yet_is_an_empty_answer_with_a_cursor(edge: MemoryEdge) -> None:
    answer = await page(edge)

    assert (answer["events"], answer["more"], answer["gap"]) == ([], False, None)
    assert answer["prev"] == answer["cursor"]
    _put(edge, 1)
    assert numbers((await page(edge, f"{JOB}?after={answer['cursor']}&wait=20"))["events"]) == [1]


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        (JOB, [1, 2]),
        (JOB + "?from=live", []),
        (PROJECT, []),
        (PROJECT + "?from=start", [1, 2]),
        (JOB + "?types=ingest.job.failed", []),
        (JOB + "?types=ingest.*", [1, 2]),
        (channel_url("p1", "ingest", "j2"), []),
    ],
)
async def test_parameters_mean_what_they_mean_elsewhere(
    edge: MemoryEdge, path: str, seen: list[int]
) -> None:
    await _held(edge, 1, 2)

    assert numbers((await page(edge, path))["events"]) == seen


@pytest.mark.parametrize(("delivery", "seen"), [("latest", [7]), ("every", [*range(1, 8)])])
async def test_skipped_counts_what_was_coalesced(
    edge: MemoryEdge, delivery: str, seen: list[int]
) -> None:
    edge.consumer.put(*(record_of(make_event(n=n)) for n in range(1, 8)))
    await metric(edge, "tailrace_records_total", 7)

    answer = await page(edge, f"{JOB}?delivery={delivery}")

    assert numbers(answer["events"]) == seen
    assert answer["skipped"] == 7 - len(seen)


async def test_gap_is_told_with_its_reason_and_the_stream_goes_on(edge: MemoryEdge) -> None:
    await _held(edge, 1)

    answer = await page(edge, JOB + "?after=no-cursor")

    assert answer["gap"] == {"reason": "invalid"}
    assert numbers(answer["events"]) == [1]
    assert (await page(edge, f"{JOB}?after={answer['cursor']}"))["gap"] is None


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("types=A", "types"),
        ("from=x", "from"),
        ("delivery=x", "delivery"),
        ("window=1", "window"),
        ("limit=0", "limit"),
        ("limit=5001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("wait=-1", "wait"),
        ("wait=31", "wait"),
        ("wait=nan", "wait"),
        ("wait=1e1", "wait"),
        ("wait=", "wait"),
    ],
)
async def test_bad_parameter_is_a_400_that_names_it(
    edge: MemoryEdge, query: str, parameter: str
) -> None:
    status, headers, body = await edge.get(f"{JOB}?{query}")

    assert (status, headers["Content-Type"]) == (400, "application/json")
    code, message = errors(body)
    assert code == "bad_request"
    assert message.startswith(f"{parameter}: ")


# Paging


@pytest.mark.parametrize("limit", [1, 7, 100, 5000])
@pytest.mark.parametrize("delivery", ["latest", "every"])
async def test_paging_through_everything_loses_and_repeats_nothing(
    edge: MemoryEdge, limit: int, delivery: str
) -> None:
    types = [FACT if n % 5 == 0 else "ingest.job.updated" for n in range(200)]
    edge.consumer.put(*(record_of(make_event(type=t, n=n)) for n, t in enumerate(types)))
    await metric(edge, "tailrace_records_total", 200)

    pages: list[Message] = [await page(edge, f"{JOB}?limit={limit}&delivery={delivery}")]
    while pages[-1]["more"]:
        after = pages[-1]["cursor"]
        pages.append(await page(edge, f"{JOB}?limit={limit}&delivery={delivery}&after={after}"))
        assert pages[-1]["prev"] == after

    events = [event for each in pages for event in each["events"]]
    seen = numbers(events)
    assert seen == sorted(set(seen))
    assert numbers(e for e in events if e["type"] == FACT) == [*range(0, 200, 5)]
    assert len(seen) + sum(each["skipped"] for each in pages) == 200
    assert max(len(each["events"]) for each in pages) <= limit
    assert seen[-1] == 199
    if delivery == "every":
        assert seen == [*range(200)]
    else:
        assert len(pages) <= 80 // limit + 1, "a page is as full as it may be"


async def test_default_limit_is_500(edge: MemoryEdge) -> None:
    edge.consumer.put(*(record_of(make_event(type=FACT, n=n)) for n in range(501)))
    await metric(edge, "tailrace_records_total", 501)

    answer = await page(edge)

    assert (len(answer["events"]), answer["more"]) == (500, True)
    rest = await page(edge, f"{JOB}?after={answer['cursor']}")
    assert (numbers(rest["events"]), rest["more"]) == ([500], False)


@pytest.mark.parametrize("limit", [500, 501, 1000])
async def test_limit_holds_where_an_answer_takes_several_chunks(
    edge: MemoryEdge, limit: int
) -> None:
    edge.consumer.put(*(record_of(make_event(type=FACT, n=n)) for n in range(1201)))
    await metric(edge, "tailrace_records_total", 1201)

    answer = await page(edge, f"{JOB}?limit={limit}")

    assert (numbers(answer["events"]), answer["more"]) == ([*range(limit)], True)


async def test_pages_of_large_events_are_bounded_in_bytes(edge: MemoryEdge) -> None:
    for n in range(30):
        data = orjson.dumps({"job": {"n": n, "x": "x" * 100_000}}).decode()
        edge.consumer.put(record_of(make_event(type=FACT, data=data)))
    await metric(edge, "tailrace_records_total", 30)

    answer = await page(edge)
    seen, size = numbers(answer["events"]), len(orjson.dumps(answer))
    while answer["more"]:
        answer = await page(edge, f"{JOB}?after={answer['cursor']}")
        seen += numbers(answer["events"])
        size = max(size, len(orjson.dumps(answer)))

    assert seen == [*range(30)]
    assert size < (1 << 20) + (1 << 18) + 101_000


async def test_cursor_of_an_answer_is_good_for_the_other_ways(edge: MemoryEdge) -> None:
    await _held(edge, 1, 2, 3)
    cursor = (await page(edge, JOB + "?limit=2"))["cursor"]

    async with edge.watch(f"{JOB}?after={cursor}") as viewer:
        assert numbers([await viewer.event()]) == [3]
    async with talk(edge, f"{JOB}?after={cursor}") as spoken:
        assert (await spoken.expect("subscribed"))["cursor"] == cursor


# Waiting


async def test_wait_returns_with_the_first_event(edge: MemoryEdge) -> None:
    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:  # far less than its wait
        asked = tasks.create_task(page(edge, JOB + "?wait=30"))
        await connected(edge, "json", 1)
        await metric(edge, "tailrace_channels", 1)
        assert not asked.done()
        _put(edge, 1)

    assert numbers(asked.result()["events"]) == [1]
    await connected(edge, "json", 0)


async def test_wait_is_not_needed_where_there_is_an_event(edge: MemoryEdge) -> None:
    await _held(edge, 1)

    async with asyncio.timeout(15):
        assert numbers((await page(edge, JOB + "?wait=30"))["events"]) == [1]


async def test_wait_that_is_over_answers_with_the_cursor_reached(edge: MemoryEdge) -> None:
    edge.consumer.put(record_of(make_event("other", FACT)))
    await metric(edge, "tailrace_records_total", 1)

    answer = await page(edge, JOB + "?wait=0.2")

    assert (answer["events"], answer["gap"], answer["more"]) == ([], None, False)
    again = await page(edge, f"{JOB}?wait=0&after={answer['cursor']}")
    assert again["prev"] == answer["cursor"]


async def test_event_of_another_channel_ends_no_wait(edge: MemoryEdge) -> None:
    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(page(edge, JOB + "?wait=30&types=ingest.job.failed"))
        await metric(edge, "tailrace_channels", 1)
        _put(edge, 1)
        edge.consumer.put(record_of(make_event("other", FACT)))
        await metric(edge, "tailrace_records_total", 2)
        edge.consumer.put(record_of(make_event(type="ingest.job.failed", n=3)))

    answer = asked.result()
    assert numbers(answer["events"]) == [3]
    assert answer["skipped"] == 0


async def test_many_who_wait_are_all_answered_by_one_event(edge: MemoryEdge) -> None:
    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(page(edge, JOB + "?wait=30")) for _ in range(30)]
        await connected(edge, "json", 30)
        await metric(edge, "tailrace_channels", 1)
        _put(edge, 1)

    assert [numbers(each.result()["events"]) for each in asked] == [[1]] * 30
    assert edge.node.hub.counts.rendered == 1


async def test_drain_answers_those_who_wait_with_what_there_is(edge: MemoryEdge) -> None:
    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(page(edge, JOB + "?wait=30"))
        await connected(edge, "json", 1)
        await metric(edge, "tailrace_channels", 1)

        await edge.node.drain()

    assert asked.result()["events"] == []


# Kafka


async def test_kafka_that_does_not_answer_is_a_503_with_retry_after(edge: MemoryEdge) -> None:
    await _held(edge, 1)
    position = parse_cursor((await page(edge))["cursor"])
    ahead = format_cursor(position._replace(offset=position.offset + 10))
    edge.consumer.log.unavailable = True

    status, headers, body = await edge.get(f"{JOB}?after={ahead}")

    assert (status, headers["Retry-After"]) == (503, "1")
    assert errors(body)[0] == "service_unavailable"
    await connected(edge, "json", 0)


async def test_log_that_cannot_be_read_in_time_is_a_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(longpoll, "_REPLAY_SECONDS", 0.1)
    async with memory_edge(journal_max_bytes=1 << 16) as edge:
        for n in range(200):
            data = orjson.dumps({"job": {"n": n, "x": "x" * 2000}}).decode()
            edge.consumer.put(record_of(make_event(type=FACT, data=data)))
        await metric(edge, "tailrace_records_total", 200)
        first = await _first_cursor(edge)

        async def never() -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr("memory_topic.MemoryScan.read", lambda _: never())
        status, headers, body = await edge.get(f"{JOB}?after={first}&limit=1")

        assert (status, headers["Retry-After"]) == (503, "1")
        assert errors(body)[1].startswith("the log cannot be read now")
        assert (await edge.metrics())["tailrace_channels"] == 0


async def _first_cursor(edge: MemoryEdge) -> str:
    head = parse_cursor((await page(edge, PROJECT))["cursor"])
    return format_cursor(head._replace(offset=0, timestamp_ms=1000))


async def test_what_the_journal_forgot_is_read_back_from_kafka() -> None:
    async with memory_edge(journal_max_bytes=1 << 16) as edge:
        for n in range(200):
            data = orjson.dumps({"job": {"n": n, "x": "x" * 2000}}).decode()
            edge.consumer.put(record_of(make_event(type=FACT, data=data)))
        await metric(edge, "tailrace_records_total", 200)
        answer = await page(edge, f"{JOB}?after={await _first_cursor(edge)}")
        seen = numbers(answer["events"])
        while answer["more"]:
            answer = await page(edge, f"{JOB}?after={answer['cursor']}")
            seen += numbers(answer["events"])

        assert seen == [*range(1, 200)]
        assert (await edge.metrics())["tailrace_replays_total"] >= 1


# Leaks


@pytest.fixture
def no_collector() -> Iterator[list[object]]:
    """Keep the garbage collector off: only references free an object; what was there before."""
    gc.collect()
    gc.disable()
    yield alive()
    gc.enable()


async def test_answers_leave_no_object_behind(edge: MemoryEdge, no_collector: list[object]) -> None:
    await _held(edge, 1)
    for query in ("", "?wait=0.1", "?from=live&wait=0.1", "?limit=1", "?after=x"):
        await page(edge, JOB + query)
    await edge.get(JOB + "?types=A")
    await edge.get(JOB, Accept="text/html")
    await connected(edge, "json", 0)

    await nothing_left(edge, no_collector)

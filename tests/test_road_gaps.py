"""What viewers are told of what they cannot get, and that they go on from there."""

import asyncio
from contextlib import AsyncExitStack

import orjson
import pytest
from edge_harness import (
    Client,
    Edge,
    channel_url,
    make_event,
    raw,
    until,
)
from followers import DIALECTS, Follower, Told, following, read_messages, told_by
from memory_node import HeldConsumer, edge_on, old, padded, recent, settled
from memory_topic import MemoryConsumer, MemoryTopic

from tailrace.edge import pump as pump_module
from tailrace.schemas import Event, Position, UnavailableError, format_cursor, parse_cursor

PROJECT = channel_url("p1")
JOB = channel_url("p1", "ingest", "j1")
FACT = "ingest.job.created"
PROTOCOLS = pytest.mark.parametrize(
    "headers", [[], ["Sec-WebSocket-Protocol: tailrace.v1.json"]], ids=["plain", "v1"]
)
JOURNAL = 1 << 16


def facts(*ns: int, project: str = "p1") -> list[Event]:
    return [make_event(project, FACT, n=n) for n in ns]


def cursor(offset: int, *, timestamp_ms: int | None = None, **other: int) -> str:
    """Return a cursor of a record of long ago in the first topic of one partition."""
    stamp = 1000 + offset if timestamp_ms is None else timestamp_ms
    place = Position(0, offset, stamp, partitions=1, topic_id=1)
    return format_cursor(place._replace(**other))


async def gaps(edge: Client, reason: str) -> float:
    return (await edge.metrics()).get(f"tailrace_gaps_total{{reason={reason}}}", 0)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_returning_viewer_gets_what_retention_has_left(dialect: str) -> None:
    topic = MemoryTopic(1)
    topic.put(*old(*facts(*range(30))))
    topic.delete_before(10)
    async with (
        edge_on(topic) as edge,
        following(dialect, edge, PROJECT, after=cursor(3)) as viewer,
    ):
        assert await viewer.take(21) == [Told(gap="retention"), *map(Told, range(10, 30))]
        topic.put(*recent(*facts(30)))
        assert await viewer.numbers(1) == [30]
        assert await gaps(edge, "retention") == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_topic_that_changes_while_a_start_is_looked_for_is_told(dialect: str) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    class Leaving(MemoryConsumer):
        async def earliest(self, partition: int) -> int:
            if self.topic.topic_id == 1:
                asked.set()
                await answered.wait()
                raise UnavailableError("the topic is not read any more")
            return await super().earliest(partition)

    topic = MemoryTopic(1)
    topic.put(*old(*facts(*range(30))))
    async with (
        edge_on(topic, Leaving) as edge,
        following(dialect, edge, PROJECT, after=cursor(3)) as viewer,
        asyncio.TaskGroup() as tasks,
    ):
        told = tasks.create_task(viewer.take(2))
        await asked.wait()
        topic.create(1)
        topic.put(*recent(*facts(100)))

        async def changed() -> bool:
            return edge.node.hub.log.topic_id == 2 and edge.node._locator is not None

        await until(changed)
        answered.set()
        assert await told == [Told(gap="reset"), Told(100)]


@pytest.mark.parametrize("dialect", ["plain", "tailrace.v1.json"])
async def test_topic_that_changes_during_a_catchup_ends_it(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "_TURN_RECORDS", 1)
    topic = MemoryTopic(1)
    topic.put(*recent(*facts(*range(3000))))
    async with (
        edge_on(topic) as edge,
        following(dialect, edge, PROJECT, from_="start", delivery="every") as viewer,
    ):
        told = await viewer.take(1)
        topic.create(1)
        topic.put(*recent(*facts(5000)))
        told += await viewer.up_to(5000)

    before = told.index(Told(gap="reset"))
    assert told[:before] == [Told(n) for n in range(before)]
    assert before < 3000
    assert told[before + 1 :] == [Told(5000)]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_cursor_just_before_what_is_left_has_no_gap(dialect: str) -> None:
    topic = MemoryTopic(1)
    topic.put(*old(*facts(*range(30))))
    topic.delete_before(10)
    async with (
        edge_on(topic) as edge,
        following(dialect, edge, PROJECT, after=cursor(9)) as viewer,
    ):
        assert await viewer.numbers(20) == list(range(10, 30))


@PROTOCOLS
async def test_slow_viewer_is_told_what_retention_took_while_it_read_nothing(
    headers: list[str],
) -> None:
    topic = MemoryTopic(1)
    async with (
        edge_on(topic, session_buffer_bytes=4096, journal_max_bytes=JOURNAL) as edge,
        raw(edge, PROJECT, *headers) as viewer,
    ):
        await viewer.head()
        count = await _fallen_behind(edge, topic)
        topic.delete_before(count - 3)
        told = told_by(await read_messages(viewer, count - 1))

    before = told.index(Told(gap="retention"))
    assert told[:before] == [Told(n) for n in range(before)]
    assert told[before + 1 :] == [Told(n) for n in range(count - 3, count)]


async def _fallen_behind(edge: Edge, topic: MemoryTopic) -> int:
    """Write until a viewer who reads nothing is behind the journal; return how many records."""
    await edge.connections(1)
    await until(lambda: _watched(edge))
    count = behind = 0
    while behind < 30:  # until the kernel takes no more either
        topic.put(*recent(padded(count)))
        await settled()
        count += 1
        behind = behind + 1 if edge.node.hub.lagging() else 0
    [viewer] = edge.node.hub.channels()[0].viewers
    assert edge.node.hub.journal.floor(0) > viewer.position.offset
    return count


async def _watched(edge: Edge) -> bool:
    return len(edge.node.hub) == 1


@PROTOCOLS
async def test_slow_viewer_past_the_bound_is_closed_with_its_cursor(headers: list[str]) -> None:
    topic = MemoryTopic(1)
    settings = {"session_buffer_bytes": 4096, "journal_max_bytes": JOURNAL}
    async with (
        edge_on(topic, MemoryConsumer, replay_max_bytes=60_000, **settings) as edge,
        raw(edge, PROJECT, *headers) as viewer,
    ):
        await viewer.head()
        count = await _fallen_behind(edge, topic)
        *messages, close = await read_messages(viewer)
        told = told_by(messages)

        assert told == [Told(n) for n in range(len(told))]
        assert close["code"] == 4008
        after = orjson.loads(close["reason"])["cursor"]
        assert parse_cursor(after).offset == len(told) - 1
        async with following("tailrace.v1.json", edge, PROJECT, after=after) as back:
            assert await back.next() == Told(gap="too_far")
            rest = await back.up_to(count - 1)
        assert rest == [Told(n) for n in range(count - len(rest), count)]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_returning_viewer_past_the_bound_gets_what_is_inside(dialect: str) -> None:
    topic = MemoryTopic(1)
    topic.put(*old(*facts(*range(30))))
    async with (
        edge_on(topic, replay_max_bytes=2560) as edge,  # ten records of unknown size
        following(dialect, edge, PROJECT, after=cursor(3)) as viewer,
    ):
        assert await viewer.take(11) == [Told(gap="too_far"), *map(Told, range(20, 30))]
        assert await gaps(edge, "too_far") == 1
        async with following(dialect, edge, PROJECT, after=cursor(19)) as inside:
            assert await inside.numbers(10) == list(range(20, 30))


FOREIGN = {
    "garbage": ("%21garbage", "invalid"),
    "empty": ("", "invalid"),
    "too long": ("A" * 500, "invalid"),
    "another checksum": (cursor(3)[:-1] + "-", "invalid"),
    "another topic": (cursor(3, topic_id=9), "reset"),
    "another partition count": (cursor(3, partitions=2), "repartitioned"),
    "another partition": (cursor(3, partition=1, partitions=2), "repartitioned"),
    "another record": (cursor(29, timestamp_ms=5), "reset"),
    "past the end": (cursor(500), "reset"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", FOREIGN)
async def test_foreign_cursor_is_told_and_the_stream_goes_on(dialect: str, kind: str) -> None:
    """A reset goes on from the earliest record, all else live."""
    after, reason = FOREIGN[kind]
    topic = MemoryTopic(1)
    topic.put(*old(*facts(*range(30))))
    async with edge_on(topic) as edge:
        told = await _told_live(
            edge, topic, dialect, PROJECT, after, 31 if reason == "reset" else 1
        )

        replayed = map(Told, range(30)) if reason == "reset" else ()
        assert told == [Told(gap=reason), *replayed, Told(30)]
        assert await gaps(edge, reason) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", FOREIGN)
async def test_foreign_cursor_goes_on_from_the_start_of_a_run(dialect: str, kind: str) -> None:
    after, reason = FOREIGN[kind]
    topic = MemoryTopic(1)
    topic.put(*old(*facts(*range(30))))
    async with edge_on(topic) as edge:
        told = await _told_live(edge, topic, dialect, JOB, after, 31)

        assert told == [Told(gap=reason), *map(Told, range(31))]


async def _told_live(
    edge: Edge, topic: MemoryTopic, dialect: str, path: str, after: str, events: int
) -> list[Told]:
    """Return what a viewer is told who is there before the last event."""
    async with (
        following(dialect, edge, path, after=after) as viewer,
        asyncio.TaskGroup() as tasks,
    ):
        told = tasks.create_task(viewer.take(1 + events))
        await until(lambda: _watched(edge))
        topic.put(*recent(*facts(30)))
        return await told


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_cursor_of_another_partition_of_this_topic_is_invalid(dialect: str) -> None:
    topic = MemoryTopic(2)
    async with edge_on(topic) as edge:
        mine = edge.node._partition("p1")
        topic.put(*recent(*facts(1)), partition=mine)
        after = cursor(0, partition=1 - mine, partitions=2)
        async with (
            following(dialect, edge, PROJECT, after=after) as viewer,
            asyncio.TaskGroup() as tasks,
        ):
            told = tasks.create_task(viewer.take(2))
            await until(lambda: _watched(edge))
            topic.put(*recent(*facts(2)), partition=mine)

            assert await told == [Told(gap="invalid"), Told(2)]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_cursor_of_another_project_in_the_partition_is_good(dialect: str) -> None:
    topic = MemoryTopic(1)
    topic.put(*recent(*facts(0), *facts(1, project="p2"), *facts(2), *facts(3, project="p2")))
    async with edge_on(topic) as edge:
        _, _, body = await edge.get(f"{channel_url('p2')}?from=start&limit=1")
        after = orjson.loads(body)["cursor"]
        assert parse_cursor(after).offset == 1
        async with following(dialect, edge, PROJECT, after=after) as viewer:
            assert await viewer.numbers(1) == [2]


async def _idle(viewer: Follower, edge: Edge, offset: int) -> None:
    """Read heartbeats until the cursor stands at an offset."""
    while viewer.cursor is None or parse_cursor(viewer.cursor).offset < offset:
        await viewer.read()
    assert edge.node.hub.counts.rendered == 0


@pytest.mark.parametrize("dialect", ["tailrace.v1.json", "sse"])
async def test_heartbeat_moves_the_cursor_of_an_idle_viewer_and_resuming_costs_nothing(
    dialect: str,
) -> None:

    topic = MemoryTopic(1)
    async with edge_on(topic, HeldConsumer, heartbeat_ms=1000) as edge:
        async with following(dialect, edge, PROJECT) as viewer:
            await until(lambda: _watched(edge))
            topic.put(*recent(*facts(*range(20), project="busy")))
            await _idle(viewer, edge, 19)
            after = viewer.cursor
        asked = edge.held.questions
        async with AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(following(dialect, edge, PROJECT, after=after))
            back = await stack.enter_async_context(following(dialect, edge, PROJECT, after=after))
            await until(lambda: _resumed(edge, 6))
            topic.put(*recent(*facts(20)))
            assert await back.numbers(1) == [20]

        assert edge.held.questions == asked
        assert edge.held.scanned == []


async def _resumed(edge: Client, count: int) -> bool:
    return (await edge.metrics()).get("tailrace_resumes_total{outcome=journal}") == count

"""Viewers who come late, in crowds, or from another node: what they get and what it costs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import orjson
import pytest
import uuid_utils
from edge_harness import Edge, channel_url, make_event, until
from followers import DIALECTS, following
from memory_node import HeldConsumer, TopicEdge, edge_on, recent, settled, waiting_for_kafka
from memory_topic import MemoryTopic, StubRecord

from tailrace.schemas import Event, parse_cursor

PROJECT = channel_url("p1")
JOB = channel_url("p1", "ingest", "j1")
FACT = "ingest.job.created"
TINY = 1 << 16
"""A journal of about forty records."""


def facts(*ns: int, project: str = "p1") -> list[Event]:
    return [make_event(project, FACT, n=n) for n in ns]


def at(minutes_ago: float, *events: Event) -> list[StubRecord]:
    """Return records of that time; what is older than ten minutes no node reads back."""
    stamp = int((time.time() - 60 * minutes_ago) * 1000)
    return [record._replace(timestamp=stamp) for record in recent(*events)]


def a_run(run: str, ticks: int, *, created: bool = True) -> list[Event]:
    """Return the events of a run: its start, ticks with a message in the middle, its end."""
    half = ticks // 2
    types = [
        *([FACT] if created else ["ingest.job.updated"]),
        *["ingest.job.updated"] * half,
        "agent.message.appended",
        *["ingest.job.updated"] * half,
        "ingest.job.completed",
    ]
    return [
        make_event("p1", name, run, n=n)._replace(kind="ingest") for n, name in enumerate(types)
    ]


def noise(count: int) -> list[Event]:
    return [make_event("p1", run="other", n=n) for n in range(count)]


# --- the start of a run -----------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_late_viewer_gets_facts_and_the_latest_states_not_each_tick(dialect: str) -> None:
    topic = MemoryTopic(1)
    topic.put(*recent(*noise(500), *a_run("j1", 3000), *noise(500)))
    async with (
        edge_on(topic, HeldConsumer) as edge,
        following(dialect, edge, JOB) as viewer,
    ):
        told = [t.number for t in await viewer.up_to(3002)]
        await settled()
        metrics = await edge.metrics()

        assert [n for n in told if n in {0, 1501, 3002}] == [0, 1501, 3002]
        assert 5 <= len(told) < 20
        assert told == sorted(told)  # type: ignore[type-var]
        if dialect in {"tailrace.v1.json", "json"}:
            assert viewer.skipped + len(told) == 3003
        assert metrics["tailrace_records_decoded_total"] == len(told)
        assert metrics["tailrace_deliveries_total"] == len(told)
        assert edge.held.scanned == []


async def test_start_of_a_run_is_found_by_its_created_event() -> None:
    """Known from the warm-up, though the journal has forgotten the record itself."""
    topic = MemoryTopic(1)
    topic.put(*recent(*noise(500), *a_run("j1", 1000)))
    async with (
        edge_on(topic, HeldConsumer, journal_max_bytes=1 << 20) as edge,
        following("tailrace.v1.json", edge, JOB) as viewer,
    ):
        warmed_from = edge.held.starts[0][0]
        assert warmed_from < 500 < edge.node.hub.journal.floor(0)
        told = await viewer.up_to(1002)

        assert edge.held.scanned == [500]
        assert told[0].number == 0
        assert viewer.skipped + len(told) == 1003


async def test_start_of_a_run_is_found_by_the_time_in_its_id() -> None:
    run = str(uuid_utils.uuid7())
    topic = MemoryTopic(1)
    topic.put(*at(120, *noise(300)), *at(0, *a_run(run, 100)), *at(0, *noise(200)))
    path = channel_url("p1", "ingest", run)
    async with (
        edge_on(topic, HeldConsumer, journal_max_bytes=TINY) as edge,
        following("tailrace.v1.json", edge, path) as viewer,
    ):
        assert edge.held.starts[0][0] > 300  # its `created` was not read
        told = await viewer.up_to(102)

        assert edge.held.scanned == [300]
        assert told[0].number == 0
        assert viewer.skipped + len(told) == 103


async def test_start_of_a_run_that_nothing_tells_is_looked_for_within_the_bound() -> None:
    topic = MemoryTopic(1)
    topic.put(*at(120, *noise(300), *a_run("j1", 100)))
    settings = {"replay_max_bytes": 150 * 256}  # of records that nobody has seen
    async with (
        edge_on(topic, HeldConsumer, **settings) as edge,
        following("tailrace.v1.json", edge, JOB) as viewer,
    ):
        told = await viewer.up_to(102)

        assert edge.held.scanned == [300 + 103 - 150]
        assert [t.number for t in told if t.number in {0, 51, 102}] == [0, 51, 102]


async def test_start_of_a_run_that_nothing_tells_is_never_further_back_than_the_log() -> None:
    topic = MemoryTopic(1)
    topic.put(*at(120, *noise(300), *a_run("j1", 100)))
    topic.delete_before(100)
    async with (
        edge_on(topic, HeldConsumer) as edge,
        following("tailrace.v1.json", edge, JOB) as viewer,
    ):
        assert (await viewer.up_to(102))[0].number == 0
        assert edge.held.scanned == [100]


# --- crowds -----------------------------------------------------------------------------------


@asynccontextmanager
async def crowd(edge: Edge, cursors: list[tuple[str, str]]) -> AsyncIterator[list[asyncio.Task]]:  # type: ignore[type-arg]
    """Let a viewer of each (project, cursor) come at once; gives what reads its first event."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        coming = [
            stack.enter_async_context(
                following("tailrace.v1.json", edge, channel_url(project), after=after)
            )
            for project, after in cursors
        ]
        viewers = [await one for one in coming]
        yield [tasks.create_task(viewer.numbers(3)) for viewer in viewers]


async def _cursors(edge: TopicEdge, projects: list[str]) -> list[tuple[str, str]]:
    """Return two cursors of each project: after its first and its second event."""
    found = []
    for project in projects:
        for limit in (1, 2):
            url = f"{channel_url(project)}?from=start&limit={limit}"
            _, _, body = await edge.get(url, Accept="application/json")
            found.append((project, orjson.loads(body)["cursor"]))
    return found


PROJECTS = [f"p{n}" for n in range(50)]


async def test_crowd_that_comes_back_costs_one_pass_per_channel_and_cursor() -> None:
    topic = MemoryTopic(1)
    for n in range(4):
        topic.put(*recent(*(fact for project in PROJECTS for fact in facts(n, project=project))))
    async with edge_on(topic, HeldConsumer) as edge:
        cursors = await _cursors(edge, PROJECTS)
        before = edge.node.hub.counts.passes
        asked = edge.held.questions
        async with crowd(edge, cursors * 5) as reading:
            topic.put(*recent(*(f for project in PROJECTS for f in facts(4, project=project))))
            seen = await asyncio.gather(*reading)

        assert edge.node.hub.counts.passes - before <= 100
        assert edge.held.scanned == []
        assert edge.held.questions == asked
        assert seen == [[1, 2, 3], [2, 3, 4]] * 250


async def test_crowd_that_waits_for_a_restarted_node_costs_one_pass_per_channel_and_cursor() -> (
    None
):
    topic = MemoryTopic(1)
    for n in range(5):
        topic.put(*recent(*(fact for project in PROJECTS for fact in facts(n, project=project))))
    async with edge_on(topic) as before:
        cursors = await _cursors(before, PROJECTS)
    async with (
        waiting_for_kafka(topic, HeldConsumer.holding) as edge,
        crowd(edge, cursors * 5) as reading,
    ):
        edge.held.release()
        seen = await asyncio.gather(*reading)

        assert edge.node.hub.counts.passes == 100
        assert topic.scans == 0
        assert seen == [[1, 2, 3], [2, 3, 4]] * 250


@pytest.mark.parametrize("newest_first", [False, True])
async def test_crowd_that_the_journal_cannot_serve_shares_its_scans(*, newest_first: bool) -> None:
    """One where the first to come is the furthest behind, else a second one for the others."""
    topic = MemoryTopic(1)
    for n in range(5):
        topic.put(*at(60, *(f for project in PROJECTS for f in facts(n, project=project))))
    async with edge_on(topic, HeldConsumer) as edge:
        cursors = await _cursors(edge, PROJECTS)
        cursors.sort(key=lambda cursor: parse_cursor(cursor[1]).offset, reverse=newest_first)
        offsets = [parse_cursor(cursor).offset for _, cursor in cursors]
        before = len(edge.held.scanned)
        edge.held.scanning.clear()
        async with crowd(edge, cursors * 5) as reading:
            await until(lambda: _waiting(edge, 500))
            edge.held.scanning.set()
            seen = await asyncio.gather(*reading)

        scans = dict.fromkeys((offsets[0] + 1, min(offsets) + 1))
        assert edge.held.scanned[before:] == list(scans)
        first = [1 if offset < 50 else 2 for offset in offsets]
        assert seen == [[n, n + 1, n + 2] for n in first] * 5


async def _waiting(edge: Edge, count: int) -> bool:
    return (await edge.metrics()).get("tailrace_resumes_total{outcome=replay}", 0) >= count


# --- two nodes --------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_viewer_between_two_nodes_loses_and_repeats_nothing(dialect: str) -> None:
    """Each time the next node is behind its cursor when it comes."""
    topic = MemoryTopic(1)
    async with edge_on(topic, HeldConsumer) as one, edge_on(topic, HeldConsumer) as two:
        topic.put(*recent(*facts(0)))
        async with following(dialect, one, PROJECT, from_="start") as viewer:
            assert await viewer.numbers(1) == [0]
            cursor = viewer.cursor
        next_n = 1
        for turn in range(6):
            here, there = (two, one) if turn % 2 else (one, two)
            there.held.hold()
            async with (
                following(dialect, here, PROJECT, after=cursor) as viewer,
                asyncio.TaskGroup() as tasks,
            ):
                topic.put(*recent(*facts(next_n, next_n + 1)))
                assert await viewer.numbers(2) == [next_n, next_n + 1]
                cursor = viewer.cursor
            async with (
                following(dialect, there, PROJECT, after=cursor) as viewer,
                asyncio.TaskGroup() as tasks,
            ):
                told = tasks.create_task(viewer.numbers(1))
                await until(lambda node=there: _has_viewer(node))  # type: ignore[misc]
                assert not told.done()
                there.held.release()
                topic.put(*recent(*facts(next_n + 2)))
                assert await told == [next_n + 2]
                cursor = viewer.cursor
            next_n += 3
        for node in (one, two):
            metrics = await node.metrics()
            assert not any("gaps" in name for name in metrics)
            assert node.held.scanned == []


async def _has_viewer(edge: Edge) -> bool:
    return any(channel.viewers for channel in edge.node.hub.channels())


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_viewer_ahead_of_an_idle_node_is_up_to_date_when_the_log_comes_there(
    dialect: str,
) -> None:
    """Nothing more happens in its own project."""
    topic = MemoryTopic(1)
    async with (
        edge_on(topic, HeldConsumer) as one,
        edge_on(topic, HeldConsumer, heartbeat_ms=1000) as two,
    ):
        topic.put(*recent(*facts(0)))
        await until(lambda: _read(two, 1))
        two.held.hold()
        topic.put(*recent(*facts(*range(5), project="busy")))
        await until(lambda: _read(one, 6))
        _, _, body = await one.get(f"{PROJECT}?from=start", Accept="application/json")
        cursor = orjson.loads(body)["cursor"]
        assert parse_cursor(cursor).offset == 5
        if dialect == "json":
            async with asyncio.TaskGroup() as tasks:
                url = f"{PROJECT}?after={cursor}"
                answer = tasks.create_task(two.get(url, Accept="application/json"))
                await until(lambda: _has_viewer(two))
                two.held.release()
                status, _, body = await answer
            assert status == 200
            page = orjson.loads(body)
            assert (page["prev"], page["events"], page["gap"]) == (cursor, [], None)
            return
        async with following(dialect, two, PROJECT, after=cursor):
            await until(lambda: _has_viewer(two))
            two.held.release()
            await until(lambda: _live(two))


async def _read(edge: Edge, records: int) -> bool:
    return edge.node.hub.counts.records == records


async def _live(edge: Edge) -> bool:
    return any(viewer.live for c in edge.node.hub.channels() for viewer in c.viewers)


async def test_node_without_kafka_refuses_a_cursor_that_is_ahead_and_resets_nothing() -> None:
    topic = MemoryTopic(1)
    async with edge_on(topic, HeldConsumer) as one, edge_on(topic, HeldConsumer) as two:
        two.held.hold()
        topic.put(*recent(*facts(0)))
        async with following("json", one, PROJECT, from_="start") as viewer:
            assert await viewer.numbers(1) == [0]
        topic.unavailable = True
        url = f"{PROJECT}?after={viewer.cursor}"
        status, headers, _ = await two.get(url, Accept="application/json")

        assert (status, headers["Retry-After"]) == (503, "1")
        topic.unavailable = False
        two.held.release()
        async with following("plain", two, PROJECT, after=viewer.cursor) as back:
            await until(lambda: _has_viewer(two))
            topic.put(*recent(*facts(1)))
            assert await back.numbers(1) == [1]

"""A node on a topic in memory: whatever happens to the log, its viewers are told and go on."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from edge_harness import (
    Client,
    Edge,
    channel_url,
    make_event,
    many,
    memory_edge,
    numbers,
    raw,
    record_of,
    until,
)
from followers import DIALECTS, Told, following, read_messages, told_by
from memory_node import HeldConsumer, edge_on, old, padded, recent, settled, waiting_for_kafka
from memory_topic import MemoryConsumer, MemoryTopic

from tailrace.edge import node as node_module
from tailrace.edge.consumer import ECONOMICAL, LOW_LATENCY, Fetch, Topic, TopicChangedError
from tailrace.edge.hub import Log
from tailrace.edge.node import Node
from tailrace.edge.settings import EdgeSettings
from tailrace.edge.topic_identity import Reason

PROJECT = channel_url("p1")
JOB = channel_url("p1", "ingest", "j1")
FACT = "ingest.job.created"
STREAMS = ("plain", "tailrace.v1.json", "sse")


def facts(*ns: int, project: str = "p1") -> list[Any]:
    return [make_event(project, FACT, n=n) for n in ns]


class Guest:
    def __init__(self) -> None:
        self.sent_away: list[int] = []

    def ping(self) -> None:
        pass

    def send_away(self, retry_after_ms: int) -> None:
        self.sent_away.append(retry_after_ms)


def test_node_is_full_at_its_bound_and_has_room_again() -> None:
    node = Node(EdgeSettings(max_connections=2))
    node.roster.enter(Guest())
    assert not node.full
    last = Guest()
    node.roster.enter(last)
    assert node.full
    node.roster.leave(last)

    assert not node.full


async def test_drain_tells_all_and_takes_no_more() -> None:
    node, guest = Node(EdgeSettings(drain_seconds=0)), Guest()
    node.roster.enter(guest)
    assert await node.not_ready() == "waiting for kafka"

    await node.drain()

    assert node.full
    assert len(guest.sent_away) == 1
    assert await node.not_ready() == "draining"


async def test_run_delivers_what_is_consumed_in_order() -> None:
    async with memory_edge() as edge, edge.watch(PROJECT) as viewer:
        for first in range(0, 100, 10):
            edge.consumer.put(*(record_of(e) for e in facts(*range(first, first + 10))))

        assert numbers(await viewer.events(100)) == list(range(100))


async def test_viewers_of_one_channel_share_one_rendering() -> None:
    async with memory_edge() as edge, many(edge, PROJECT, 20) as viewers:
        edge.consumer.put(record_of(make_event()))
        texts = [await viewer.text() for viewer in viewers]
        metrics = await edge.metrics()

    assert len(set(texts)) == 1
    assert metrics["tailrace_records_decoded_total"] == 1
    assert metrics["tailrace_frames_total"] == 20
    assert metrics["tailrace_deliveries_total"] == 20
    assert metrics["tailrace_delivery_seconds_count"] == 20


async def test_nothing_further_is_read_while_too_much_is_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_module, "_PENDING_BYTES", 5000)
    async with memory_edge() as edge, edge.watch(f"{PROJECT}?window=500") as viewer:
        edge.consumer.put(record_of(make_event(n=0)))
        assert numbers([await viewer.event()]) == [0]
        edge.consumer.put(record_of(padded(1, 6000, type="ingest.job.updated")))
        await settled()
        edge.consumer.put(record_of(make_event(type=FACT, n=2)))
        await settled()
        assert edge.node.hub.counts.records == 2

        assert numbers(await viewer.events(2)) == [1, 2]


# --- starting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_viewers_of_a_restarted_node_resume_from_memory(dialect: str) -> None:
    topic = MemoryTopic(1)
    topic.put(*recent(*facts(*range(5))))
    async with (
        edge_on(topic) as edge,
        following(dialect, edge, PROJECT, from_="start") as viewer,
    ):
        assert await viewer.numbers(5) == [0, 1, 2, 3, 4]
        cursor = viewer.cursor
    topic.put(*recent(*facts(*range(5, 10))))
    async with edge_on(topic) as edge, AsyncExitStack() as stack:
        followers = [
            await stack.enter_async_context(following(dialect, edge, PROJECT, after=cursor))
            for _ in range(5)
        ]
        for follower in followers:
            assert await follower.numbers(5) == [5, 6, 7, 8, 9]
        metrics = await edge.metrics()

    assert topic.scans == 0
    assert metrics["tailrace_replays_total"] == 0
    assert metrics["tailrace_resumes_total{outcome=journal}"] == 5
    assert "tailrace_resumes_total{outcome=replay}" not in metrics


@pytest.mark.parametrize(
    ("settings", "fetch"), [({}, LOW_LATENCY), ({"fetch": "economical"}, ECONOMICAL)]
)
async def test_kafka_is_asked_as_the_settings_say_and_answers_are_counted(
    settings: dict[str, Any], fetch: Fetch
) -> None:
    topic = MemoryTopic(1)
    async with waiting_for_kafka(topic, **settings) as edge:
        await edge.ready()
        assert edge.consumer.fetch == fetch
        async with edge.watch(PROJECT) as viewer:
            for n in range(3):
                topic.put(*recent(*facts(n)))
                assert numbers([await viewer.event()]) == [n]
        assert (await edge.metrics())["tailrace_kafka_fetches_total"] == 3


async def test_who_comes_live_during_the_warm_up_gets_nothing_old() -> None:
    topic = MemoryTopic(1)
    topic.put(*recent(*facts(0, 1, 2)))

    async with (
        waiting_for_kafka(topic, HeldConsumer.holding) as edge,
        edge.watch(PROJECT) as live,
        edge.watch(f"{PROJECT}?from=start") as whole,
    ):
        await edge.connections(2)
        assert await edge.status("/healthz") == 200
        status, _, body = await edge.get("/readyz")
        assert status == 503
        assert orjson.loads(body)["reason"] == "reading back the newest records"
        edge.held.release()
        await edge.ready()
        topic.put(*recent(*facts(3)))

        assert numbers(await whole.events(4)) == [0, 1, 2, 3]
        assert numbers(await live.events(1)) == [3]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_node_that_starts_before_kafka_is_alive_and_its_viewers_wait(dialect: str) -> None:
    topic = MemoryTopic(1)
    topic.put(*recent(*facts(0)))
    topic.unavailable = True
    async with (
        waiting_for_kafka(topic) as edge,
        following(dialect, edge, PROJECT, from_="start") as viewer,
        asyncio.TaskGroup() as tasks,
    ):
        told = tasks.create_task(viewer.numbers(1))
        await until(lambda: _connected(edge))
        assert await edge.status("/healthz") == 200
        status, _, body = await edge.get("/readyz")
        assert status == 503
        assert orjson.loads(body)["reason"] == "waiting for kafka"
        assert not told.done()
        topic.unavailable = False
        topic.happen()

        assert await told == [0]


async def _connected(edge: Client) -> bool:
    metrics = await edge.metrics()
    return sum(n for name, n in metrics.items() if name.startswith("tailrace_connections")) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_who_waits_in_vain_for_kafka_is_told_to_come_again(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "_READY_SECONDS", 0.05)
    topic = MemoryTopic(1)
    topic.unavailable = True
    async with waiting_for_kafka(topic) as edge:
        if dialect == "json":
            status, headers, _ = await edge.get(PROJECT)
            assert (status, headers["Retry-After"]) == (503, "1")
        elif dialect == "sse":
            _, _, body = await edge.get(PROJECT, Accept="text/event-stream")
            assert body == b"retry: 2000\n\n"  # a whole answer: a browser comes again
        else:
            protocols = [dialect] if dialect != "plain" else []
            async with edge.watch(PROJECT, protocols=protocols) as viewer:
                assert (await viewer.closed()).code == 1001


# --- another log ------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", STREAMS)
async def test_live_viewer_of_a_topic_created_anew_gets_all_of_it(dialect: str) -> None:
    topic = MemoryTopic(1)
    async with edge_on(topic) as edge, following(dialect, edge, PROJECT) as viewer:
        await _subscribed(edge)
        topic.put(*recent(*facts(1, 2)))
        assert await viewer.numbers(2) == [1, 2]
        topic.delete()
        topic.create(4)
        topic.put(*recent(*facts(10, 11)), partition=_partition("p1", 4))
        assert await viewer.take(3) == [Told(gap="reset"), Told(10), Told(11)]
        topic.put(*recent(*facts(12)), partition=_partition("p1", 4))

        assert await viewer.numbers(1) == [12]
        assert (await edge.metrics())["tailrace_gaps_total{reason=reset}"] == 1


def _partition(project: str, count: int) -> int:
    node = Node(EdgeSettings())
    node.hub.begin(Log(1, count), {})
    return node._partition(project)


async def _subscribed(edge: Client) -> None:
    async def watched() -> bool:
        return (await edge.metrics())["tailrace_channels"] == 1

    await until(watched)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_returning_viewer_of_a_topic_created_anew_gets_all_of_it(dialect: str) -> None:
    topic = MemoryTopic(1)
    topic.put(*recent(*facts(1)))
    async with edge_on(topic) as edge:
        async with following(dialect, edge, PROJECT, from_="start") as viewer:
            assert await viewer.numbers(1) == [1]
            cursor = viewer.cursor
        topic.create(1)
        topic.put(*old(*facts(8, 9)), *recent(*facts(10, 11)))  # some of it must be scanned

        async def reset() -> bool:
            return edge.node.hub.log.topic_id == 2 and edge.node._locator is not None

        await until(reset)
        async with following(dialect, edge, PROJECT, after=cursor) as viewer:
            assert await viewer.take(5) == [Told(gap="reset"), *map(Told, (8, 9, 10, 11))]
            topic.put(*recent(*facts(12)))
            assert await viewer.numbers(1) == [12]


@pytest.mark.parametrize("protocol", [None, "tailrace.v1.json"])
async def test_slow_viewer_of_a_topic_created_anew_gets_all_of_it(protocol: str | None) -> None:
    headers = [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
    topic = MemoryTopic(1)
    async with (
        edge_on(topic, session_buffer_bytes=4096) as edge,
        raw(edge, PROJECT, *headers) as viewer,
    ):
        await viewer.head()
        await edge.connections(1)
        for n in range(300):
            topic.put(*recent(padded(n)))

        async def slow() -> bool:
            return edge.node.hub.lagging() == 1

        await until(slow)
        topic.create(1)
        topic.put(*recent(*facts(1000, 1001)))

        async def reset() -> bool:
            return (await edge.metrics()).get("tailrace_gaps_total{reason=reset}") == 1

        await until(reset)
        told = told_by(await read_messages(viewer, 1001))

    before = told[: told.index(Told(gap="reset"))]
    assert [t.number for t in before] == list(range(len(before)))
    assert 0 < len(before) < 300
    assert told[len(before) :] == [Told(gap="reset"), Told(1000), Told(1001)]


@pytest.mark.parametrize("turns", [1, 2])
async def test_topic_that_changes_during_a_broadcast_leaves_nobody_out(turns: int) -> None:
    change = TopicChangedError(Topic(1, 1), Topic(1, 1), "retention")
    changes: list[TopicChangedError] = []

    class Changing(MemoryConsumer):
        async def poll(self, timeout: float) -> Any:  # noqa: ASYNC109
            if changes and self._positions[0] == 2:
                for _ in range(turns):
                    await asyncio.sleep(0)
                raise changes.pop()
            return await super().poll(timeout)

    topic = MemoryTopic(1)
    async with edge_on(topic, Changing) as edge, AsyncExitStack() as stack:
        followers = [
            await stack.enter_async_context(following("tailrace.v1.json", edge, PROJECT))
            for _ in range(300)  # more than are written to in one turn
        ]
        for follower in followers:
            await follower.read()  # subscribed
        changes.append(change)
        topic.put(*recent(*facts(1, 2)))
        await until(lambda: _again(edge))
        topic.put(*recent(*facts(3, 4, 5)))

        for follower in followers:
            assert await follower.numbers(5) == [1, 2, 3, 4, 5]


async def _again(edge: Edge) -> bool:
    return edge.node.hub.counts.records > 2 and edge.node._locator is not None


@pytest.mark.parametrize(
    ("first", "then"),
    [("reset", "retention"), ("reset", "repartitioned"), ("repartitioned", "retention")],
)
async def test_log_that_changes_again_before_its_viewers_are_told_hides_nothing(
    first: Reason, then: Reason
) -> None:
    """The graver reason counts: the viewers' positions mean nothing any more."""
    topic = MemoryTopic(1)
    topic.put(*old(*facts(*range(20))))
    async with (
        edge_on(topic, HeldConsumer) as edge,
        following("tailrace.v1.json", edge, PROJECT) as viewer,
    ):
        await viewer.read()

        def changing(log: MemoryTopic, **how: Any) -> MemoryConsumer:
            edge.make = HeldConsumer
            made = HeldConsumer.holding(log, **how)
            made.change = TopicChangedError(Topic(2, 1), Topic(2, 1), then)
            return made

        edge.make = changing
        if first == "reset":
            topic.create(1)
            topic.put(*recent(*facts(100)))
        else:
            topic.add_partitions(1)

        assert await viewer.next() == Told(gap=first)
        if first == "reset":
            assert await viewer.numbers(1) == [100]


@pytest.mark.parametrize("dialect", STREAMS)
async def test_viewer_may_leave_while_a_log_with_fewer_partitions_is_read_back(
    dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its project was in a partition that is no more."""
    topic = MemoryTopic(8)
    project = next(f"p{n}" for n in range(100) if _partition(f"p{n}", 8) == 7)
    async with edge_on(topic, HeldConsumer) as edge, AsyncExitStack() as stack:
        stay = await stack.enter_async_context(edge.watch(PROJECT))
        async with following(dialect, edge, channel_url(project)) as viewer:
            topic.put(*recent(*facts(1, project=project)), partition=7)
            await viewer.numbers(1)

            edge.make = HeldConsumer.holding
            topic.create(1)
            topic.put(*recent(*facts(5)))

            async def began() -> bool:
                return edge.node.hub.log.topic_id == 2

            await until(began)

        async def left() -> bool:
            return len(edge.node.hub) == 1

        await until(left)
        edge.held.release()
        gap = orjson.loads(await stay.text())
        assert (gap["type"], gap["reason"]) == ("stream.gap", "reset")
        assert numbers([await stay.event()]) == [5]
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("dialect", STREAMS)
async def test_live_viewer_is_told_of_more_partitions_and_goes_on(dialect: str) -> None:
    topic = MemoryTopic(1)
    async with edge_on(topic) as edge, following(dialect, edge, PROJECT) as viewer:
        await _subscribed(edge)
        topic.put(*recent(*facts(1)))
        assert await viewer.numbers(1) == [1]
        topic.add_partitions(3)
        assert await viewer.next() == Told(gap="repartitioned")
        topic.put(*recent(*facts(2)), partition=_partition("p1", 4))

        assert await viewer.numbers(1) == [2]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("run", [False, True])
async def test_returning_viewer_is_told_of_more_partitions(dialect: str, *, run: bool) -> None:
    """A project goes on live, a run from its start."""
    path = JOB if run else PROJECT
    topic = MemoryTopic(1)
    topic.put(*recent(*facts(1)))
    async with edge_on(topic) as edge:
        async with following(dialect, edge, path, from_="start") as viewer:
            assert await viewer.numbers(1) == [1]
            cursor = viewer.cursor
        topic.add_partitions(3)
        await until(lambda: _partitions(edge, 4))
        mine = _partition("p1", 4)
        topic.put(*recent(*facts(2)), partition=mine)
        await until(lambda: _read(edge, 2))
        async with (
            following(dialect, edge, path, after=cursor) as viewer,
            asyncio.TaskGroup() as tasks,
        ):
            told = tasks.create_task(viewer.take(3 if run else 2))
            await _subscribed(edge)
            topic.put(*recent(*facts(3)), partition=mine)

            numbered = [Told(2), Told(3)] if run else [Told(3)]
            assert await told == [Told(gap="repartitioned"), *numbered]


async def _partitions(edge: Edge, count: int) -> bool:
    return edge.node.hub.log.partitions == count and edge.node._locator is not None


async def _read(edge: Edge, count: int) -> bool:
    journal = edge.node.hub.journal
    return sum(journal.head(p)[0] + 1 for p in journal.partitions) >= count

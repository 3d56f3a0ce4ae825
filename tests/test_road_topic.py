"""What happens to a topic in a real Kafka, and what its viewers are told."""

from contextlib import AsyncExitStack

import pytest
from edge_harness import Edge, Producer, channel_url, kafka_edge, make_event, producing, raw, until
from followers import DIALECTS, Told, following, read_messages, told_by
from log_twins import KafkaLog
from memory_node import padded

from tailrace.schemas import parse_cursor

pytestmark = pytest.mark.kafka

FACT = "ingest.job.created"
STREAMS = ("plain", "tailrace.v1.json", "sse")


async def test_topic_created_anew_is_told_and_delivered_from_its_beginning(
    kafka_log: KafkaLog,
) -> None:
    servers, topic = kafka_log.where
    async with (
        kafka_edge(servers, topic, session_buffer_bytes=4096) as edge,
        raw(edge, channel_url("p")) as slow,
        AsyncExitStack() as stack,
    ):
        await slow.head()
        live = [
            await stack.enter_async_context(following(dialect, edge, channel_url("p")))
            for dialect in STREAMS
        ]
        await until(lambda: _viewers(edge, 4))
        async with producing(servers, topic) as producer:
            await producer.send(make_event("p", FACT, n=0))
            for viewer in live:
                assert await viewer.numbers(1) == [0]
            cursor = live[0].cursor
            count = await _fall_behind(edge, producer)
        for viewer in live:
            assert await viewer.numbers(count) == list(range(1, count + 1))
        await kafka_log.delete()
        await kafka_log.create()
        async with producing(servers, topic) as producer:
            await producer.send(*(make_event("p", FACT, n=n) for n in (5000, 5001)))
            for viewer in live:
                assert await viewer.take(3) == [Told(gap="reset"), Told(5000), Told(5001)]
            returning = await stack.enter_async_context(
                following("json", edge, channel_url("p"), after=cursor)
            )
            assert await returning.take(3) == [Told(gap="reset"), Told(5000), Told(5001)]
            told = told_by(await read_messages(slow, 5001))
            before = told.index(Told(gap="reset"))
            assert 0 < before < count
            assert told[:before] == [Told(n) for n in range(before)]
            assert told[before + 1 :] == [Told(5000), Told(5001)]
            await producer.send(make_event("p", FACT, n=5002))
            for viewer in (*live, returning):
                assert await viewer.numbers(1) == [5002]


async def _viewers(edge: Edge, count: int) -> bool:
    return sum(len(channel.viewers) for channel in edge.node.hub.channels()) == count


async def _fall_behind(edge: Edge, producer: Producer) -> int:
    """Write until a viewer who reads nothing stays behind; return how many records."""
    count = behind = 0
    while behind < 20:
        count += 1
        await producer.send(padded(count, project="p"))
        behind = behind + 1 if edge.node.hub.lagging() else 0
    return count


async def test_partitions_added_are_told_and_the_stream_goes_on(kafka_log: KafkaLog) -> None:
    servers, topic = kafka_log.where
    async with (
        kafka_edge(servers, topic) as edge,
        following("tailrace.v1.json", edge, channel_url("p"), from_="start") as live,
    ):
        async with producing(servers, topic) as producer:
            await producer.send(make_event("p", FACT, n=0))
            assert await live.numbers(1) == [0]
        cursor = live.cursor
        await kafka_log.add_partitions(3)
        assert await live.next() == Told(gap="repartitioned")
        run = channel_url("p", "ingest", "j1")
        async with (
            following("sse", edge, run, after=cursor) as returning,
            producing(servers, topic) as producer,
        ):
            await producer.send(make_event("p", FACT, n=1))
            assert await live.numbers(1) == [1]
            assert await returning.take(2) == [Told(gap="repartitioned"), Told(1)]


async def test_records_deleted_meanwhile_are_told_and_the_rest_is_delivered(
    kafka_log: KafkaLog,
) -> None:
    servers, topic = kafka_log.where
    async with (
        kafka_edge(servers, topic, journal_max_bytes=1 << 16) as edge,
        producing(servers, topic) as producer,
    ):
        async with following("tailrace.v1.json", edge, channel_url("p")) as viewer:
            await until(lambda: _viewers(edge, 1))
            await producer.send(make_event("p", FACT, n=0))
            assert await viewer.numbers(1) == [0]
            cursor = viewer.cursor
        assert cursor is not None
        await producer.send(*(make_event("p", FACT, n=n) for n in range(1, 400)))
        partition = parse_cursor(cursor).partition
        await kafka_log.delete_before(100, partition)
        for dialect in DIALECTS:
            async with following(dialect, edge, channel_url("p"), after=cursor) as back:
                assert await back.take(301) == [
                    Told(gap="retention"),
                    *map(Told, range(100, 400)),
                ]

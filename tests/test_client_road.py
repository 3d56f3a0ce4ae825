"""The Python client and `tailrace tail` against a real edge."""

import asyncio
import sys
from contextlib import AsyncExitStack

import orjson
from edge_harness import (
    WAIT_SECONDS,
    kafka_edge,
    make_event,
    memory_edge,
    numbers,
    producing,
    record_of,
)

from tailrace.client import Gap, Stream

FACT = "ingest.job.completed"


async def _take(stream: Stream, count: int) -> list[int]:
    async with asyncio.timeout(WAIT_SECONDS):
        found: list[int] = []
        while len(found) < count:
            found += numbers([await anext(stream)])
        return found


async def test_stream_gets_each_event_once_and_in_order_over_its_reconnects() -> None:
    async with memory_edge() as edge, Stream(edge.url, "p1", types=[FACT]) as stream:
        for first in range(0, 30, 10):
            edge.consumer.put(
                *(record_of(make_event(type=FACT, n=n), n) for n in range(first, first + 10))
            )
            assert await _take(stream, 10) == list(range(first, first + 10))
            for guest in tuple(edge.node.roster._slot_of):
                guest.send_away(0)
        assert stream.counters.reconnects >= 2
        assert (stream.counters.gaps, stream.counters.chain_breaks) == (0, 0)


async def test_stream_moves_to_the_next_edge_where_its_cursor_is_as_good(
    kafka: str, topic: str
) -> None:
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(producing(kafka, topic))
        second = await stack.enter_async_context(kafka_edge(kafka, topic))
        async with AsyncExitStack() as first_stack:
            first = await first_stack.enter_async_context(kafka_edge(kafka, topic))
            stream = await stack.enter_async_context(
                Stream([first.url, second.url], "p", kind="ingest", run="j1")
            )
            await producer.send(*(make_event("p", FACT, n=n) for n in range(5)))
            assert await _take(stream, 5) == [0, 1, 2, 3, 4]
            await producer.send(*(make_event("p", FACT, n=n) for n in range(5, 10)))
        assert await _take(stream, 5) == [5, 6, 7, 8, 9]
        assert stream.counters.gaps == 0


async def test_stream_tells_the_gap_behind_a_foreign_cursor() -> None:
    gaps: list[Gap] = []
    foreign = "A" * 44
    async with (
        memory_edge() as edge,
        Stream(edge.url, "p1", after=foreign, on_gap=gaps.append) as stream,
    ):
        edge.consumer.put(record_of(make_event(type=FACT, n=1)))
        assert await _take(stream, 1) == [1]
    assert [gap.reason for gap in gaps] == ["invalid"]


async def test_tail_prints_what_an_edge_serves_and_goes_on_after_its_cursor() -> None:
    async with memory_edge() as edge:
        edge.consumer.put(*(record_of(make_event(type=FACT, n=n), n) for n in range(3)))
        lines = await _tail(edge.url, 3, "--run", "j1", "--json")
        assert numbers(lines) == [0, 1, 2]
        edge.consumer.put(record_of(make_event(type=FACT, n=3), 3))
        after = str(lines[-1]["cursor"])
        assert numbers(await _tail(edge.url, 1, "--after", after, "--json")) == [3]


async def _tail(url: str, count: int, *arguments: str) -> list[dict[str, object]]:
    """Return the first lines that `tailrace tail` prints of project p1."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tailrace.cli", "tail", "p1", "--url", url, *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return [orjson.loads(await process.stdout.readline()) for _ in range(count)]
    finally:
        process.kill()
        await process.wait()

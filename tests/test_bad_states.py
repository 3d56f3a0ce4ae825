"""Records that nobody may see, or not twice, cost no viewer anything else, wherever they stand."""

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
from edge_harness import MemoryEdge, channel_url, make_event, memory_edge, numbers, record_of
from memory_topic import StubRecord

JOB = channel_url("p1", "ingest", "j1") + "?from=start"
WIDE = orjson.dumps({"job": {"id": "j1", "n": 0, "text": "x" * 3000}}).decode()
"""Alone in its block of the smallest journal."""


@pytest.fixture
async def edge() -> AsyncIterator[MemoryEdge]:
    """An edge with the smallest journal."""
    async with memory_edge(journal_max_bytes=1 << 16) as edge:
        yield edge


def bad_state() -> StubRecord:
    """Return a state with good headers that nobody can decode."""
    return record_of(make_event(n=-1))._replace(value=b"\x00no avro")


async def forget(edge: MemoryEdge, offset: int) -> None:
    """Fill the journal until its floor is at an offset of a wide record, or after it.

    What it is filled with is small: the place of one wide record is enough for it.
    """
    journal = edge.node.hub.journal
    while journal.floor(0) < offset:
        head = journal.head(0)
        edge.consumer.put(record_of(make_event("p2")))
        while journal.head(0) == head:  # noqa: ASYNC110 -- seen only from outside
            await asyncio.sleep(0)


async def test_many_bad_states_in_a_row_cost_not_the_good_one_before(edge: MemoryEdge) -> None:
    edge.consumer.put(record_of(make_event(n=1)), *(bad_state() for _ in range(1500)))
    edge.consumer.put(record_of(make_event(type="ingest.job.completed", n=2)))

    async with edge.watch(JOB) as viewer:
        assert numbers(await viewer.events(2)) == [1, 2]


async def test_a_bad_state_in_a_replay_costs_not_the_good_one_before(edge: MemoryEdge) -> None:
    edge.consumer.put(record_of(make_event(n=0)), record_of(make_event(n=1)), bad_state())
    await forget(edge, 2)
    edge.consumer.put(record_of(make_event(type="ingest.job.completed", n=2)))

    async with edge.watch(JOB) as viewer, edge.watch(JOB) as other:
        assert numbers(await viewer.events(2)) == [1, 2]
        assert numbers(await other.events(2)) == [1, 2]
    assert edge.consumer.log.scans > 1


async def test_a_bad_state_in_a_replay_costs_no_other_channel_anything(edge: MemoryEdge) -> None:
    facts = [record_of(make_event(type="ingest.job.created", run="j2", n=n)) for n in range(4)]
    edge.consumer.put(record_of(make_event(n=1)), facts[0], bad_state(), *facts[1:])
    await forget(edge, 5)
    edge.consumer.put(record_of(make_event(type="ingest.job.completed", n=2)))
    edge.consumer.put(record_of(make_event(type="ingest.job.completed", run="j2", n=4)))

    whole = channel_url("p1") + "?from=start"
    async with edge.watch(JOB) as viewer, edge.watch(whole) as other:
        assert numbers(await viewer.events(2)) == [1, 2]
        assert numbers(await other.events(7)) == [1, 0, 1, 2, 3, 2, 4]


async def test_a_retry_just_after_a_replay_is_known_by_its_original_just_before(
    edge: MemoryEdge,
) -> None:
    first = record_of(make_event(type="ingest.job.created", n=1))
    fact = record_of(make_event(type="ingest.job.created", n=0, data=WIDE))
    others = [record_of(make_event("p2")) for _ in range(498)]
    edge.consumer.put(first, *others, fact, fact)
    await forget(edge, 499)  # the last record of the first 500, which a scan reads at once
    assert edge.node.hub.journal.floor(0) == 499, "the original is forgotten, the retry is held"
    edge.consumer.put(record_of(make_event(type="ingest.job.completed", n=2)))

    async with edge.watch(JOB) as viewer:
        assert numbers(await viewer.events(3)) == [1, 0, 2]

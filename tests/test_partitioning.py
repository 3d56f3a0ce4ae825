"""A project's partition is the one that the Java client would choose, for every key."""

import json
from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner

from tailrace.producers.kafka import partition_of

TABLE = json.loads(Path(__file__, "..", "data", "partitions.json").resolve().read_text("utf-8"))
COUNTS: list[int] = TABLE["partition_counts"]
ROWS: list[tuple[str, list[int]]] = [(row[0], row[1:]) for row in TABLE["rows"]]


def test_the_table_of_the_java_client_is_whole() -> None:
    assert len({key for key, _ in ROWS}) == 1000
    assert {len(key.encode()) % 4 for key, _ in ROWS} == {0, 1, 2, 3}
    assert max(len(key.encode()) for key, _ in ROWS) > 500
    assert any(not key.isascii() for key, _ in ROWS)
    for at, count in enumerate(COUNTS):
        assert {partitions[at] for _, partitions in ROWS} == set(range(count))


@pytest.mark.parametrize("count", COUNTS)
def test_a_key_goes_where_the_java_client_sends_it(count: int) -> None:
    at = COUNTS.index(count)
    expected = {key: partitions[at] for key, partitions in ROWS}
    assert {key: partition_of(key.encode(), count) for key in expected} == expected


@pytest.mark.parametrize("count", COUNTS)
def test_other_producers_on_the_same_client_do_the_same(count: int) -> None:
    at, every = COUNTS.index(count), list(range(count))
    choose = DefaultPartitioner()
    for key, partitions in ROWS:
        assert choose(key.encode(), every, every) == partitions[at]

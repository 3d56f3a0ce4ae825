from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from edge_viewers import fact, place, state
from hypothesis import given
from hypothesis import strategies as st
from memory_topic import StubRecord
from strategies import PROPERTY
from test_channel import entry

from tailrace.batching import Folded
from tailrace.edge.chunk import Chunk, Entry, Rendered
from tailrace.edge.dialect import Dialect, frame_of
from tailrace.edge.fold import Fold
from tailrace.schemas import decode, event_json

FRAME_BYTES = 1 << 18


def offsets(fold: Fold) -> list[int]:
    return [offset for offset, _ in fold.take().items]


def test_first_record_always_fits() -> None:
    assert Fold(every=False).fits(entry(fact(0, padding=1_000_000)))


def test_records_fit_as_long_as_a_frame_has_room() -> None:
    fold = Fold(every=False)
    fold.take_in(entry(fact(0, padding=200_000)))
    assert fold.fits(entry(fact(1, padding=50_000)))
    assert not fold.fits(entry(fact(1, padding=70_000)))


def test_limit_bounds_the_events_but_not_those_that_replace_one() -> None:
    fold = Fold(every=False, limit=2)
    fold.take_in(entry(fact(0)))
    fold.take_in(entry(state(1)))
    assert fold.fits(entry(state(2)))
    assert not fold.fits(entry(state(2, "B")))
    assert not fold.fits(entry(fact(2)))
    fold.take_in(entry(state(2)))
    assert offsets(fold) == [0, 2]


def test_limit_does_not_lift_the_bound_of_a_frame() -> None:
    fold = Fold(every=False, limit=1)
    fold.take_in(entry(state(0)))
    for offset in range(1, 20_000):
        following = entry(state(offset))
        if not fold.fits(following):
            break
        fold.take_in(following)
    assert 0 < len(fold.take().skipped) < 10_000


def test_every_keeps_each_state_and_counts_it() -> None:
    fold = Fold(every=True, limit=2)
    fold.take_in(entry(state(0)))
    fold.take_in(entry(state(1)))
    assert not fold.fits(entry(state(2)))
    assert offsets(fold) == [0, 1]


def test_what_is_taken_leaves_it_empty() -> None:
    fold = Fold(every=False)
    fold.take_in(entry(state(0)))
    assert offsets(fold) == [0]
    assert not fold
    assert fold.size == 0


# Ranges: what its owners make of it


def _ranges(fold: Fold, records: Iterable[StubRecord]) -> Iterator[Folded[Entry]]:
    """Cut records into ranges, as the owners of a fold do."""
    for record in records:
        item = entry(record)
        if not fold.fits(item):
            yield fold.take()
        fold.take_in(item)
    yield fold.take()


def _rendered(folded: Folded[Entry]) -> list[Rendered]:
    records = [entry.record for _, entry in folded.items]
    return [Rendered(r.offset, r.timestamp, 0, event_json(decode(r.value or b""))) for r in records]


def _offsets(ranges: Iterable[Folded[Entry]]) -> list[list[int]]:
    return [[offset for offset, _ in folded.items] for folded in ranges]


def test_range_is_cut_where_a_frame_is_full() -> None:
    facts = [fact(offset, padding=60_000) for offset in range(9)]

    assert _offsets(_ranges(Fold(every=False), facts)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_event_that_is_larger_than_a_frame_has_one_for_itself() -> None:
    sizes = [10, 300_000, 10, 10]
    facts = [fact(offset, padding=size) for offset, size in enumerate(sizes)]

    assert _offsets(_ranges(Fold(every=False), facts)) == [[0], [1], [2, 3]]


def test_range_is_cut_before_it_is_folded() -> None:
    """A state that a range leaves out is in the same range with a newer value."""
    states = [state(offset, padding=100_000) for offset in range(4)]
    filler = [fact(9, run="other", padding=FRAME_BYTES)]

    folded = list(_ranges(Fold(every=False), [*states, *filler]))

    assert _offsets(folded) == [[3], [9]]
    assert sorted(folded[0].skipped) == [0, 1, 2]


def test_states_before_a_cut_are_in_the_frame_before_it() -> None:
    records = [state(0), fact(1, run="other", padding=FRAME_BYTES - 3000), state(2, padding=3000)]

    assert _offsets(_ranges(Fold(every=False), records)) == [[0, 1], [2]]


def test_limit_is_of_events_left_not_of_records_seen() -> None:
    records = [*(state(offset) for offset in range(5)), fact(5), state(6), fact(7)]

    assert _offsets(_ranges(Fold(every=False, limit=2), records)) == [[4, 5], [6, 7]]
    assert _offsets(_ranges(Fold(every=True, limit=3), records)) == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("padding", [0, 100, 5000, 200_000])
def test_no_frame_is_larger_than_its_bound(dialect: Dialect, padding: int) -> None:
    count = min(800, 2_000_000 // (padding + 1))
    facts = [fact(offset, padding=padding) for offset in range(count)]

    for folded in _ranges(Fold(every=False), facts):
        chunk = Chunk("p1/ingest/j1", place(0), place(900), _rendered(folded))
        assert len(frame_of(chunk, dialect)) <= FRAME_BYTES


_shapes = st.tuples(st.sampled_from("AAAB"), st.booleans(), st.integers(0, 120_000))


@PROPERTY
@given(
    shapes=st.lists(_shapes, max_size=20),
    limit=st.none() | st.integers(1, 4),
    every=st.booleans(),
)
def test_ranges_are_the_records_cut_in_order_each_within_its_bounds(
    shapes: list[tuple[str, bool, int]], limit: int | None, *, every: bool
) -> None:
    records = [
        fact(offset, padding=padding) if is_fact else state(offset, status, padding=padding)
        for offset, (status, is_fact, padding) in enumerate(shapes)
    ]

    ranges = list(_ranges(Fold(every=every, limit=limit), records))

    seen = [sorted([*(offset for offset, _ in r.items), *r.skipped]) for r in ranges]
    assert [offset for offsets in seen for offset in offsets] == list(range(len(records)))
    for folded in ranges:
        texts = [event.text for event in _rendered(folded)]
        assert len(texts) == 1 or sum(map(len, texts)) <= FRAME_BYTES
        assert limit is None or len(texts) <= limit
    assert all(first[-1] < second[0] for first, second in pairwise(seen) if first)

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY

from tailrace.producers.sequence import RunKey, Sequence

A: RunKey = ("p", "ingest", "a")
B: RunKey = ("p", "agent", "a")
NONE: RunKey = ("p", "agent", None)


def test_each_run_counts_from_one_without_holes() -> None:
    sequence = Sequence("src")
    assert [sequence.next(run) for run in (A, A, B, NONE, A)] == [
        ("src", 1),
        ("src", 2),
        ("src", 1),
        ("src", 1),
        ("src", 3),
    ]


def test_number_that_was_taken_back_is_given_again() -> None:
    sequence = Sequence("src")
    sequence.next(A)
    sequence.next(A)
    sequence.take_back(A)
    assert sequence.next(A) == ("src", 2)


def test_taking_back_the_first_number_leaves_no_hole() -> None:
    sequence = Sequence("src")
    sequence.next(A)
    sequence.take_back(A)
    assert sequence.next(A) == ("src", 1)


def test_forgotten_run_counts_from_one_again_under_another_source() -> None:
    sequence = Sequence("src", max_runs=2)
    sequence.next(A)
    sequence.next(B)
    sequence.next(NONE)
    assert len(sequence) == 2
    assert sequence.next(B) == ("src", 2)
    assert sequence.next(A) == ("src.2", 1)


def test_a_tenth_is_forgotten_at_once_so_that_epochs_are_rare() -> None:
    sequence = Sequence("src", max_runs=100)
    sources = {sequence.next(("p", "ingest", str(n)))[0] for n in range(200)}
    assert len(sources) == 11
    assert len(sequence) <= 100


@PROPERTY
@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 12))
def test_numbers_are_dense_per_source_and_run(runs: list[int], max_runs: int) -> None:
    sequence = Sequence("src", max_runs=max_runs)
    seen: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for run in runs:
        source, seq = sequence.next(("p", "ingest", str(run)))
        seen[source, run].append(seq)
        assert len(sequence) <= max_runs
    for numbers in seen.values():
        assert numbers == list(range(1, len(numbers) + 1))

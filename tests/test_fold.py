from edge_viewers import fact, state
from test_channel import entry

from tailrace.edge.fold import Fold


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

import gc
from collections.abc import Iterator

import pytest

from tailrace.edge.garbage import passing, settle, take_over


class Node:
    other: "Node | None" = None


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_what_lives_is_out_of_the_collectors_sight() -> None:
    kept = Node()
    settle()
    assert gc.get_freeze_count() > 0
    assert not any(found is kept for found in gc.get_objects())


@pytest.mark.usefixtures("thawed")
def test_young_garbage_is_collected_first() -> None:
    one, two = Node(), Node()
    one.other, two.other = two, one
    number = id(one)
    del one, two
    settle()
    gc.unfreeze()
    assert not any(id(found) == number and isinstance(found, Node) for found in gc.get_objects())


def test_nothing_is_collected_but_by_settling_once_it_is_taken_over() -> None:
    gc.enable()  # whatever ran before
    try:
        take_over()
        assert not gc.isenabled()
    finally:
        gc.enable()


def _alive(numbers: set[int]) -> int:
    gc.unfreeze()
    return sum(id(found) in numbers and isinstance(found, Node) for found in gc.get_objects())


@pytest.mark.usefixtures("thawed")
@pytest.mark.parametrize(("settlings", "left"), [(1, 0), (5, 0), (6, 2)])
def test_cycles_of_what_passes_are_collected_unless_it_takes_long(
    settlings: int, left: int
) -> None:
    settle()
    gc.disable()
    try:
        with passing():
            one, two = Node(), Node()
            one.other, two.other = two, one
            numbers = {id(one), id(two)}
            for _ in range(settlings):
                settle()
            del one, two
        assert _alive(numbers) == left
    finally:
        gc.enable()
        gc.collect()


@pytest.mark.usefixtures("thawed")
def test_what_lives_is_frozen_again_when_nothing_passes() -> None:
    kept = Node()
    with passing(), passing():
        settle()
        assert any(found is kept for found in gc.get_objects())
    settle()
    assert not any(found is kept for found in gc.get_objects())

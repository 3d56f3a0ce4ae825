import gc
from collections.abc import Iterator

import pytest

from tailrace.edge.garbage import settle, take_over


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
    assert gc.isenabled()
    try:
        take_over()
        assert not gc.isenabled()
    finally:
        gc.enable()

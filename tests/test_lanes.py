from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY

from tailrace.producers.lanes import Lanes, Outgoing


def record(ticket: int, key: bytes = b"\x00", size: int = 10) -> Outgoing:
    return Outgoing(ticket, key, b"x" * size, [("h", b"v")], 0)


def lanes(partitions: int = 2, **bounds: int) -> Lanes:
    made = Lanes(lambda key, count: key[0] % count, **bounds)
    made.lay_out(partitions)
    return made


UNIT = record(1).size


def test_records_of_a_key_stand_in_one_lane_in_order() -> None:
    made = lanes()
    for ticket in range(6):
        made.add(record(ticket, bytes([ticket % 3])))
    assert [[r.ticket for r in lane.queue] for lane in made.startable()] == [[0, 2, 3, 5], [1, 4]]


def test_only_idle_lanes_with_records_are_startable() -> None:
    made = lanes(3)
    made.add(record(1))
    made.add(record(2, b"\x01"))
    first, second = made.startable()
    first.busy = True
    assert made.startable() == [second]


def test_room_shrinks_with_records_and_returns_with_acknowledgements() -> None:
    made = lanes(max_events=2, max_bytes=10 * UNIT)
    assert made.room() == (2, 10 * UNIT)
    made.add(record(1))
    made.add(record(2, size=10 + 20 * UNIT))
    assert made.room() == (0, 0)
    (lane,) = made.startable()
    made.acknowledge(lane, 1)
    assert made.room() == (1, 0)
    made.acknowledge(lane, 1)
    assert (made.room(), made.events, made.bytes) == ((2, 10 * UNIT), 0, 0)


def test_batch_is_bounded_in_bytes_and_holds_at_least_one() -> None:
    made = lanes(batch_bytes=2 * UNIT)
    for ticket in (1, 2, 3):
        made.add(record(ticket))
    (lane,) = made.startable()
    assert [r.ticket for r in lane.head(made.batch_bytes)] == [1, 2]
    assert [r.ticket for r in lane.head(1)] == [1]


def test_oldest_is_the_oldest_over_all_lanes() -> None:
    made = lanes()
    assert made.oldest() is None
    made.add(record(5, b"\x01"))
    made.add(record(7))
    assert made.oldest() == 5


def test_record_at_fault_is_found_by_halving_and_the_rest_goes_on_at_full_size() -> None:
    made = lanes()
    for ticket in range(8):
        made.add(record(ticket))
    (lane,) = made.startable()
    sizes = []
    while len(head := lane.head(made.batch_bytes)) > 1:
        sizes.append(len(head))
        made.halve(lane, len(head))
    assert sizes == [8, 4, 2]
    made.drop(lane)
    assert [r.ticket for r in lane.head(made.batch_bytes)] == [1, 2, 3, 4, 5, 6, 7]
    assert made.events == 7


def test_topic_that_takes_less_gets_smaller_batches_for_good() -> None:
    made = lanes(batch_bytes=100 * UNIT)
    for ticket in range(8):
        made.add(record(ticket))
    (lane,) = made.startable()
    made.shrink(lane, 8)
    assert len(lane.head(made.batch_bytes)) == 4
    made.acknowledge(lane, 4)
    made.shrink(lane, 4)
    assert len(lane.head(made.batch_bytes)) == 2


def test_smaller_record_takes_the_place_of_the_head() -> None:
    made = lanes()
    made.add(record(1, size=1000))
    made.add(record(2))
    (lane,) = made.startable()
    made.replace(lane, record(1, size=10))
    assert made.bytes == 2 * UNIT
    assert [len(r.value) for r in lane.queue] == [10, 10]


def test_same_layout_again_keeps_the_lanes() -> None:
    made = lanes()
    made.add(record(1))
    before = made.startable()
    made.lay_out(2)
    assert made.startable() == before


@PROPERTY
@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 6), st.integers(1, 6))
def test_new_partition_count_keeps_every_project_in_order(
    keys: list[int], before: int, after: int
) -> None:
    made = lanes(before)
    for ticket, key in enumerate(keys):
        made.add(record(ticket, bytes([key])))
    held = (made.events, made.bytes, made.oldest())
    made.lay_out(after)
    assert (made.events, made.bytes, made.oldest()) == held
    seen: dict[bytes, int] = {}
    for lane in made.startable():
        assert all(a.ticket < b.ticket for a, b in pairwise(lane.queue))
        for r in lane.queue:
            assert seen.setdefault(r.key, lane.partition) == lane.partition

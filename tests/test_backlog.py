"""Viewers who are behind: who is served when, from where, and how often the log is read for it."""

import gc
import sys
from itertools import groupby

from edge_viewers import Stage, Witness, chained, fact, key_of, place, state, states_of_one_key
from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY

from tailrace.edge.dialect import Break
from tailrace.edge.protocol import Gap

PROJECT = key_of()


def test_all_who_wait_at_one_place_are_served_by_one_pass() -> None:
    stage = Stage()
    stage.publish(*(fact(n) for n in range(10)))
    viewers = [stage.watch(PROJECT, place(3)) for _ in range(50)]
    stage.catch_up()
    assert all(viewer.ns == [4, 5, 6, 7, 8, 9] for viewer in viewers)
    assert all(viewer.live for viewer in viewers)
    assert stage.backlog.passes == 1
    assert len({id(viewer.frames[0]) for viewer in viewers}) == 1


def test_those_who_come_one_after_the_other_are_served_by_that_pass_too() -> None:
    stage = Stage()
    stage.publish(*(fact(n) for n in range(10)))
    for _ in range(20):
        viewer = stage.watch(PROJECT, place(3))
        stage.catch_up()
        assert viewer.ns == [4, 5, 6, 7, 8, 9]
    assert stage.backlog.passes == 1


def test_each_place_has_a_pass_of_its_own() -> None:
    stage = Stage()
    stage.publish(*(fact(n) for n in range(10)))
    viewers = [stage.watch(key, place(n)) for n in (2, 5) for key in (PROJECT, key_of(run="j1"))]
    stage.catch_up()
    assert [viewer.ns for viewer in viewers] == [[*range(3, 10)]] * 2 + [[*range(6, 10)]] * 2
    assert stage.backlog.passes == 4


def test_what_is_kept_for_those_who_come_later_is_bounded() -> None:
    stage = Stage(cache_bytes=2000)
    stage.publish(*(fact(n, padding=900) for n in range(20)))
    for start in (18, 17, 18, 16, 18):
        stage.watch(PROJECT, place(start))
        stage.catch_up()
    assert stage.backlog._cache_bytes <= 2000


def test_long_passes_take_turns() -> None:
    stage = Stage()
    stage.publish(*(fact(n, project="p1") for n in range(100)))
    stage.publish(fact(100, project="p2"))
    long = stage.watch(PROJECT, place(-1))
    short = stage.watch(key_of("p2"), place(-1))
    stage.turn(10)
    assert not long.live
    stage.turn(10)
    assert short.live
    assert not long.live
    stage.catch_up(10)
    assert long.ns == list(range(100))


def test_one_who_is_full_leaves_the_pass_and_comes_back_to_what_was_missed() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT, room=1)
    other = stage.watch(PROJECT)
    for n in range(5):
        stage.publish(fact(n))
        stage.flush()
    assert (viewer.ns, viewer.live, viewer.position) == ([0], False, place(0))
    stage.drain(viewer)
    stage.catch_up()
    assert viewer.ns == other.ns == [0, 1, 2, 3, 4]
    assert viewer.live
    assert chained(viewer.heard, viewer.began)


def test_range_missed_is_coalesced() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT, room=0)
    stage.publish(state(0))
    stage.flush()
    stage.publish(*states_of_one_key(1, 500))
    stage.flush()
    stage.drain(viewer)
    stage.catch_up()
    assert viewer.ns == [500]
    assert viewer.heard[0].skipped == 500


def test_one_ahead_of_this_node_waits_and_goes_on_without_loss_or_repeat() -> None:
    stage = Stage()
    stage.publish(fact(0), fact(1))
    viewer = stage.watch(PROJECT, place(3))
    stage.catch_up()
    assert (viewer.live, viewer.frames) == (False, [])
    stage.publish(fact(2), fact(3))
    stage.flush()
    stage.publish(fact(4))
    stage.flush()
    stage.catch_up()
    assert viewer.ns == [4]
    assert viewer.live


def test_one_who_is_gone_is_forgotten() -> None:
    stage = Stage()
    stage.publish(fact(0))
    stage.leave(stage.watch(PROJECT, place(-1)))
    stage.turn()
    assert not stage.backlog
    assert stage.backlog.passes == 0


def test_one_whose_next_record_the_journal_lost_is_handed_back() -> None:
    stage = Stage(journal_max_bytes=20_000)
    stage.publish(*(fact(n) for n in range(100)))
    old = stage.watch(PROJECT, place(3))
    new = stage.watch(PROJECT, place(98))
    assert stage.turn() == [old]
    stage.catch_up()
    assert (old.ns, new.ns) == ([*range(4, 100)], [99])


def test_gap_is_told_before_anything_else() -> None:
    stage = Stage()
    stage.publish(*(fact(n) for n in range(5)))
    viewer = stage.watch(PROJECT, place(0))
    viewer.gap = Break("p1", place(0), place(3), Gap.RETENTION)
    stage.catch_up()
    assert [gap.reason for gap in viewer.gaps] == [Gap.RETENTION]
    assert viewer.ns == [4]


def test_cursor_without_its_timestamp_is_led_to_the_channels_own() -> None:
    stage = Stage()
    stage.publish(fact(0))
    viewer = stage.watch(PROJECT, place(0, -1))
    stage.catch_up()
    assert [(heard.prev, heard.cursor, heard.ns) for heard in viewer.heard] == [
        (place(0, -1), place(0), [])
    ]
    assert viewer.live


def test_whoever_arrives_gets_the_next_record_by_the_flush_and_once() -> None:
    stage = Stage()
    stage.publish(fact(0))
    viewer = stage.watch(PROJECT, place(-1))
    stage.publish(fact(1))  # after the channel's cursor, before the viewer is served
    stage.catch_up()
    assert viewer.live
    assert viewer.ns == [0]
    stage.flush()
    assert viewer.ns == [0, 1]


def test_limit_bounds_each_range() -> None:
    stage = Stage()
    stage.publish(*(fact(n) for n in range(10)))
    viewer = stage.watch(PROJECT, place(-1), limit=3)
    stage.catch_up()
    assert [heard.ns for heard in viewer.heard] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_another_log_leaves_nothing_of_the_one_before() -> None:
    stage = Stage()
    stage.publish(fact(0))
    stage.watch(PROJECT, place(-1))
    stage.backlog.clear()
    assert not stage.backlog
    assert stage.turn() == []


def test_memory_of_a_stalled_viewer_does_not_grow_with_what_it_misses() -> None:
    stage = Stage(journal_max_bytes=100_000)
    viewer = stage.watch(PROJECT, room=0)

    def miss(first: int, count: int) -> tuple[int, int]:
        for n in range(first, first + count):
            stage.publish(fact(n))
            stage.flush()
        stage.catch_up()
        held = gc.get_referents(viewer)
        return len(held), sum(sys.getsizeof(found) for found in held)

    assert miss(0, 10) == miss(10, 1000)
    assert not viewer.live


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from("AB"), st.booleans()),
        st.tuples(st.just("flush"), st.just(""), st.booleans()),
        st.tuples(st.just("come"), st.just(""), st.booleans()),
        st.tuples(st.just("stall"), st.just(""), st.booleans()),
        st.tuples(st.just("drain"), st.just(""), st.booleans()),
        st.tuples(st.just("turn"), st.just(""), st.booleans()),
        st.tuples(st.just("leave"), st.just(""), st.booleans()),
    ),
    max_size=50,
)


@PROPERTY
@given(STEPS, st.sampled_from([4_000, 12_000, 1 << 20]), st.data())
def test_nobody_loses_repeats_or_reorders_anything_whatever_happens(
    steps: list[tuple[str, str, bool]], journal_max_bytes: int, data: st.DataObject
) -> None:
    stage = Stage(journal_max_bytes=journal_max_bytes)
    log: list[tuple[int, str, bool]] = []
    viewers: list[Witness] = [stage.watch(PROJECT)]
    for what, status, flag in steps:
        if what == "publish":
            log.append((len(log), status, flag))
            offset = len(log) - 1
            stage.publish(fact(offset) if flag else state(offset, status))
        elif what == "flush":
            stage.flush(0.1)
        elif what == "turn":
            stage.turn(data.draw(st.integers(1, 5)))
            stage.replay()
        else:
            chosen = data.draw(st.sampled_from(viewers))
            if chosen.open:
                _move(stage, viewers, chosen, what, data.draw(st.integers(0, 2)))
    stage.flush()
    for viewer in viewers:
        if viewer.open:
            stage.drain(viewer)
    stage.catch_up()
    for viewer in viewers:
        _assert_whole(viewer, log)


def _move(stage: Stage, viewers: list[Witness], chosen: Witness, what: str, room: int) -> None:
    """Let a viewer stall, drain or leave, or another one come to where it is."""
    if what == "stall":
        chosen.stall(room)
    elif what == "drain":
        stage.drain(chosen)
    elif what == "come":
        seen = chosen.channel.cursor if chosen.live else chosen.position
        viewers.append(stage.watch(PROJECT, seen))
    elif len(viewers) > 1:
        stage.leave(chosen)


def _assert_whole(viewer: Witness, log: list[tuple[int, str, bool]]) -> None:
    """Compare what a viewer heard with the log between its first and its last position."""
    assert chained(viewer.heard, viewer.began)
    end = viewer.heard[-1].cursor.offset if viewer.heard else viewer.began.offset
    mine = [line for line in log if viewer.began.offset < line[0] <= end]
    if viewer.open:
        assert viewer.live
        assert end == log[-1][0] if log else end == -1
    assert viewer.ns == sorted(set(viewer.ns))
    assert len(viewer.ns) + sum(heard.skipped for heard in viewer.heard) == len(mine)
    for (status, is_fact), group in groupby(mine, key=lambda line: line[1:]):
        offsets = [line[0] for line in group]
        if is_fact:
            assert set(offsets) <= set(viewer.ns), status
        else:
            assert offsets[-1] in viewer.ns, status

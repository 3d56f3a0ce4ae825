import gc
import sys
import weakref
from collections.abc import Iterable, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import NamedTuple

from edge_viewers import (
    PARTITION,
    Heard,
    Stage,
    Witness,
    chained,
    fact,
    key_of,
    place,
    spoilt,
    state,
    states_of_one_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_topic import StubRecord
from strategies import PROPERTY

from tailrace.batching import Journal
from tailrace.edge.channel import ChannelKey
from tailrace.edge.chunk import Chunk
from tailrace.edge.dialect import Break, Dialect, frame_of
from tailrace.edge.protocol import Gap
from tailrace.schemas import parse_headers

JOB = key_of(run="j1")
PROJECT = key_of()
START = place(-1)
NOT_LIVE = 5
"""Records of one turn where a test wants a pass to take several."""


def _facts(first: int, count: int, *, run: str = "j1", padding: int = 0) -> list[StubRecord]:
    return [fact(n, run=run, padding=padding) for n in range(first, first + count)]


def _watched(records: Iterable[StubRecord], *, cache_bytes: int = 1 << 22) -> Stage:
    """Return a node with a live viewer of the job, who has been told these records."""
    stage = Stage(cache_bytes=cache_bytes)
    stage.watch(JOB)
    stage.publish(*records)
    stage.flush()
    return stage


# One pass for many


def test_one_pass_serves_all_who_wait_at_one_place() -> None:
    stage = _watched(_facts(0, 10))
    viewers = [stage.watch(JOB, START) for _ in range(50)]
    rendered = stage.hub.counts.rendered

    stage.catch_up()

    assert stage.hub.counts.passes == 1
    assert stage.hub.counts.rendered == rendered + 10
    for viewer in viewers:
        assert viewer.ns == list(range(10))
        assert viewer.live
        assert viewer.frames[0] is viewers[0].frames[0]


def test_who_comes_later_is_served_from_what_was_made_before() -> None:
    stage = _watched(_facts(0, 6, padding=100_000))
    first = stage.watch(JOB, START)
    stage.catch_up()
    rendered = stage.hub.counts.rendered

    second = stage.watch(JOB, START)
    stage.catch_up()

    assert stage.hub.counts.passes == 3, "one for each chunk"
    assert stage.hub.counts.rendered == rendered
    assert second.heard == first.heard
    assert len(second.heard) == 3
    assert second.live


def test_who_comes_while_a_pass_runs_joins_it() -> None:
    stage = _watched(states_of_one_key(0, 50))
    decoded = stage.hub.counts.decoded
    viewers = [stage.watch(JOB, START)]
    while stage.backlog:
        stage.turn(NOT_LIVE)
        if len(viewers) < 8:
            viewers.append(stage.watch(JOB, START))

    assert len(viewers) == 8
    assert [viewer.ns for viewer in viewers] == [[49]] * 8
    assert stage.hub.counts.passes == 1
    assert stage.hub.counts.decoded == decoded + 1


def test_viewers_far_apart_share_what_is_ahead_of_both() -> None:
    stage = _watched(_facts(0, 12, padding=100_000))
    decoded = stage.hub.counts.decoded
    ahead, behind = stage.watch(JOB, place(1)), stage.watch(JOB, START)

    stage.catch_up()

    assert behind.ns == list(range(12))
    assert ahead.ns == list(range(2, 12))
    assert stage.hub.counts.decoded == decoded + 12, "each record once"


def test_who_comes_later_still_gets_what_came_since() -> None:
    stage = _watched(_facts(0, 3))
    stage.watch(JOB, START)
    stage.catch_up()
    stage.publish(*_facts(3, 3))
    stage.flush()

    late = stage.watch(JOB, START)
    stage.catch_up()

    assert [heard.ns for heard in late.heard] == [[0, 1, 2], [3, 4, 5]]
    assert stage.hub.counts.passes == 2
    assert chained(late.heard, START)


def test_place_is_channel_position_and_limit() -> None:
    stage = _watched(_facts(0, 4))

    stage.watch(JOB, START)
    stage.watch(PROJECT, START)
    stage.watch(JOB, place(1))
    stage.watch(JOB, START, limit=10)
    stage.turn()

    assert stage.hub.counts.passes == 4


def test_what_one_delivery_mode_was_served_is_not_served_to_another() -> None:
    stage = _watched(states_of_one_key(0, 3))
    latest = stage.watch(JOB, START)
    stage.catch_up()

    every = stage.watch(JOB._replace(every=True), START)
    stage.catch_up()

    assert (latest.ns, every.ns) == ([2], [0, 1, 2])


def test_viewer_with_a_limit_is_not_served_what_was_made_without_one() -> None:
    stage = _watched(_facts(0, 4))
    stage.watch(JOB, START)
    stage.catch_up()

    limited = stage.watch(JOB, START, limit=1)
    stage.catch_up()

    assert [heard.ns for heard in limited.heard] == [[0], [1], [2], [3]]


def test_what_was_made_for_a_limit_does_not_cut_the_frames_of_others() -> None:
    stage = _watched(_facts(0, 4))
    stage.watch(JOB, START, limit=1)
    stage.catch_up()

    viewer = stage.watch(JOB, START)
    stage.catch_up()

    assert [heard.ns for heard in viewer.heard] == [[0, 1, 2, 3]]


def test_what_is_kept_is_bounded_and_the_least_recently_used_goes() -> None:
    stage = _watched(_facts(0, 4, padding=10_000), cache_bytes=50_000)

    def passes(offset: int) -> int:
        """Serve a viewer the last record after an offset; return the passes that it took."""
        before = stage.hub.counts.passes
        key = JOB._replace(window_ms=offset)
        viewer = stage.watch(key, place(2))
        stage.catch_up()
        assert viewer.ns == [3]
        return stage.hub.counts.passes - before

    a, b, c = 20, 100, 500
    assert (passes(a), passes(b)) == (1, 1)
    assert passes(a) == 0
    assert passes(c) == 1
    assert (passes(a), passes(c)) == (0, 0)
    assert passes(b) == 1


def test_bound_counts_the_frames_of_every_dialect() -> None:
    stage = _watched(_facts(0, 1, padding=10_000), cache_bytes=25_000)

    class Other(Witness):
        """A viewer who speaks the dialect of server-sent events."""

        def deliver(self, chunk: Chunk) -> None:
            frame_of(chunk, Dialect.SSE)
            super().deliver(chunk)

    def passes(kind: type[Witness]) -> int:
        before = stage.hub.counts.passes
        viewer = kind(stage.watch(JOB).channel, START)
        stage.seat(viewer)
        stage.catch_up()
        assert viewer.ns == [0]
        return stage.hub.counts.passes - before

    assert (passes(Witness), passes(Witness)) == (1, 0)
    assert passes(Other) == 0
    assert passes(Witness) == 1, "with the second frame it was too large"


def test_chunk_larger_than_the_cache_is_not_kept() -> None:
    stage = _watched(_facts(0, 1, padding=10_000), cache_bytes=5_000)
    for passes in (1, 2):
        assert stage.watch(JOB, START).ns == []
        stage.catch_up()
        assert stage.hub.counts.passes == passes


# Turns


def test_long_pass_does_not_delay_a_short_one() -> None:
    stage = _watched(_facts(0, 100))
    long = stage.watch(JOB, START)
    stage.turn(NOT_LIVE)
    short = stage.watch(JOB, place(97))

    stage.turn(NOT_LIVE)
    stage.turn(NOT_LIVE)

    assert short.ns == [98, 99]
    assert short.live
    assert not long.live
    stage.catch_up()
    assert long.ns == list(range(100))


def test_turn_looks_at_so_many_records_and_no_more() -> None:
    stage = _watched([*_facts(0, 10, run="j2"), *_facts(10, 10)])
    viewer = stage.watch(JOB, START)

    turns = stage.catch_up(NOT_LIVE)

    assert turns == 5  # four of records; one that finds nothing more
    assert viewer.heard == [(START, place(19), 0, list(range(10, 20)))]


def test_there_is_nothing_to_do_when_all_are_live() -> None:
    stage = _watched(_facts(0, 3))
    assert not stage.backlog
    viewer = stage.watch(JOB, START)
    assert stage.backlog
    stage.catch_up()
    assert viewer.live
    assert not stage.backlog
    assert stage.turn() == []


def test_who_is_live_is_not_served_again() -> None:
    stage = _watched(_facts(0, 3))
    viewer = stage.watch(JOB, START)
    stage.catch_up()
    stage.publish(fact(3))
    stage.flush()

    stage.backlog.add(viewer)
    stage.catch_up()

    assert stage.hub.counts.passes == 1
    assert viewer.ns == [0, 1, 2, 3]


def test_clear_forgets_everybody_and_what_was_made() -> None:
    stage = _watched(_facts(0, 10))
    stage.watch(JOB, START)
    stage.catch_up()
    under_way, waiting = stage.watch(PROJECT, START), stage.watch(JOB, place(3))
    stage.turn(1)
    stage.backlog.add(waiting)

    stage.backlog.clear()

    assert not stage.backlog
    assert stage.turn() == []
    assert under_way.heard == waiting.heard == []
    again = stage.watch(JOB, START)
    passes = stage.hub.counts.passes
    stage.catch_up()
    assert stage.hub.counts.passes == passes + 1
    assert again.ns == list(range(10))


# Full viewers


def test_full_viewer_leaves_the_pass_and_the_others_go_on() -> None:
    stage = _watched(_facts(0, 6, padding=100_000))
    slow, fast = stage.watch(JOB, START, room=1), stage.watch(JOB, START)

    stage.catch_up()

    assert fast.ns == list(range(6))
    assert fast.live
    assert slow.ns == [0, 1]
    assert slow.position == place(1)
    assert slow.waits == 1
    assert not slow.live
    assert not stage.backlog
    assert stage.hub.counts.passes == 3, "one for each chunk"


def test_full_viewer_comes_back_and_misses_nothing() -> None:
    stage = _watched(_facts(0, 6, padding=100_000))
    slow = stage.watch(JOB, START, room=1)
    stage.catch_up()
    stage.publish(*_facts(6, 3))
    stage.flush()

    stage.drain(slow)
    stage.catch_up()

    assert slow.ns == list(range(9))
    assert chained(slow.heard, START)
    assert slow.live


def test_live_viewer_who_falls_behind_is_brought_back_without_loss_or_repeat() -> None:
    stage = _watched([])
    viewer = stage.watch(JOB)
    for n in range(10):
        if n == 3:
            viewer.stall()
        stage.publish(fact(n))
        stage.flush()
    assert viewer.position == place(2)

    stage.drain(viewer)
    stage.catch_up()
    stage.publish(fact(10))
    stage.flush()

    assert viewer.ns == list(range(11))
    assert chained(viewer.heard, START)


def test_viewer_who_has_no_room_when_it_comes_waits_without_a_pass() -> None:
    stage = _watched(_facts(0, 3))
    viewer = stage.watch(JOB, START, room=0)

    stage.catch_up()

    assert (viewer.waits, stage.hub.counts.passes) == (1, 0)
    assert stage.hub.counts.overrun == 1
    stage.drain(viewer)
    stage.catch_up()
    assert viewer.ns == [0, 1, 2]


def test_viewer_who_fills_up_on_what_was_made_before_waits() -> None:
    stage = _watched(_facts(0, 6, padding=100_000))
    stage.watch(JOB, START)
    stage.catch_up()
    slow = stage.watch(JOB, START, room=2)

    stage.catch_up()

    assert (slow.ns, slow.position, slow.waits) == ([0, 1, 2, 3], place(3), 1)
    stage.drain(slow)
    stage.catch_up()
    assert slow.ns == list(range(6))
    assert stage.hub.counts.passes == 3, "one for each chunk"


class _Cost(NamedTuple):
    objects: int
    size: int


def _held(roots: Sequence[object], apart: Sequence[object]) -> _Cost:
    """Return what is reachable, without the journal, code, and what is to be left apart."""
    seen = {id(each) for each in apart}
    queue, cost = list(roots), _Cost(0, 0)
    while queue:
        found = queue.pop()
        if id(found) in seen or isinstance(
            found, type | ModuleType | FunctionType | MethodType | Journal
        ):
            continue
        seen.add(id(found))
        cost = _Cost(cost.objects + 1, cost.size + sys.getsizeof(found))
        queue += gc.get_referents(found)
    return cost


def test_stalled_viewer_costs_a_constant() -> None:
    stage = Stage()
    fast, slow = stage.watch(JOB), stage.watch(JOB)
    slow.stall()

    def miss(first: int, count: int) -> _Cost:
        for n in range(first, first + count):
            stage.publish(fact(n))
            stage.flush()
            stage.turn()
        return _held([stage.hub, stage.backlog, slow], apart=[fast])

    miss(0, 300)  # small ints are shared
    few, many = miss(300, 10), miss(310, 1000)

    assert slow.position == START
    assert many == few
    assert few.size < 20_000
    stage.drain(slow)
    stage.catch_up()
    assert slow.ns == fast.ns == list(range(1310))


# Those who are gone


def test_closed_viewer_is_forgotten_where_it_waits_and_in_a_pass() -> None:
    stage = _watched(_facts(0, 20))
    waiting, in_pass = stage.watch(JOB, START), stage.watch(PROJECT, START)
    stage.turn(NOT_LIVE)
    stage.backlog.add(waiting)
    gone = [weakref.ref(waiting), weakref.ref(in_pass)]
    for viewer in (waiting, in_pass):
        stage.leave(viewer)
    del waiting, in_pass, viewer

    stage.catch_up()

    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert not stage.backlog
    assert len(stage.hub) == 1


def test_pass_whose_viewers_are_all_gone_takes_no_further_turn() -> None:
    stage = _watched(states_of_one_key(0, 1000))
    viewer = stage.watch(JOB, START)
    stage.turn(NOT_LIVE)
    stage.leave(viewer)

    assert stage.catch_up(NOT_LIVE) == 1


def test_viewer_gone_before_its_turn_begins_no_pass() -> None:
    stage = _watched(_facts(0, 3))
    viewer = stage.watch(JOB, START)
    stage.leave(viewer)

    stage.catch_up()

    assert stage.hub.counts.passes == 0
    assert viewer.heard == []


# Ahead of this node


def test_viewer_ahead_of_this_node_waits_and_goes_on_without_loss_or_repeat() -> None:
    stage = _watched(_facts(0, 3))
    ahead = stage.watch(JOB, place(5))

    stage.catch_up()
    stage.publish(*_facts(3, 2))
    stage.flush()
    stage.catch_up()
    assert ahead.heard == []
    assert not ahead.live
    stage.publish(fact(5), fact(6))
    stage.flush()
    stage.catch_up()
    stage.publish(fact(7))
    stage.flush()

    assert ahead.ns == [6, 7]
    assert chained(ahead.heard, place(5))
    assert ahead.live


def test_viewer_ahead_is_live_as_soon_as_the_log_reaches_it() -> None:
    stage = Stage()
    ahead, further = stage.watch(JOB, place(1)), stage.watch(JOB, place(3))
    stage.catch_up()

    stage.publish(fact(0, run="j2"), fact(1, run="j2"))
    stage.flush(0.0)
    stage.catch_up()
    assert (ahead.live, further.live) == (True, False)

    stage.publish(fact(2, run="j2"), fact(3, run="j2"))
    stage.flush(0.0)
    stage.catch_up()
    assert further.live
    assert ahead.ns == further.ns == []


def test_viewer_at_the_head_of_a_channel_that_was_idle_is_live_without_waiting() -> None:
    stage = _watched([])
    stage.publish(*_facts(0, 5, run="j2"))
    viewer = stage.watch(JOB, place(4))
    stage.catch_up()
    assert not viewer.live

    stage.flush(0.0)
    stage.catch_up()

    assert viewer.live
    assert viewer.heard == []


# What the journal lost


def _forget(stage: Stage, offset: int) -> None:
    """Make the journal forget, by a record that is larger than it."""
    stage.publish(fact(offset, run="other", padding=5 << 20))
    assert stage.hub.journal.floor(PARTITION) == offset


def test_viewer_whose_next_record_the_journal_lost_is_returned() -> None:
    stage = _watched(_facts(0, 10))
    _forget(stage, 10)
    stage.publish(*_facts(11, 3))
    stage.beat()
    lost, held = stage.watch(JOB, place(9)), stage.watch(JOB, place(10))

    assert stage.turn() == [lost]

    assert lost.heard == []
    assert held.ns == [11, 12, 13]
    stage.catch_up()
    assert lost.ns == [11, 12, 13]
    assert chained(lost.heard, place(9))


def test_viewers_of_a_pass_that_the_journal_overtakes_are_returned() -> None:
    stage = _watched(_facts(0, 10))
    viewers = [stage.watch(JOB, START) for _ in range(2)]
    assert stage.turn(NOT_LIVE) == []
    _forget(stage, 10)

    assert stage.turn(NOT_LIVE) == viewers

    assert [viewer.position for viewer in viewers] == [START, START]
    assert not stage.backlog
    stage.catch_up()
    assert [viewer.ns for viewer in viewers] == [list(range(10))] * 2


def test_what_was_made_before_serves_even_what_the_journal_lost() -> None:
    stage = _watched(_facts(0, 10))
    stage.watch(JOB, START)
    stage.catch_up()
    _forget(stage, 10)

    late = stage.watch(JOB, START)

    assert stage.turn() == []
    assert late.ns == list(range(10))


def test_range_that_a_bad_state_spoilt_and_the_journal_lost_is_read_from_kafka() -> None:
    stage = Stage()
    stage.watch(key_of(run="j2"))  # nobody has found yet that it is bad
    stage.publish(*_facts(0, 3), state(3), spoilt(state(4)), *_facts(5, 5, run="j2"))
    viewer = stage.watch(PROJECT, START)
    assert stage.turn(8) == []
    # What was looked at is lost while the pass is under way; what is still to come is held.
    stage.hub.journal.begin(PARTITION, 7, place(7).timestamp_ms)
    stage.hub.journal.append(PARTITION, stage.log[8:])

    assert stage.turn() == [viewer]

    assert viewer.heard == []
    stage.catch_up()
    assert viewer.ns == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert chained(viewer.heard, START)


# Gaps


def test_gap_is_told_before_anything_else() -> None:
    stage = _watched(_facts(0, 10))
    told_when: list[int] = []

    class Told(Witness):
        def tell(self, gap: Break) -> None:
            told_when.append(len(self.frames))
            super().tell(gap)

    viewer = Told(stage.watch(JOB).channel, START)
    viewer.gap = gap = Break("p1/ingest/j1", START, place(6), Gap.RETENTION)
    stage.seat(viewer)
    stage.catch_up()

    assert viewer.gaps == [gap]
    assert viewer.gap is None
    assert told_when == [0]
    assert viewer.heard == [(place(6), place(9), 0, [7, 8, 9])]


def test_gap_waits_for_room_and_is_told_once() -> None:
    stage = _watched(_facts(0, 3))
    viewer = Witness(stage.watch(JOB).channel, START, room=0)
    viewer.gap = Break("p1/ingest/j1", START, place(1), Gap.TOO_FAR)
    stage.seat(viewer)
    stage.catch_up()
    assert viewer.gaps == []

    stage.drain(viewer)
    stage.catch_up()

    assert len(viewer.gaps) == 1
    assert viewer.ns == [2]


def test_gap_up_to_the_head_makes_live() -> None:
    stage = _watched(_facts(0, 3))
    viewer = Witness(stage.watch(JOB).channel, START)
    viewer.gap = Break("p1/ingest/j1", START, place(2), Gap.RETENTION)
    stage.seat(viewer)
    stage.catch_up()
    assert viewer.live

    stage.publish(fact(3))
    stage.flush()

    assert viewer.heard == [(place(2), place(3), 0, [3])]


# Joining live


def test_record_right_after_the_arrival_comes_by_flush_and_none_comes_twice() -> None:
    stage = _watched(_facts(0, 3))
    published: list[int] = []

    class Arriving(Witness):
        def arrive(self) -> None:
            super().arrive()
            published.append(len(self.frames))
            stage.publish(fact(3))

    viewer = Arriving(stage.watch(JOB).channel, START)
    stage.seat(viewer)
    stage.catch_up()

    assert published == [1]
    assert viewer.ns == [0, 1, 2]
    stage.flush()
    assert viewer.heard == [(START, place(2), 0, [0, 1, 2]), (place(2), place(3), 0, [3])]


def test_what_waits_for_its_window_is_left_to_the_flush() -> None:
    stage = _watched(_facts(0, 3))
    stage.publish(state(3))
    viewer = stage.watch(JOB, START)

    stage.catch_up()
    assert viewer.live
    assert viewer.ns == [0, 1, 2]
    stage.flush()

    assert viewer.ns == [0, 1, 2, 3]
    assert chained(viewer.heard, START)


def test_pass_follows_a_channel_that_goes_on_while_it_runs() -> None:
    stage = _watched(_facts(0, 10))
    viewer = stage.watch(JOB, START)
    for n in range(10, 20):
        stage.turn(3)
        stage.publish(fact(n))
        stage.flush()
    stage.catch_up()

    assert viewer.ns == list(range(20))
    assert chained(viewer.heard, START)
    assert viewer.live


# Any interleaving

KEYS = [JOB, PROJECT, PROJECT._replace(every=True), key_of(run="j2")]


class Told(NamedTuple):
    """A record as the model sees it."""

    offset: int
    project: bytes
    run: str
    identity: tuple[str, str] | None
    """Whose state this is; None of a fact."""
    key: str | None
    good: bool


def _told(record: StubRecord) -> Told:
    envelope = parse_headers(record.headers)
    assert envelope is not None
    assert record.key is not None
    key = envelope.coalesce_key
    identity = None if key is None else (envelope.type, key.partition("|")[0])
    run = envelope.subject.run_id or ""
    return Told(record.offset, record.key, run, identity, key, record.value != b"cut")


def _replaced(record: Told, later: Sequence[Told]) -> bool:
    """Tell what becomes of a state, by looking for the next record that concerns it."""
    if record.identity is None:
        return False
    for other in later:
        if other.run == record.run and other.identity in {None, record.identity}:
            return other.key == record.key
    return False


class Model:
    """The log as a plain list, and what a viewer must be told of a range of it."""

    def __init__(self, log: Sequence[StubRecord]) -> None:
        self._log = [_told(record) for record in log]

    def wanted(self, key: ChannelKey, heard: Heard) -> list[Told]:
        run = None if key.subject is None else key.subject.run_id
        return [
            record
            for record in self._log
            if heard.prev.offset < record.offset <= heard.cursor.offset
            and record.project == b"p1"
            and run in {None, record.run}
        ]

    def check(self, key: ChannelKey, heard: Heard) -> None:
        """Check one batch."""
        wanted = self.wanted(key, heard)
        good = [record for record in wanted if record.good]
        if good == wanted:
            assert len(heard.ns) + heard.skipped == len(wanted)
            assert heard.ns == [
                record.offset
                for index, record in enumerate(wanted)
                if key.every or not _replaced(record, wanted[index + 1 :])
            ]
        facts = [record.offset for record in good if record.identity is None]
        assert [n for n in heard.ns if n in facts] == facts
        last = {(record.run, record.identity): record.offset for record in good if record.identity}
        assert set(last.values()) <= set(heard.ns)
        assert set(heard.ns) <= {record.offset for record in good}
        assert heard.ns == sorted(set(heard.ns))


class Play:
    """A node, all who ever watched it, and what can happen to them."""

    def __init__(self, journal_max_bytes: int) -> None:
        self.stage = Stage(journal_max_bytes=journal_max_bytes, cache_bytes=20_000)
        self.viewers: list[Witness] = []
        self.end = -1

    def publish(self, what: Sequence[tuple[str, str, str, bool, int, int]]) -> None:
        records = []
        for run, entity, status, good, step, padding in what:
            self.end += step
            project = "p2" if run == "other" else "p1"
            record = (
                fact(self.end, run=run, project=project, padding=padding)
                if status == "fact"
                else state(
                    self.end, status, run=run, entity=entity, project=project, padding=padding
                )
            )
            records.append(record if good else spoilt(record))
        self.stage.publish(*records)

    def subscribe(self, key: ChannelKey, back: int, room: int) -> None:
        """Watch from a place before the head, or one ahead of it that is yet to come."""
        self.viewers.append(self.stage.watch(key, place(max(-1, self.end - back)), room=room))

    def viewer(self, index: int) -> Witness | None:
        here = [viewer for viewer in self.viewers if viewer.open]
        return here[index % len(here)] if here else None

    def stall(self, index: int, room: int) -> None:
        if viewer := self.viewer(index):
            viewer.stall(room)

    def drain(self, index: int) -> None:
        if viewer := self.viewer(index):
            self.stage.drain(viewer)

    def leave(self, index: int) -> None:
        if viewer := self.viewer(index):
            self.stage.leave(viewer)

    def settle(self) -> None:
        """Serve all who are left, until they are live."""
        self.publish([("other", "a", "fact", True, 1, 0)] * 3)
        here = [viewer for viewer in self.viewers if viewer.open]
        for _ in range(3):  # those behind, then those parked, then the channel's last range
            for viewer in here:
                self.stage.drain(viewer)
            self.stage.beat()
            self.stage.catch_up()
        assert all(viewer.live for viewer in here)
        self.stage.beat()

    def check(self) -> None:
        model = Model(self.stage.log)
        for viewer in self.viewers:
            heard = viewer.heard
            assert chained(heard, viewer.began)
            if viewer.open:
                end = heard[-1].cursor if heard else viewer.began
                assert end == viewer.channel.cursor == place(self.end)
            for batch in heard:
                model.check(viewer.channel.key, batch)


_records = st.lists(
    st.tuples(
        st.sampled_from(["j1", "j1", "j2", "other"]),
        st.sampled_from("ab"),
        st.sampled_from(["A", "A", "B", "fact"]),
        st.sampled_from([True] * 9 + [False]),
        st.sampled_from([1, 1, 1, 3]),
        st.sampled_from([0] * 9 + [90_000]),
    ),
    min_size=4,
    max_size=16,
)
_room = st.sampled_from([1, 1_000_000])
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), _records),
        st.tuples(st.just("publish"), _records),
        st.tuples(st.just("subscribe"), st.sampled_from(KEYS), st.integers(-2, 40), _room),
        st.tuples(st.just("subscribe"), st.sampled_from(KEYS), st.integers(-2, 40), _room),
        st.tuples(st.just("flush"), st.sampled_from([0.0, 0.01, 60.0])),
        st.tuples(st.just("beat")),
        st.tuples(st.just("turn"), st.integers(1, 6)),
        st.tuples(st.just("turn"), st.integers(1, 6)),
        st.tuples(st.just("replay")),
        st.tuples(st.just("stall"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("stall"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("drain"), st.integers(0, 5)),
        st.tuples(st.just("leave"), st.integers(0, 5)),
    ),
    min_size=15,
    max_size=50,
)


@settings(PROPERTY, max_examples=300)
@given(_steps, st.sampled_from([30_000, 1 << 20]))
def test_any_interleaving_leaves_each_viewer_an_unbroken_chain_that_holds_all(
    steps: list[tuple[object, ...]], journal_max_bytes: int
) -> None:
    play = Play(journal_max_bytes)
    for name, *arguments in steps:
        assert isinstance(name, str)
        owner = play if hasattr(play, name) else play.stage
        getattr(owner, name)(*arguments)
    play.settle()
    play.check()

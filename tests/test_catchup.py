from collections.abc import Sequence

import pytest
from edge_viewers import (
    PARTITION,
    Skipped,
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
from memory_topic import StubRecord

from tailrace.edge.catchup import Catchup, Place, place_of
from tailrace.edge.chunk import Chunk

JOB = key_of(run="j1")
PROJECT = key_of()
FRAME_BYTES = 1 << 18


def _late(stage: Stage, *, limit: int | None = None, position: int = -1) -> Witness:
    """Return a viewer of a job who waits at a position."""
    channel = stage.hub.open(JOB, PARTITION, 0.0)
    viewer = Witness(channel, place(position), limit=limit)
    stage.hub.enter(viewer)
    return viewer


def _pass(stage: Stage, *viewers: Witness) -> Catchup:
    return Catchup(stage.hub, place_of(viewers[0]), list(viewers))


def _feed(catchup: Catchup, records: Sequence[StubRecord]) -> list[Chunk]:
    """Feed all records; return what had to be handed over on the way."""
    chunks = []
    for record in records:
        if not catchup.feed(record):
            chunk = catchup.hand_over(catchup.reached)
            assert chunk is not None
            chunks.append(chunk)
            assert catchup.feed(record), "the first one always fits"
    return chunks


def _offsets(chunk: Chunk | None) -> list[int]:
    assert chunk is not None
    return [event.offset for event in chunk.events]


def test_place_is_what_one_pass_can_serve_together() -> None:
    stage = Stage()
    viewer, other = _late(stage), _late(stage, limit=3)

    assert place_of(viewer) == Place(viewer.channel, place(-1), None)
    assert place_of(viewer) == place_of(_late(stage))
    assert place_of(other) != place_of(viewer)
    assert place_of(_late(stage, position=4)) != place_of(viewer)


# One range


def test_range_is_folded_and_delivered_to_all_in_one_chunk() -> None:
    stage = Stage()
    viewers = [_late(stage) for _ in range(3)]
    catchup = _pass(stage, *viewers)

    assert _feed(catchup, [fact(0), state(1), state(2), fact(3)]) == []
    chunk = catchup.hand_over(place(5))

    assert _offsets(chunk) == [0, 2, 3]
    for viewer in viewers:
        assert viewer.heard == [(place(-1), place(5), 1, [0, 2, 3])]
        assert viewer.position == place(5)
    assert stage.hub.counts.rendered == 3
    assert (stage.hub.counts.frames, stage.hub.counts.deliveries) == (3, 9)


def test_record_of_another_run_is_passed_and_not_decoded() -> None:
    stage = Stage()
    viewer = _late(stage)
    catchup = _pass(stage, viewer)

    _feed(catchup, [fact(0), fact(1, run="j2"), fact(2)._replace(value=None)])

    assert catchup.reached == place(2)
    assert _offsets(catchup.hand_over(catchup.reached)) == [0]
    assert stage.hub.counts.decoded == 1


def test_pass_goes_on_where_it_handed_over() -> None:
    stage = Stage()
    viewer = _late(stage)
    catchup = _pass(stage, viewer)

    for first in (0, 3, 6):
        _feed(catchup, states_of_one_key(first, 3))
        catchup.hand_over(catchup.reached)

    assert viewer.ns == [2, 5, 8]
    assert chained(viewer.heard, place(-1))
    assert catchup.prev == catchup.reached == place(8)


def test_empty_range_moves_the_cursor() -> None:
    stage = Stage()
    viewer = _late(stage)
    catchup = _pass(stage, viewer)

    assert _offsets(catchup.hand_over(place(7))) == []
    assert viewer.heard == [(place(-1), place(7), 0, [])]
    assert catchup.prev == catchup.reached == place(7)


# A range too large for a frame


def test_range_is_cut_before_it_is_folded() -> None:
    stage = Stage()
    viewer = _late(stage)
    catchup = _pass(stage, viewer)
    large = [fact(0, padding=200_000), state(1, padding=50_000)]

    cut = _feed(catchup, [*large, state(2, padding=50_000), state(3)])
    catchup.hand_over(place(3))

    # State 1 is replaced by one that is not in its frame: so it is delivered.
    assert [_offsets(chunk) for chunk in cut] == [[0, 1]]
    assert viewer.heard == [
        (place(-1), place(1), 0, [0, 1]),
        (place(1), place(3), 1, [3]),
    ]


def test_no_frame_is_larger_than_its_bound_unless_one_event_is() -> None:
    stage = Stage()
    viewer = _late(stage)
    catchup = _pass(stage, viewer)
    sizes = [100_000, 100_000, 100_000, 400_000, 10_000, 10_000]

    _feed(catchup, [fact(n, padding=size) for n, size in enumerate(sizes)])
    catchup.hand_over(catchup.reached)

    assert [heard.ns for heard in viewer.heard] == [[0, 1], [2], [3], [4, 5]]
    assert chained(viewer.heard, place(-1))


def test_states_that_replace_each_other_without_end_are_cut_too() -> None:
    stage = Stage()
    viewer = _late(stage)
    catchup = _pass(stage, viewer)

    cut = _feed(catchup, states_of_one_key(0, 10_000))

    assert len(cut) > 0, "what it remembers of them is bounded"
    assert catchup.hand_over(catchup.reached) is not None
    counted = sum(len(heard.ns) + heard.skipped for heard in viewer.heard)
    assert counted == 10_000


# A limit


def test_limit_ends_the_range_before_the_event_too_many() -> None:
    stage = Stage()
    viewer = _late(stage, limit=2)
    catchup = _pass(stage, viewer)

    assert catchup.feed(fact(0))
    assert catchup.feed(fact(1))
    assert not catchup.feed(fact(2))
    assert catchup.reached == place(1)
    assert _offsets(catchup.hand_over(catchup.reached)) == [0, 1]


def test_full_limit_still_takes_what_replaces_a_state_or_is_not_wanted() -> None:
    stage = Stage()
    catchup = _pass(stage, _late(stage, limit=2))

    assert catchup.feed(fact(0))
    assert catchup.feed(state(1))
    assert catchup.feed(state(2))
    assert catchup.feed(fact(3, run="j2"))
    assert not catchup.feed(state(4, "B"))
    assert catchup.reached == place(3)
    assert _offsets(catchup.hand_over(catchup.reached)) == [0, 2]


class _Page(Witness):
    """A viewer who takes three events altogether."""

    def deliver(self, chunk: Chunk) -> None:
        super().deliver(chunk)
        self.limit = 3 - len(self.ns)


def test_limit_counts_over_several_chunks() -> None:
    stage = Stage()
    viewer = _Page(_late(stage).channel, place(-1), limit=3)
    catchup = _pass(stage, viewer)

    _feed(catchup, [fact(0), fact(1)])
    catchup.hand_over(catchup.reached)

    assert catchup.feed(fact(2))
    assert not catchup.feed(fact(3))


# Those who cannot be served


def test_viewer_without_room_or_gone_leaves_the_pass_where_it_was() -> None:
    stage = Stage()
    viewers = gone, full, served = [_late(stage) for _ in range(3)]
    catchup = _pass(stage, *viewers)
    gone.open = False
    full.stall()

    _feed(catchup, [fact(0)])
    catchup.hand_over(place(0))

    assert catchup.viewers == [served]
    assert served.ns == [0]
    assert (gone.position, full.position) == (place(-1), place(-1))
    assert (gone.waits, full.waits, served.waits) == (0, 1, 0)
    assert stage.hub.counts.overrun == 1


def test_nothing_is_decoded_for_nobody() -> None:
    stage = Stage()
    viewer = _late(stage)
    catchup = _pass(stage, viewer)
    viewer.open = False

    _feed(catchup, [fact(0)])

    assert catchup.hand_over(place(0)) is None
    assert not catchup.careful
    assert catchup.viewers == []
    assert stage.hub.counts.decoded == 0


# A bad state


@pytest.fixture
def forgetful() -> Stage:
    """Return a node whose journal holds nothing before offset 9."""
    stage = Stage(journal_max_bytes=20_000)
    stage.publish(*(fact(n, run="other") for n in range(9)), fact(9, padding=30_000))
    assert stage.hub.journal.floor(PARTITION) == 9
    return stage


def test_bad_state_that_replaced_a_good_one_makes_the_pass_careful(forgetful: Stage) -> None:
    viewer = _late(forgetful)
    catchup = _pass(forgetful, viewer)
    records = [fact(0), state(1), state(2), spoilt(state(3)), fact(4)]

    _feed(catchup, records)
    assert catchup.hand_over(place(9)) is None
    assert catchup.careful
    assert (catchup.prev, catchup.reached) == (place(-1), place(-1))
    assert viewer.heard == []

    _feed(catchup, records)
    catchup.hand_over(place(9))
    assert viewer.heard == [(place(-1), place(9), 1, [0, 2, 4])]
    assert Skipped(PARTITION, 3, "undecodable") in forgetful.skipped


def test_bad_record_that_replaced_nothing_is_left_out_at_once(forgetful: Stage) -> None:
    viewer = _late(forgetful)
    catchup = _pass(forgetful, viewer)

    _feed(catchup, [fact(0), spoilt(state(1)), spoilt(fact(2))])
    catchup.hand_over(place(2))

    assert not catchup.careful
    assert viewer.heard == [(place(-1), place(2), 0, [0])]


def test_record_without_headers_that_cannot_be_decoded_is_passed(forgetful: Stage) -> None:
    viewer = _late(forgetful)
    catchup = _pass(forgetful, viewer)

    assert catchup.feed(spoilt(state(0, headers=False)))
    assert catchup.feed(state(1, headers=False))
    assert _offsets(catchup.hand_over(place(1))) == [1]


def test_bad_state_within_the_journal_needs_no_second_pass() -> None:
    stage = Stage()
    stage.watch(PROJECT)
    records = [state(0), state(1), spoilt(state(2))]
    stage.publish(*records)
    viewer = _late(stage)
    catchup = _pass(stage, viewer)

    _feed(catchup, records)
    catchup.hand_over(place(2))

    assert not catchup.careful
    assert viewer.heard == [(place(-1), place(2), 1, [1])]

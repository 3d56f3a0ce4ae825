from edge_viewers import Stage, Witness, fact, key_of, place, spoilt, state

from tailrace.edge.catchup import Catchup, Place, place_of


def passing(stage: Stage, *viewers: Witness) -> Catchup:
    return Catchup(stage.hub, place_of(viewers[0]), list(viewers))


def behind(stage: Stage, *, limit: int | None = None, room: int = 1 << 30) -> Witness:
    channel = stage.hub.open(key_of(), 2, 0.0)
    viewer = Witness(channel, place(-1), limit=limit, room=room)
    stage.hub.enter(viewer)
    return viewer


def test_place_is_channel_position_and_limit() -> None:
    viewer = behind(Stage(), limit=3)
    assert place_of(viewer) == Place(viewer.channel, place(-1), 3)


def test_what_was_fed_is_handed_to_all_as_one_range() -> None:
    stage = Stage()
    viewers = behind(stage), behind(stage)
    catchup = passing(stage, *viewers)
    for record in (state(0), state(1), fact(2, run="other")):
        assert catchup.feed(record)
    chunk = catchup.hand_over(place(5))
    assert chunk is not None
    assert [viewer.ns for viewer in viewers] == [[1, 2], [1, 2]]
    assert [viewer.heard[0].skipped for viewer in viewers] == [1, 1]
    assert catchup.prev == catchup.reached == viewers[0].position == place(5)


def test_record_that_does_not_fit_asks_for_the_hand_over_first() -> None:
    stage = Stage()
    catchup = passing(stage, viewer := behind(stage))
    assert catchup.feed(fact(0, padding=200_000))
    assert not catchup.feed(fact(1, padding=200_000))
    assert catchup.reached == place(0)
    catchup.hand_over(catchup.reached)
    assert catchup.feed(fact(1, padding=200_000))
    catchup.hand_over(place(1))
    assert [heard.ns for heard in viewer.heard] == [[0], [1]]


def test_those_without_room_stay_where_they_are_and_leave() -> None:
    stage = Stage()
    full, open_ = behind(stage, room=0), behind(stage)
    catchup = passing(stage, full, open_)
    catchup.feed(fact(0))
    catchup.hand_over(place(0))
    assert catchup.viewers == [open_]
    assert (full.position, full.waits, full.frames) == (place(-1), 1, [])


def test_those_who_are_gone_leave_and_without_anybody_nothing_is_decoded() -> None:
    stage = Stage()
    viewer = behind(stage)
    catchup = passing(stage, viewer)
    catchup.feed(fact(0))
    viewer.open = False
    assert catchup.hand_over(place(0)) is None
    assert stage.hub.counts.decoded == 0


def test_bad_state_makes_it_begin_again_carefully_where_the_journal_has_forgotten() -> None:
    stage = Stage(journal_max_bytes=0)
    viewer = behind(stage)
    records = [state(0), spoilt(state(1))]
    stage.publish(*records)
    catchup = passing(stage, viewer)
    for record in records:
        catchup.feed(record)
    assert catchup.hand_over(place(1)) is None
    assert catchup.careful
    assert catchup.reached == catchup.prev == place(-1)
    for record in records:
        assert catchup.feed(record)
    catchup.hand_over(place(1))
    assert viewer.ns == [0]
    assert [s.offset for s in stage.skipped] == [1, 1] or [s.offset for s in stage.skipped] == [1]

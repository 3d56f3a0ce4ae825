from edge_viewers import LOG, PARTITION, Heard, Stage, fact, key_of, place, state

from tailrace.edge.chunk import Chunk, Rendered
from tailrace.edge.dialect import Break
from tailrace.edge.page import Answer, Collector
from tailrace.edge.protocol import Gap
from tailrace.schemas import Position

JOB = key_of(run="j1")
MEGABYTE = 1 << 20


class Page:
    """A page that is asked for, and what it told."""

    def __init__(
        self, stage: Stage, position: Position, *, limit: int = 500, gap: Gap | None = None
    ) -> None:
        self.told: list[str] = []
        channel = stage.hub.open(JOB, PARTITION, stage.now)
        self.collector = Collector(
            channel,
            position,
            limit=limit,
            gap=gap,
            idle=lambda: self.told.append("idle"),
            done=lambda: self.told.append("done"),
        )
        stage.hub.enter(self.collector)
        stage.backlog.add(self.collector)

    @property
    def heard(self) -> Heard:
        chunk = self.answer.chunk
        ns = [event.offset for event in chunk.events]
        return Heard(chunk.prev, chunk.cursor, chunk.skipped, ns)

    @property
    def answer(self) -> Answer:
        assert self.told[-1:] == ["done"]
        return self.collector.answer()


def _stage(*, journal_max_bytes: int = 1 << 24) -> Stage:
    """Return a node whose project is watched, so that its journal knows of it."""
    stage = Stage(journal_max_bytes=journal_max_bytes)
    stage.watch(JOB)
    return stage


def test_page_is_all_that_there_is_after_its_cursor() -> None:
    stage = _stage()
    stage.publish(fact(0), state(1), state(2), fact(3, run="j2"))
    stage.flush()
    page = Page(stage, place(0))

    stage.catch_up()

    assert page.told == ["done"]
    assert page.heard == (place(0), place(3), 1, [2])
    assert not page.answer.more
    assert page.answer.gap is None
    assert page.answer.chunk.name == "p1/ingest/j1"


def test_limit_is_never_exceeded_and_the_next_page_goes_on_after_it() -> None:
    stage = _stage()
    stage.publish(*(fact(n) for n in range(7)))
    stage.flush()

    cursor, pages = place(-1), []
    for _ in range(3):
        page = Page(stage, cursor, limit=3)
        stage.catch_up()
        pages.append((page.heard.ns, page.answer.more))
        assert page.heard.prev == cursor
        cursor = page.heard.cursor

    assert pages == [([0, 1, 2], True), ([3, 4, 5], True), ([6], False)]
    assert cursor == place(6)


def test_full_page_takes_on_what_replaces_its_states() -> None:
    stage = _stage()
    stage.publish(fact(0), state(1), state(2), state(3), fact(4))
    stage.flush()
    page = Page(stage, place(-1), limit=2)

    stage.catch_up()

    assert page.heard == (place(-1), place(3), 2, [0, 3])
    assert page.answer.more


def test_limit_holds_over_several_chunks() -> None:
    stage = _stage()
    stage.publish(*(fact(n, padding=100_000) for n in range(6)))
    stage.flush()
    page = Page(stage, place(-1), limit=5)

    stage.catch_up()

    assert page.heard == (place(-1), place(4), 0, [0, 1, 2, 3, 4])
    assert page.collector.limit == 0


def test_page_ends_with_the_chunk_that_passes_a_megabyte() -> None:
    stage = _stage()
    stage.publish(*(fact(n, padding=100_000) for n in range(20)))
    stage.flush()
    page = Page(stage, place(-1))

    stage.catch_up()

    # Two fit a frame; ten are less than a megabyte, twelve are more.
    assert page.heard == (place(-1), place(11), 0, list(range(12)))
    assert page.answer.chunk.size >= MEGABYTE
    assert page.answer.more


def test_page_takes_nothing_more_once_it_is_done() -> None:
    stage = _stage()
    stage.publish(fact(0), fact(1))
    stage.flush()
    page = Page(stage, place(-1), limit=1)
    stage.catch_up()
    stage.backlog.add(page.collector)
    stage.publish(fact(2))
    stage.flush()

    stage.catch_up()
    page.collector.finish()

    assert page.told == ["done"]
    assert page.heard.ns == [0]


# Nothing to take yet


def test_page_without_events_waits_for_the_next_flush() -> None:
    stage = _stage()
    page = Page(stage, place(-1))
    stage.catch_up()
    assert page.told == ["idle"]
    assert not page.collector.live

    stage.publish(fact(0))
    assert page.told == ["idle"], "nothing is taken past the channel's chain"
    stage.flush()
    stage.catch_up()

    assert page.told == ["idle", "done"]
    assert page.heard == (place(-1), place(0), 0, [0])


def test_page_waits_on_while_only_others_events_come() -> None:
    stage = _stage()
    page = Page(stage, place(-1))
    stage.catch_up()

    stage.publish(fact(0, run="j2"))
    stage.beat()
    stage.catch_up()
    assert page.told == ["idle", "idle"]

    page.collector.finish()
    assert page.heard == (place(-1), place(0), 0, [])
    assert not page.answer.more


def test_finish_ends_the_wait_with_an_empty_page_and_once() -> None:
    stage = _stage()
    page = Page(stage, place(-1))
    stage.catch_up()

    page.collector.finish()
    page.collector.finish()

    assert page.told == ["idle", "done"]
    assert page.heard == (place(-1), place(-1), 0, [])


def test_there_is_more_while_something_waits_for_its_window() -> None:
    stage = _stage()
    page = Page(stage, place(-1))
    stage.catch_up()
    stage.publish(state(0))

    page.collector.finish()

    assert page.answer.more


def test_page_ahead_of_this_node_waits_for_what_comes_after_its_cursor() -> None:
    stage = _stage()
    stage.publish(fact(0))
    stage.flush()
    page = Page(stage, place(2))

    stage.catch_up()
    assert page.told == []
    stage.publish(fact(1), fact(2), fact(3))
    stage.flush()
    stage.catch_up()

    assert page.heard == (place(2), place(3), 0, [3])


# Gaps


def test_gap_of_the_request_is_told_with_the_page() -> None:
    stage = _stage()
    stage.publish(fact(0))
    stage.flush()
    page = Page(stage, place(-1), gap=Gap.RESET)

    stage.catch_up()

    assert page.answer.gap is Gap.RESET
    assert page.heard.ns == [0]


def test_gap_is_told_at_once_though_there_is_no_event_to_take() -> None:
    stage = _stage()
    stage.publish(fact(0, run="j2"))
    stage.beat()
    page = Page(stage, place(0), gap=Gap.INVALID)

    stage.catch_up()

    assert page.told == ["done"]
    assert page.answer.gap is Gap.INVALID


def test_gap_before_the_first_event_begins_the_page_behind_it() -> None:
    stage = _stage()
    stage.publish(fact(0), fact(1))
    stage.flush()
    page = Page(stage, place(-1))
    page.collector.gap = Break("", place(-1), place(0), Gap.RETENTION)

    stage.catch_up()

    assert page.answer.gap is Gap.RETENTION
    assert page.heard == (place(0), place(1), 0, [1])


def test_gap_mid_page_ends_it_before_the_gap() -> None:
    stage = _stage()
    stage.publish(fact(0), fact(1))
    stage.flush()
    page = Page(stage, place(-1))
    event = Rendered(0, 1000, 0, b"{}")
    page.collector.deliver(Chunk("", place(-1), place(0), [event]))

    page.collector.tell(Break("", place(0), place(1), Gap.RETENTION))

    assert page.answer.gap is None
    assert page.heard == (place(-1), place(0), 0, [0])
    assert page.answer.more


def test_page_past_the_replay_bound_ends_where_it_is() -> None:
    stage = _stage()
    page = Page(stage, place(-1))

    page.collector.give_up()

    assert page.heard == (place(-1), place(-1), 0, [])


def test_page_never_lacks_room() -> None:
    page = Page(_stage(), LOG.position(PARTITION, -1, -1), limit=1)

    assert not page.collector.full()
    page.collector.wait_for_room()
    assert page.told == []

from edge_viewers import Stage, fact, key_of, place, state

from tailrace.edge.chunk import Chunk, Rendered
from tailrace.edge.dialect import Break
from tailrace.edge.page import Answer, Collector
from tailrace.edge.protocol import Gap


class Asked:
    """A request that is answered on a stage."""

    def __init__(
        self, stage: Stage, after: int, *, limit: int = 100, gap: Gap | None = None
    ) -> None:
        self.idle = 0
        self.done = 0
        self.collector = Collector(
            stage.hub.open(key_of(), 2, 0.0),
            place(after),
            limit=limit,
            gap=gap,
            idle=self._idled,
            done=self._finished,
        )
        stage.seat(self.collector)

    def _idled(self) -> None:
        self.idle += 1

    def _finished(self) -> None:
        self.done += 1

    @property
    def answer(self) -> Answer:
        return self.collector.answer()

    @property
    def offsets(self) -> list[int]:
        return [event.offset for event in self.answer.chunk.events]


def test_answer_is_the_range_up_to_the_head() -> None:
    stage = Stage()
    stage.publish(state(0), state(1), fact(2))
    asked = Asked(stage, -1)
    stage.catch_up()
    assert asked.done == 1
    answer = asked.answer
    assert (answer.chunk.prev, answer.chunk.cursor) == (place(-1), place(2))
    assert (asked.offsets, answer.chunk.skipped) == ([1, 2], 1)
    assert (answer.more, answer.gap) == (False, None)


def test_limit_is_never_exceeded_and_pages_join_without_loss() -> None:
    stage = Stage()
    stage.publish(*(fact(n, padding=1000) for n in range(25)))
    found: list[int] = []
    after, pages = -1, 0
    more = True
    while more:
        asked = Asked(stage, after, limit=7)
        stage.catch_up()
        found += asked.offsets
        assert len(asked.offsets) <= 7
        after, more = asked.answer.chunk.cursor.offset, asked.answer.more
        pages += 1
    assert found == list(range(25))
    assert pages == 4


def test_limit_holds_over_several_chunks() -> None:
    stage = Stage(journal_max_bytes=1 << 24)
    stage.publish(*(fact(n, padding=100_000) for n in range(8)))
    asked = Asked(stage, -1, limit=5)
    stage.catch_up()
    assert asked.offsets == [0, 1, 2, 3, 4]
    assert asked.answer.more


def test_answer_ends_at_about_a_megabyte() -> None:
    stage = Stage(journal_max_bytes=1 << 25)
    stage.publish(*(fact(n, padding=200_000) for n in range(12)))
    asked = Asked(stage, -1)
    stage.catch_up()
    assert 1 << 20 <= asked.answer.chunk.size < 2 << 20
    assert asked.answer.more


def test_without_an_event_it_is_idle_until_the_next_one() -> None:
    stage = Stage()
    asked = Asked(stage, -1)
    assert (asked.idle, asked.done) == (1, 0)
    stage.publish(fact(0))
    stage.flush()
    stage.catch_up()
    assert (asked.offsets, asked.done) == ([0], 1)


def test_wait_that_ends_answers_with_nothing_and_a_cursor() -> None:
    stage = Stage()
    asked = Asked(stage, -1)
    asked.collector.finish()
    asked.collector.finish()
    assert (asked.done, asked.offsets, asked.answer.more) == (1, [], False)
    assert not asked.collector.open


def test_what_is_pending_is_more() -> None:
    stage = Stage()
    asked = Asked(stage, -1)
    stage.publish(state(0))
    asked.collector.finish()
    assert asked.answer.more


def test_gap_at_the_beginning_is_answered_at_once() -> None:
    asked = Asked(Stage(), -1, gap=Gap.INVALID)
    assert (asked.done, asked.idle, asked.answer.gap) == (1, 0, Gap.INVALID)


def test_gap_before_the_first_event_moves_the_beginning() -> None:
    asked = Asked(Stage(), -1)
    asked.collector.tell(Break("p1", place(-1), place(4), Gap.RETENTION))
    assert (asked.answer.gap, asked.answer.chunk.prev) == (Gap.RETENTION, place(4))


def test_gap_after_an_event_ends_the_answer_before_it() -> None:
    asked = Asked(Stage(), -1)
    event = Rendered(0, 1000, 0, b"{}")
    asked.collector.deliver(Chunk("p1", place(-1), place(0), [event]))
    asked.collector.tell(Break("p1", place(0), place(9), Gap.RETENTION))
    assert (asked.done, asked.answer.gap) == (1, None)
    assert asked.answer.chunk.cursor == place(0)


def test_one_past_the_bound_ends_where_it_is() -> None:
    asked = Asked(Stage(), -1)
    asked.collector.give_up()
    assert asked.done == 1

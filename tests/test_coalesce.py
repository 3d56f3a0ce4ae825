from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY

from tailrace.batching import Coalescer, Folded
from tailrace.schemas import Envelope, Subject, coalesce_key

JOB = Subject("ingest", "7")
RUN = Subject("workflow", "7")
PROJECT = Subject("workflow", None)

JOB_STATE = "ingest.job.updated"
RUN_STATE = "workflow.run.updated"
NODE_STATE = "workflow.node_state.updated"
FACT = "workflow.node.started"

Identity = tuple[Subject, str, str]


class Record(NamedTuple):
    """One line of a log."""

    offset: int
    envelope: Envelope
    size: int = 0

    @property
    def key(self) -> str | None:
        return self.envelope.coalesce_key

    @property
    def identity(self) -> Identity | None:
        """Whose state this is; None of a fact."""
        if self.key is None:
            return None
        return (self.envelope.subject, self.envelope.type, self.key.split("|")[0])


def _state(
    offset: int,
    status: str = "A",
    stage: str | None = None,
    *,
    entity: str | None = "7",
    type: str = NODE_STATE,  # noqa: A002
    subject: Subject = RUN,
    size: int = 0,
) -> Record:
    key = coalesce_key(entity, status, stage)
    return Record(offset, Envelope(type, subject, f"id-{offset}", key), size)


def _fact(offset: int, subject: Subject = RUN, size: int = 0) -> Record:
    return Record(offset, Envelope(FACT, subject, f"id-{offset}", None), size)


def _coalescer(*records: Record, every: bool = False) -> Coalescer[Record]:
    coalescer: Coalescer[Record] = Coalescer(every=every)
    for record in records:
        coalescer.add(record.offset, record.envelope, record, record.size)
    return coalescer


def _fold(*records: Record) -> Folded[Record]:
    return _coalescer(*records).take()


def _kept(*records: Record) -> list[int]:
    return [offset for offset, _ in _fold(*records).items]


# What replaces what


def test_newer_state_replaces_the_pending_one() -> None:
    newest = _state(3)
    assert _fold(_state(1), _state(2), newest) == ([(3, newest)], [1, 2])


def test_a_b_a_stays_a_b_a() -> None:
    assert _kept(_state(1, "A"), _state(2, "B"), _state(3, "A")) == [1, 2, 3]


def test_each_stretch_of_one_status_leaves_its_last_state() -> None:
    folded = _fold(*(_state(offset, status) for offset, status in enumerate("AABBBA")))
    assert [offset for offset, _ in folded.items] == [1, 4, 5]
    assert sorted(folded.skipped) == [0, 2, 3]


def test_another_stage_is_a_transition_too() -> None:
    assert _kept(_state(1, "A", "x"), _state(2, "A", "y"), _state(3, "A", "x")) == [1, 2, 3]


def test_run_and_node_of_one_id_never_replace_each_other() -> None:
    run, node = _state(1, type=RUN_STATE), _state(2, type=NODE_STATE)
    assert _kept(run, node) == [1, 2]
    assert _kept(run, node, _state(3, type=RUN_STATE)) == [2, 3]


def test_equal_ids_of_two_kinds_are_two_runs() -> None:
    assert _kept(_state(1, subject=RUN), _state(2, subject=JOB)) == [1, 2]


def test_entities_of_one_run_do_not_replace_each_other() -> None:
    assert _kept(_state(1, entity="a"), _state(2, entity="b"), _state(3, entity="a")) == [2, 3]


def test_separator_in_an_id_does_not_make_two_entities_one() -> None:
    assert _kept(_state(1, "A", entity="a|A"), _state(2, "A", entity="a")) == [1, 2]


def test_states_without_an_entity_are_of_the_run_as_a_whole() -> None:
    assert _kept(_state(1, entity=None), _state(2, entity="7"), _state(3, entity=None)) == [2, 3]


def test_foreign_key_of_one_part_is_an_entity() -> None:
    def foreign(offset: int, key: str) -> Record:
        return Record(offset, Envelope("shop.opened", RUN, f"id-{offset}", key))

    assert _kept(foreign(1, "x"), foreign(2, "y"), foreign(3, "x")) == [2, 3]
    assert _kept(foreign(1, "x"), foreign(2, "x|B"), foreign(3, "x")) == [1, 2, 3]


# Facts


def test_every_fact_is_kept() -> None:
    assert _kept(_fact(1), _fact(2), _fact(3)) == [1, 2, 3]


def test_fact_seals_the_states_before_it() -> None:
    assert _kept(_state(1), _fact(2), _state(3), _state(4)) == [1, 2, 4]


def test_fact_seals_every_identity_of_its_run() -> None:
    before = _state(1, entity="a"), _state(2, entity="b"), _state(3, type=RUN_STATE)
    after = _state(5, entity="a"), _state(6, entity="b"), _state(7, type=RUN_STATE)
    assert _kept(*before, _fact(4), *after) == [1, 2, 3, 4, 5, 6, 7]


def test_fact_seals_its_own_run_only() -> None:
    first, last = (_state(offset, type=JOB_STATE, subject=JOB) for offset in (1, 3))
    assert _kept(first, _fact(2, RUN), last) == [2, 3]
    assert _kept(first, _fact(2, JOB), last) == [1, 2, 3]


def test_fact_of_the_project_as_a_whole_seals_no_run() -> None:
    assert _kept(_state(1), _fact(2, PROJECT), _state(3)) == [2, 3]
    assert _kept(_state(1, subject=PROJECT), _fact(2), _state(3, subject=PROJECT)) == [2, 3]


# Order and counts


def test_state_stands_where_its_last_update_was() -> None:
    a, b = _state(1, entity="a"), _state(2, entity="b")
    assert _kept(a, b, _state(3, entity="a")) == [2, 3]
    assert _kept(a, b, _fact(3, JOB), _state(4, entity="a")) == [2, 3, 4]


def test_every_keeps_each_record() -> None:
    records = [_state(1), _state(2), _fact(3), _state(4)]
    folded = _coalescer(*records, every=True).take()
    assert folded == ([(record.offset, record) for record in records], [])


def test_size_counts_what_is_held() -> None:
    coalescer = _coalescer(_state(1, entity="a", size=10), _state(2, entity="b", size=200))
    assert (len(coalescer), coalescer.size) == (2, 210)
    coalescer.add(3, _fact(3).envelope, _fact(3), 3000)
    assert (len(coalescer), coalescer.size) == (3, 3210)


def test_size_counts_the_offset_of_a_replaced_state_instead_of_its_item() -> None:
    coalescer = _coalescer(_state(1, size=1000), _state(2, size=500))
    assert len(coalescer) == 1
    assert 500 < coalescer.size < 600


def test_stream_of_one_state_reaches_any_bound() -> None:
    coalescer = _coalescer(*(_state(offset, size=100) for offset in range(1000)))
    assert len(coalescer) == 1
    assert coalescer.size > 8 * len(coalescer.take().skipped)


def test_take_leaves_it_empty() -> None:
    coalescer = _coalescer(_state(1, size=9), _state(2, size=9))
    assert coalescer
    first = coalescer.take()
    assert not coalescer
    assert (len(coalescer), coalescer.size) == (0, 0)
    assert coalescer.take() == ([], [])
    assert [offset for offset, _ in first.items] == [2]
    assert first.skipped == [1]


def test_state_that_was_taken_is_not_replaced() -> None:
    coalescer = _coalescer(_state(1))
    coalescer.take()
    newer = _state(2)
    coalescer.add(2, newer.envelope, newer)
    assert coalescer.take() == ([(2, newer)], [])


# What the next record would replace


def test_state_replaces_its_pending_predecessor_only() -> None:
    coalescer = _coalescer(_state(1, "A", "x", entity="a"))
    assert coalescer.replaces(_state(2, "A", "x", entity="a").envelope)
    assert not coalescer.replaces(_state(2, "B", "x", entity="a").envelope)
    assert not coalescer.replaces(_state(2, "A", "y", entity="a").envelope)
    assert not coalescer.replaces(_state(2, "A", "x", entity="b").envelope)
    assert not coalescer.replaces(_state(2, "A", "x", entity="a", type=RUN_STATE).envelope)
    assert not coalescer.replaces(_state(2, "A", "x", entity="a", subject=JOB).envelope)


def test_fact_replaces_nothing_and_nothing_before_it_is_replaced() -> None:
    coalescer = _coalescer(_state(1))
    assert not coalescer.replaces(_fact(2).envelope)
    coalescer.add(2, _fact(2).envelope, _fact(2))
    assert not coalescer.replaces(_state(3).envelope)


def test_nothing_is_replaced_where_every_record_is_kept_or_what_was_pending_is_taken() -> None:
    assert not _coalescer(_state(1), every=True).replaces(_state(2).envelope)
    coalescer = _coalescer(_state(1))
    coalescer.take()
    assert not coalescer.replaces(_state(2).envelope)


# Any log


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    """Draw records of few identities, so that they meet often, at ascending offsets with holes."""
    few = st.sampled_from
    shapes = st.tuples(
        few([JOB, RUN, PROJECT]),
        few([RUN_STATE, NODE_STATE, NODE_STATE, FACT]),
        few(["a", "b", None]),
        few("AAB"),
        few([None, None, "x"]),
        st.integers(1, 3),
        st.integers(0, 100),
    )
    log: list[Record] = []
    offset = draw(st.integers(-1, 3))
    for subject, type_, entity, status, stage, step, size in draw(st.lists(shapes, max_size=30)):
        offset += step
        if type_ == FACT:
            log.append(_fact(offset, subject, size))
        else:
            log.append(
                _state(offset, status, stage, entity=entity, type=type_, subject=subject, size=size)
            )
    return log


def _is_replaced(record: Record, later: list[Record]) -> bool:
    """Tell what becomes of a state, by looking for the next record that concerns it."""
    if record.identity is None:
        return False
    for other in later:
        if other.identity is None and other.envelope.subject == record.envelope.subject:
            return False
        if other.identity == record.identity:
            return other.key == record.key
    return False


def _transitions(records: list[Record]) -> dict[Identity, list[str | None]]:
    """Return the keys that each identity went through, equal ones in a row once."""
    seen: dict[Identity, list[str | None]] = {}
    for record in records:
        if record.identity is not None:
            keys = seen.setdefault(record.identity, [])
            if keys[-1:] != [record.key]:
                keys.append(record.key)
    return seen


def _known_at_facts(records: list[Record]) -> list[tuple[int, dict[Identity, Record]]]:
    """Return what a viewer knows of a run at each of its facts."""
    known: dict[Identity, Record] = {}
    moments: list[tuple[int, dict[Identity, Record]]] = []
    for record in records:
        if record.identity is not None:
            known[record.identity] = record
        else:
            subject = record.envelope.subject
            mine = {identity: state for identity, state in known.items() if identity[0] == subject}
            moments.append((record.offset, mine))
    return moments


def _last_states(records: list[Record]) -> dict[Identity, Record]:
    return {record.identity: record for record in records if record.identity is not None}


def _items(folded: Folded[Record]) -> list[Record]:
    assert all(offset == record.offset for offset, record in folded.items)
    return [record for _, record in folded.items]


@PROPERTY
@given(logs())
def test_it_leaves_what_a_search_through_the_list_leaves(log: list[Record]) -> None:
    expected = [r for index, r in enumerate(log) if not _is_replaced(r, log[index + 1 :])]
    assert _items(_fold(*log)) == expected


@PROPERTY
@given(logs())
def test_facts_are_all_kept_and_nothing_is_reordered(log: list[Record]) -> None:
    kept = _items(_fold(*log))
    assert [r for r in kept if r.identity is None] == [r for r in log if r.identity is None]
    assert kept == sorted(kept, key=lambda record: record.offset)


@PROPERTY
@given(logs())
def test_kept_and_skipped_are_the_whole_range(log: list[Record]) -> None:
    folded = _fold(*log)
    offsets = [record.offset for record in _items(folded)] + folded.skipped
    assert sorted(offsets) == [record.offset for record in log]


@PROPERTY
@given(logs())
def test_last_state_and_every_transition_of_each_identity_are_kept(log: list[Record]) -> None:
    kept = _items(_fold(*log))
    assert _last_states(kept) == _last_states(log)
    assert _transitions(kept) == _transitions(log)


@PROPERTY
@given(logs())
def test_at_each_fact_a_viewer_knows_what_the_log_says(log: list[Record]) -> None:
    assert _known_at_facts(_items(_fold(*log))) == _known_at_facts(log)


@PROPERTY
@given(logs(), st.integers(0, 30))
def test_two_takes_lose_nothing(log: list[Record], cut: int) -> None:
    coalescer = _coalescer(*log[:cut])
    first = coalescer.take()
    for record in log[cut:]:
        coalescer.add(record.offset, record.envelope, record, record.size)
    second = coalescer.take()

    assert first == _fold(*log[:cut])
    assert second == _fold(*log[cut:])
    kept = _items(first) + _items(second)
    assert set(_items(_fold(*log))) <= set(kept)
    assert _transitions(kept) == _transitions(log)
    assert _known_at_facts(kept) == _known_at_facts(log)
    assert len(kept) + len(first.skipped) + len(second.skipped) == len(log)


@PROPERTY
@given(logs())
def test_size_is_that_of_what_is_held(log: list[Record]) -> None:
    coalescer: Coalescer[Record] = Coalescer()
    for index, record in enumerate(log):
        coalescer.add(record.offset, record.envelope, record, record.size)
        folded = _fold(*log[: index + 1])
        held = sum(r.size for r in _items(folded))
        skipped = len(folded.skipped)
        assert held + 8 * skipped <= coalescer.size <= held + 64 * skipped
        assert len(coalescer) == len(folded.items)


@PROPERTY
@given(logs(), st.booleans())
def test_replaces_foretells_what_the_next_record_does(log: list[Record], every: bool) -> None:  # noqa: FBT001
    coalescer: Coalescer[Record] = Coalescer(every=every)
    for record in log:
        foretold, before = coalescer.replaces(record.envelope), len(coalescer)
        coalescer.add(record.offset, record.envelope, record, record.size)
        assert len(coalescer) == before + (not foretold)


@PROPERTY
@given(logs())
def test_every_skips_nothing_of_any_log(log: list[Record]) -> None:
    folded = _coalescer(*log, every=True).take()
    assert (_items(folded), folded.skipped) == (log, [])

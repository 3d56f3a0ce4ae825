from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from strategies import PROPERTY

from tailrace.batching import UNKNOWN_TIMESTAMP, Journal, RunStart
from tailrace.batching.journal import _COMPACT_AT, _Place, _Tail
from tailrace.schemas import Subject

JOB = Subject("ingest", "7")
RUN = Subject("workflow", "7")


class Record(NamedTuple):
    """What is held: anything that tells its event id."""

    offset: int
    event_id: str | None = None


def _journal(max_bytes: int = 1000, max_runs: int = 100) -> Journal[Record]:
    """Return a journal of two partitions that were read from just after offset 9."""
    journal = Journal[Record](
        max_bytes=max_bytes, id_of=lambda record: record.event_id, max_runs=max_runs
    )
    for partition in 0, 1:
        journal.begin(partition, 9, 900)
    return journal


def _append(
    journal: Journal[Record],
    *offsets: int,
    event_id: str | None = None,
    project: bytes = b"p",
    partition: int = 0,
    size: int = 10,
) -> list[bool]:
    """Append records whose timestamps are 100 times their offsets."""
    return [
        journal.append(partition, offset, offset * 100, project, Record(offset, event_id), size)
        for offset in offsets
    ]


def _offsets(journal: Journal[Record], after: int = -1, project: bytes = b"p") -> list[int]:
    found = list(journal.range(project, after))
    assert all(offset == record.offset for offset, record in found)
    return [offset for offset, _ in found]


# Ranges


def test_range_begins_after_the_offset() -> None:
    journal = _journal()
    _append(journal, 10, 12, 15)
    assert _offsets(journal, 9) == [10, 12, 15]
    assert _offsets(journal, 10) == [12, 15]
    assert _offsets(journal, 11) == [12, 15]
    assert _offsets(journal, 14) == [15]
    assert _offsets(journal, 15) == []


def test_range_is_of_one_project() -> None:
    journal = _journal()
    _append(journal, 10, 12)
    _append(journal, 11, project=b"q")
    _append(journal, 10, project=b"r", partition=1)
    assert [_offsets(journal, project=p) for p in (b"p", b"q", b"r")] == [[10, 12], [11], [10]]
    assert _offsets(journal, project=b"nobody") == []


def test_partition_that_begins_anew_holds_nothing_of_before() -> None:
    journal = _journal()
    _append(journal, 10, 11)
    _append(journal, 10, project=b"r", partition=1)
    journal.begin(0, 4, 444)
    assert _offsets(journal) == []
    assert _offsets(journal, project=b"r") == [10]
    assert (journal.floor(0), journal.floor_timestamp(0), journal.head(0)) == (4, 444, (4, 444))
    assert journal.size == 10
    _append(journal, 5)
    assert _offsets(journal, 4) == [5]


# The bound


def test_oldest_records_make_room() -> None:
    journal = _journal(max_bytes=30)
    _append(journal, 10, 11, 13)
    assert (journal.size, journal.floor(0)) == (30, 9)
    _append(journal, 14)
    assert _offsets(journal) == [11, 13, 14]
    assert (journal.size, journal.floor(0), journal.floor_timestamp(0)) == (30, 10, 1000)


def test_partition_that_holds_most_makes_room() -> None:
    journal = _journal(max_bytes=50)
    _append(journal, 10, 11, 12)
    _append(journal, 10, project=b"r", partition=1, size=20)
    _append(journal, 11, project=b"r", partition=1, size=5)
    assert _offsets(journal) == [11, 12]
    assert (journal.floor(0), journal.floor(1)) == (10, 9)
    _append(journal, 12, project=b"r", partition=1, size=10)
    assert _offsets(journal, project=b"r") == [11, 12]
    assert (journal.size, journal.floor(1)) == (35, 10)


def test_record_larger_than_everything_leaves_other_partitions_alone() -> None:
    journal = _journal(max_bytes=50)
    _append(journal, 10)
    _append(journal, 10, project=b"r", partition=1, size=51)
    assert (_offsets(journal), _offsets(journal, project=b"r")) == ([10], [])
    assert (journal.size, journal.floor(1), journal.head(1)) == (10, 10, (10, 1000))


def test_journal_of_no_bytes_still_knows_its_place() -> None:
    journal = _journal(max_bytes=0)
    assert _append(journal, 10, 11) == [True, True]
    assert (journal.size, journal.floor(0), journal.head(0)) == (0, 11, (11, 1100))
    assert journal.proves(0, 11, 1100) is True


# Retries


def test_retry_of_a_watched_project_is_known_and_left_out() -> None:
    journal = _journal()
    journal.watch(b"p")
    assert _append(journal, 10, 11, 12, event_id="x") == [True, False, False]
    assert _append(journal, 13, event_id="y") == [True]
    assert _offsets(journal) == [10, 13]
    assert _offsets(journal, 10) == [13]


def test_retries_are_not_looked_for_while_nobody_watches() -> None:
    journal = _journal()
    assert _append(journal, 10, 11, event_id="x") == [True, True]
    assert _offsets(journal) == [10, 11]


def test_watching_makes_known_the_retries_that_are_held() -> None:
    journal = _journal()
    _append(journal, 10, 11, event_id="x")
    journal.watch(b"p")
    assert _offsets(journal) == [10]
    assert _append(journal, 12, event_id="x") == [False]
    journal.watch(b"p")
    assert _offsets(journal) == [10]


def test_one_id_in_two_projects_is_no_retry() -> None:
    journal = _journal()
    journal.watch(b"p")
    journal.watch(b"q")
    assert _append(journal, 10, event_id="x") == [True]
    assert _append(journal, 11, event_id="x", project=b"q") == [True]


def test_records_without_an_id_are_never_retries() -> None:
    journal = _journal()
    journal.watch(b"p")
    assert _append(journal, 10, 11) == [True, True]
    assert _offsets(journal) == [10, 11]


def test_retry_stays_one_when_the_first_is_forgotten() -> None:
    journal = _journal(max_bytes=30)
    journal.watch(b"p")
    _append(journal, 10, 11, event_id="x")
    _append(journal, 12, 13)
    assert journal.floor(0) == 10
    assert _offsets(journal) == [12, 13]


def test_retry_of_a_retry_is_known_when_the_first_is_forgotten() -> None:
    journal = _journal(max_bytes=30)
    journal.watch(b"p")
    _append(journal, 10, 11, event_id="x")
    _append(journal, 12, 13)
    assert _append(journal, 14, event_id="x") == [False]
    assert _offsets(journal) == [12, 13]


def test_reading_one_range_changes_no_other() -> None:
    journal = _journal(max_bytes=30)
    journal.watch(b"p")
    _append(journal, 10, 11, 12, 13, event_id="x")
    before = _offsets(journal, 10)
    assert _offsets(journal, 12) == []
    assert _offsets(journal, 10) == before == []


def test_id_that_is_held_no_more_is_new() -> None:
    journal = _journal(max_bytes=10)
    journal.watch(b"p")
    assert _append(journal, 10, event_id="x") == [True]
    _append(journal, 11)
    assert _append(journal, 12, event_id="x") == [True]


def test_unwatching_forgets_what_watching_made_known() -> None:
    journal = _journal()
    journal.watch(b"p")
    _append(journal, 10, 11, event_id="x")
    journal.unwatch(b"p")
    assert _offsets(journal) == [10, 11]
    assert _append(journal, 12, event_id="x") == [True]


# What it knows of positions


def test_record_held_proves_its_timestamp() -> None:
    journal = _journal()
    _append(journal, 10, 11, 12)
    assert journal.proves(0, 11, 1100) is True
    assert journal.proves(0, 11, 1101) is False
    assert journal.timestamp(0, 11) == 1100


def test_floor_and_head_are_known_without_their_records() -> None:
    journal = _journal()
    assert journal.proves(0, 9, 900) is True
    journal.advance(0, 20, 2000)
    assert (journal.head(0), journal.floor(0)) == ((20, 2000), 9)
    assert journal.proves(0, 20, 2000) is True
    assert journal.proves(0, 20, 1) is False
    assert journal.proves(0, 9, 1) is False
    assert (journal.timestamp(0, 9), journal.timestamp(0, 20)) == (900, 2000)


def test_what_is_outside_is_not_known() -> None:
    journal = _journal()
    _append(journal, 10)
    for offset in -1, 8, 11:
        assert journal.proves(0, offset, 0) is None
        assert journal.timestamp(0, offset) == UNKNOWN_TIMESTAMP


def test_place_of_a_record_that_was_not_worth_holding_is_not_denied() -> None:
    journal = _journal()
    journal.advance(0, 10, 1000)
    _append(journal, 11)
    assert journal.proves(0, 10, 1000) is None
    assert journal.timestamp(0, 10) == UNKNOWN_TIMESTAMP


def test_unknown_timestamp_proves_nothing() -> None:
    journal = _journal()
    journal.begin(0, 4, UNKNOWN_TIMESTAMP)
    assert journal.proves(0, 4, UNKNOWN_TIMESTAMP) is None
    journal.advance(0, 5, UNKNOWN_TIMESTAMP)
    assert journal.proves(0, 5, 500) is None


# Run starts


def test_first_start_of_a_run_counts() -> None:
    journal = _journal()
    journal.run_started(b"p", RUN, RunStart(0, 10))
    journal.run_started(b"p", RUN, RunStart(0, 20))
    assert journal.run_start(b"p", RUN) == (0, 10)
    assert journal.run_start(b"p", JOB) is None
    assert journal.run_start(b"q", RUN) is None


def test_run_that_nobody_asked_for_longest_is_forgotten() -> None:
    journal = _journal(max_runs=2)
    runs = [Subject("agent", run_id) for run_id in "abc"]
    journal.run_started(b"p", runs[0], RunStart(0, 10))
    journal.run_started(b"p", runs[1], RunStart(0, 11))
    journal.run_start(b"p", runs[0])
    journal.run_started(b"p", runs[2], RunStart(0, 12))
    assert [journal.run_start(b"p", run) for run in runs] == [(0, 10), None, (0, 12)]


# Memory


def _tails(journal: Journal[Record]) -> Iterator[_Tail[_Place] | _Tail[Record]]:
    yield from (log.places for log in journal._partitions.values())
    yield from (held.records for held in journal._projects.values())


def _assert_compact(tail: _Tail[_Place] | _Tail[Record]) -> None:
    forgotten = len(tail._items) - len(tail)
    assert len(tail._offsets) == len(tail._items)
    assert forgotten <= max(_COMPACT_AT, len(tail))
    assert tail._items[:forgotten] == [None] * forgotten


def test_lists_stay_as_long_as_what_is_held() -> None:
    journal = _journal(max_bytes=400)
    for offset in range(10, 10_000):
        _append(journal, offset)
        for tail in _tails(journal):
            _assert_compact(tail)
    assert len(_offsets(journal)) == 40
    assert {len(tail._items) for tail in _tails(journal)} <= set(range(81))


def test_quiet_project_among_loud_ones_keeps_no_room() -> None:
    journal = _journal(max_bytes=1000)
    _append(journal, *range(10, 110), project=b"once-loud")
    _append(journal, *range(110, 200), project=b"loud")
    held = journal._projects[b"once-loud"].records
    assert len(held) == 10
    assert len(held._items) <= 10 + _COMPACT_AT


def test_nothing_is_left_of_projects_that_are_not_held() -> None:
    journal = _journal(max_bytes=20)
    for offset in range(10, 100):
        project = f"project-{offset}".encode()
        journal.watch(project)
        _append(journal, offset, event_id=str(offset), project=project)
        journal.unwatch(project)
    assert set(journal._projects) == {b"project-98", b"project-99"}


def test_watched_project_keeps_no_ids_of_what_is_forgotten() -> None:
    journal = _journal(max_bytes=20)
    journal.watch(b"p")
    for offset in range(10, 100):
        _append(journal, offset, event_id=str(offset // 3))
    assert journal._projects[b"p"].ids == {"32": 98, "33": 99}
    assert journal._projects[b"p"].retries == {98}


# Any history

PROJECTS = {b"a": 0, b"b": 0, b"c": 1, b"d": 2}
MAX_RUNS = 3


@dataclass
class Line:
    """One record of the model's log."""

    partition: int
    timestamp_ms: int
    project: bytes
    record: Record
    size: int
    is_retry: bool = False


class Mark(NamedTuple):
    """A place in the log and its timestamp."""

    offset: int
    timestamp_ms: int


class JournalMachine(RuleBasedStateMachine):
    """A journal beside plain lists: all that was ever appended, and what of it is to be held."""

    @initialize(max_bytes=st.sampled_from([0, 50, 300, 3000]))
    def start(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.journal = Journal[Record](
            max_bytes=max_bytes, id_of=lambda record: record.event_id, max_runs=MAX_RUNS
        )
        self.log: list[Line] = []
        self.held: list[Line] = []
        self.watched: set[bytes] = set()
        self.floors: dict[int, Mark] = {}
        self.heads: dict[int, Mark] = {}
        self.runs: list[tuple[tuple[bytes, Subject], RunStart]] = []
        for partition in sorted({*PROJECTS.values()}):
            self.begin(partition, 5, 55)

    def _held_by(self, partition: int) -> int:
        return sum(line.size for line in self.held if line.partition == partition)

    def _held_of(self, project: bytes) -> list[Line]:
        return [line for line in self.held if line.project == project]

    def _known(self, partition: int, offset: int) -> int | None:
        """Return the timestamp at an offset, looked for everywhere."""
        lines = [line for line in self.held if line.partition == partition]
        places = {line.record.offset: line.timestamp_ms for line in lines}
        for mark in self.floors[partition], self.heads[partition]:
            places[mark.offset] = mark.timestamp_ms
        found = places.get(offset, UNKNOWN_TIMESTAMP)
        return None if found == UNKNOWN_TIMESTAMP else found

    @rule(
        partition=st.sampled_from([0, 1, 2]),
        offset=st.integers(-1, 50),
        timestamp_ms=st.sampled_from([UNKNOWN_TIMESTAMP, 7, 8]),
    )
    def begin(self, partition: int, offset: int, timestamp_ms: int) -> None:
        self.journal.begin(partition, offset, timestamp_ms)
        self.log = [line for line in self.log if line.partition != partition]
        self.held = [line for line in self.held if line.partition != partition]
        self.floors[partition] = self.heads[partition] = Mark(offset, timestamp_ms)

    @rule(
        project=st.sampled_from(sorted(PROJECTS)),
        step=st.integers(1, 3),
        event_id=st.none() | st.sampled_from("xyz"),
        size=st.integers(1, 40),
        count=st.sampled_from([1, 1, 2, 30, 60]),
    )
    def append(
        self, project: bytes, step: int, event_id: str | None, size: int, count: int
    ) -> None:
        for _ in range(count):
            self._append(project, step, event_id, size)

    def _append(self, project: bytes, step: int, event_id: str | None, size: int) -> None:
        partition = PROJECTS[project]
        offset = self.heads[partition].offset + step
        timestamp_ms = offset * 10 + step
        record = Record(offset, event_id)
        is_retry = (
            project in self.watched
            and event_id is not None
            and any(line.record.event_id == event_id for line in self._held_of(project))
        )
        line = Line(partition, timestamp_ms, project, record, size, is_retry)
        self.log.append(line)
        self.held.append(line)
        self.heads[partition] = Mark(offset, timestamp_ms)
        while sum(line.size for line in self.held) > self.max_bytes:
            self._evict()
        first = self.journal.append(partition, offset, timestamp_ms, project, record, size)
        assert first is not is_retry

    def _evict(self) -> None:
        fullest = max(self.floors, key=self._held_by)
        oldest = next(line for line in self.held if line.partition == fullest)
        self.held.remove(oldest)
        self.floors[fullest] = Mark(oldest.record.offset, oldest.timestamp_ms)

    @rule(
        partition=st.sampled_from([0, 1, 2]),
        step=st.integers(1, 9),
        timestamp_ms=st.sampled_from([UNKNOWN_TIMESTAMP, 7, 8]),
    )
    def advance(self, partition: int, step: int, timestamp_ms: int) -> None:
        offset = self.heads[partition].offset + step
        self.journal.advance(partition, offset, timestamp_ms)
        self.heads[partition] = Mark(offset, timestamp_ms)

    @rule(project=st.sampled_from(sorted(PROJECTS)))
    def watch(self, project: bytes) -> None:
        self.journal.watch(project)
        if project in self.watched:
            return
        self.watched.add(project)
        seen: set[str] = set()
        for line in self._held_of(project):
            event_id = line.record.event_id
            if event_id is not None:
                line.is_retry = event_id in seen
                seen.add(event_id)

    @precondition(lambda self: self.watched)
    @rule(data=st.data())
    def unwatch(self, data: st.DataObject) -> None:
        project = data.draw(st.sampled_from(sorted(self.watched)))
        self.journal.unwatch(project)
        self.watched.remove(project)
        for line in self.log:
            if line.project == project:
                line.is_retry = False

    @rule(project=st.sampled_from(sorted(PROJECTS)), after=st.integers(-1, 200))
    def read(self, project: bytes, after: int) -> None:
        assert list(self.journal.range(project, after)) == [
            (line.record.offset, line.record)
            for line in self._held_of(project)
            if line.record.offset > after and not line.is_retry
        ]

    @rule(partition=st.sampled_from([0, 1, 2]), back=st.integers(-1, 9), off=st.booleans())
    def prove(self, partition: int, back: int, off: bool) -> None:  # noqa: FBT001 - a drawn value
        offset = self.heads[partition].offset - back
        known = self._known(partition, offset)
        assert self.journal.timestamp(partition, offset) == (
            UNKNOWN_TIMESTAMP if known is None else known
        )
        claimed = (0 if known is None else known) + off
        expected = None if known is None else not off
        assert self.journal.proves(partition, offset, claimed) is expected

    @rule(
        project=st.sampled_from([b"a", b"b"]),
        subject=st.sampled_from([JOB, RUN]),
        offset=st.integers(0, 100),
    )
    def start_run(self, project: bytes, subject: Subject, offset: int) -> None:
        self.journal.run_started(project, subject, RunStart(0, offset))
        if all(run != (project, subject) for run, _ in self.runs):
            self.runs.append(((project, subject), RunStart(0, offset)))
        del self.runs[:-MAX_RUNS]

    @rule(project=st.sampled_from([b"a", b"b"]), subject=st.sampled_from([JOB, RUN]))
    def ask_for_run(self, project: bytes, subject: Subject) -> None:
        found = [entry for entry in self.runs if entry[0] == (project, subject)]
        for entry in found:
            self.runs.remove(entry)
            self.runs.append(entry)
        expected = found[0][1] if found else None
        assert self.journal.run_start(project, subject) == expected

    @invariant()
    def size_is_within_the_bound(self) -> None:
        assert self.journal.size == sum(line.size for line in self.held) <= self.max_bytes

    @invariant()
    def positions_are_those_of_the_log(self) -> None:
        for partition, floor in self.floors.items():
            assert self.journal.floor(partition) == floor.offset
            assert self.journal.floor_timestamp(partition) == floor.timestamp_ms
            assert self.journal.head(partition) == self.heads[partition]

    @invariant()
    def everything_after_the_floor_is_there(self) -> None:
        for project, partition in PROJECTS.items():
            floor = self.journal.floor(partition)
            assert [record for _, record in self.journal.range(project, floor)] == [
                line.record
                for line in self.log
                if line.project == project and line.record.offset > floor and not line.is_retry
            ]

    @invariant()
    def nothing_else_is_kept(self) -> None:
        for tail in _tails(self.journal):
            _assert_compact(tail)
        projects = self.journal._projects
        assert projects.keys() == {line.project for line in self.held} | self.watched
        for project, held in projects.items():
            lines = self._held_of(project)
            ids = {line.record.event_id for line in lines} - {None}
            assert (held.ids or {}).keys() == (ids if project in self.watched else set())
            assert held.retries == {line.record.offset for line in lines if line.is_retry}


def test_it_behaves_like_plain_lists() -> None:
    run_state_machine_as_test(JournalMachine, settings=PROPERTY)


@pytest.mark.parametrize("length", [1, _COMPACT_AT - 1, _COMPACT_AT, 5 * _COMPACT_AT])
def test_tail_gives_back_in_order_what_it_was_given(length: int) -> None:
    tail: _Tail[str] = _Tail()
    for offset in range(length):
        tail.append(2 * offset, str(offset))
    for offset in range(length):
        assert [at for at, _ in tail.after(-1)] == list(range(2 * offset, 2 * length, 2))
        assert tail.at(2 * offset) == str(offset)
        assert tail.at(2 * offset - 2) is None
        assert tail.at(2 * offset + 1) is None
        assert tail.popleft() == (2 * offset, str(offset))
    assert len(tail) == 0
    assert list(tail.after(-1)) == []

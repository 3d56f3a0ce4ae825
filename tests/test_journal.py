import gc
import tracemalloc
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from logged_record import LoggedRecord, fetch, id_of, logged
from strategies import PROPERTY

from tailrace.batching import UNKNOWN_TIMESTAMP, Block, Journal, Logged, RunStart
from tailrace.batching.journal import _BLOCK_RECORDS, _BLOCK_SHARE
from tailrace.schemas import Subject

JOB = Subject("ingest", "7")
RUN = Subject("workflow", "7")

SIZE = Block([logged(10)]).size
"""What a record of these tests costs in a block of its own."""


def _journal(max_bytes: int = 1_000_000, max_runs: int = 100) -> Journal[LoggedRecord]:
    """Return a journal of two partitions that were read from just after offset 9."""
    journal = Journal[LoggedRecord](max_bytes=max_bytes, id_of=id_of, max_runs=max_runs)
    for partition in 0, 1:
        journal.begin(partition, 9, 900)
    return journal


def _append(
    journal: Journal[LoggedRecord],
    *offsets: int,
    event_id: str | None = None,
    key: bytes | None = b"p",
    partition: int = 0,
    value: bytes | None = b"value",
) -> list[int]:
    """Append records of one key; return the offsets of those that are to be delivered."""
    fresh = [logged(offset, event_id, key, value) for offset in offsets]
    given = journal.append(partition, fresh)
    assert given.keys() <= {key}
    return [record.offset for record in given.get(key, [])]


def _offsets(
    journal: Journal[LoggedRecord], after: int = -1, key: bytes = b"p", partition: int = 0
) -> list[int]:
    return [record.offset for record in journal.range(partition, key, after)]


# Appending


def test_fetch_comes_back_by_key_and_in_order() -> None:
    records = [logged(10), logged(11, key=b"q"), logged(12), logged(14, key=None)]
    assert _journal().append(0, records) == {
        b"p": [records[0], records[2]],
        b"q": [records[1]],
        None: [records[3]],
    }


def test_empty_fetch_changes_nothing() -> None:
    journal = _journal()
    assert journal.append(0, []) == {}
    assert (journal.head(0), journal.floor(0), journal.size) == ((9, 900), 9, 0)


def test_tombstones_and_records_without_a_key_are_held_like_others() -> None:
    journal = _journal()
    assert _append(journal, 10, value=None) == [10]
    assert _append(journal, 11, key=None) == [11]
    assert journal.proves(0, 11, 1100) is True
    assert _offsets(journal) == [10]


def test_what_an_append_returned_does_not_change_with_the_next() -> None:
    journal = _journal()
    first = journal.append(0, [logged(10)])
    journal.append(0, [logged(11), logged(12, key=b"q")])
    assert first == {b"p": [logged(10)]}


def test_records_that_come_twice_are_refused() -> None:
    journal = _journal()
    _append(journal, 10, 11)
    with pytest.raises(AssertionError, match="in order"):
        _append(journal, 11)


def test_partition_that_has_not_begun_is_refused() -> None:
    with pytest.raises(KeyError):
        _append(_journal(), 10, partition=2)


# Ranges


def test_range_begins_after_the_offset() -> None:
    journal = _journal()
    _append(journal, 10, 12, 15)
    assert [_offsets(journal, after) for after in (9, 10, 11, 14, 15)] == [
        [10, 12, 15],
        [12, 15],
        [12, 15],
        [15],
        [],
    ]


def test_range_goes_through_all_blocks() -> None:
    journal = _journal(max_bytes=SIZE * 50)
    _append(journal, *range(10, 50, 2))
    _append(journal, *range(50, 60, 2))
    assert len(journal._logs[0].blocks) > 10
    for after in range(8, 62):
        assert _offsets(journal, after) == [o for o in range(10, 60, 2) if o > after]


def test_range_is_of_one_project_in_one_partition() -> None:
    journal = _journal()
    _append(journal, 10, 12)
    _append(journal, 13, key=b"q")
    _append(journal, 10, 11, key=b"q", partition=1)
    assert [_offsets(journal, key=key) for key in (b"p", b"q", b"nobody")] == [[10, 12], [13], []]
    assert _offsets(journal, key=b"q", partition=1) == [10, 11]


def test_partition_that_begins_anew_holds_nothing_of_before() -> None:
    journal = _journal()
    _append(journal, 10, 11)
    _append(journal, 10, partition=1)
    size = journal.size
    journal.begin(0, 4, 444)
    assert _offsets(journal) == []
    assert _offsets(journal, partition=1) == [10]
    assert (journal.floor(0), journal.floor_timestamp(0), journal.head(0)) == (4, 444, (4, 444))
    assert 0 < journal.size < size
    _append(journal, 5)
    assert _offsets(journal, 4) == [5]
    assert list(journal.partitions) == [0, 1]


# The bound


def test_oldest_records_make_room() -> None:
    journal = _journal(max_bytes=3 * SIZE)
    _append(journal, 10, 11, 13)
    assert (journal.size, journal.floor(0)) == (3 * SIZE, 9)
    _append(journal, 14)
    assert _offsets(journal) == [11, 13, 14]
    assert (journal.size, journal.floor(0), journal.floor_timestamp(0)) == (3 * SIZE, 10, 1000)


def test_partition_that_holds_most_makes_room() -> None:
    journal = _journal(max_bytes=5 * SIZE + 8)
    _append(journal, 10, 11, 12)
    _append(journal, 10, 11, partition=1)
    _append(journal, 12, partition=1, value=b"a little more")
    assert (_offsets(journal), _offsets(journal, partition=1)) == ([10, 11, 12], [11, 12])
    _append(journal, 13, partition=1)
    assert (journal.floor(0), journal.floor(1)) == (9, 11)


def test_record_larger_than_everything_is_delivered_and_not_held() -> None:
    journal = _journal(max_bytes=5 * SIZE)
    _append(journal, 10, 11)
    _append(journal, 10, partition=1)
    large = logged(12, value=bytes(6 * SIZE))
    assert journal.append(0, [large, logged(13)]) == {b"p": [large, logged(13)]}
    assert (_offsets(journal), _offsets(journal, partition=1)) == ([13], [10])
    assert (journal.floor(0), journal.head(0)) == (12, (13, 1300))


def test_journal_of_no_bytes_still_knows_its_place() -> None:
    journal = _journal(max_bytes=0)
    assert _append(journal, 10, 11) == [10, 11]
    assert (journal.size, journal.floor(0), journal.head(0)) == (0, 11, (11, 1100))
    assert journal.proves(0, 11, 1100) is True


def test_small_journal_forgets_in_small_steps() -> None:
    journal = _journal(max_bytes=64 * 1024)
    for start in range(10, 5010, 500):
        _append(journal, *range(start, start + 500))
    assert journal.size > 64 * 1024 * (1 - 1 / _BLOCK_SHARE)


def test_small_fetches_fill_blocks() -> None:
    journal = _journal(max_bytes=1 << 30)
    for offset in range(10, 10 + 2 * _BLOCK_RECORDS):
        _append(journal, offset)
    assert [len(block.records) for block in journal._logs[0].blocks] == [_BLOCK_RECORDS] * 2


def test_fetch_of_any_length_is_cut_into_blocks() -> None:
    journal = _journal(max_bytes=1 << 30)
    offsets = list(range(10, 10 + 3 * _BLOCK_RECORDS + 1))
    assert _append(journal, *offsets) == offsets
    assert _offsets(journal) == offsets
    assert max(len(block.records) for block in journal._logs[0].blocks) == _BLOCK_RECORDS


def _traced(journal: Journal[Logged], count: int, of: int, keys: int, value: int) -> int:
    """Fill a journal with what aiokafka makes of batches; return what that takes of memory."""
    before = tracemalloc.get_traced_memory()[0]
    for offset in range(0, count, of):
        journal.append(0, fetch(offset, of, keys=keys, value_bytes=value))
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


@pytest.mark.parametrize("value_bytes", [0, 300, 5000])
@pytest.mark.parametrize("keys", [1, 50, 3000])
@pytest.mark.parametrize("length", [20, 500])
def test_size_is_what_the_interpreter_gives_out(length: int, keys: int, value_bytes: int) -> None:
    journal = Journal[Logged](max_bytes=1 << 28, id_of=lambda _: None)
    journal.begin(0, -1, UNKNOWN_TIMESTAMP)
    gc.collect()  # empties the free lists, whose objects would not be traced
    tracemalloc.start()
    try:
        traced = _traced(journal, 1000, length, keys, value_bytes)
    finally:
        tracemalloc.stop()
    assert traced * 0.75 < journal.size < traced * 1.25


# Retries


def test_retry_of_a_watched_project_is_known_and_left_out() -> None:
    journal = _journal()
    journal.watch(0, b"p")
    assert _append(journal, 10, 11, event_id="x") == [10]
    assert _append(journal, 12, event_id="x") == []
    assert _append(journal, 13, event_id="y") == [13]
    assert _offsets(journal) == [10, 13]
    assert _offsets(journal, 10) == [13]
    assert journal.retries == 2


def test_ids_are_read_for_watched_projects_only() -> None:
    asked: list[int] = []
    journal = Journal[LoggedRecord](
        max_bytes=1_000_000, id_of=lambda record: asked.append(record.offset)
    )
    journal.begin(0, 9, 900)
    journal.watch(0, b"q")
    journal.append(0, [logged(10), logged(11, key=b"q"), logged(12)])
    journal.begin(0, 9, 900)
    assert set(asked) == {11}


def test_retries_are_not_looked_for_while_nobody_watches() -> None:
    journal = _journal()
    assert _append(journal, 10, 11, event_id="x") == [10, 11]
    assert _offsets(journal) == [10, 11]
    assert journal.retries == 0


def test_watching_makes_known_the_retries_that_are_held() -> None:
    journal = _journal()
    _append(journal, 10, 11, event_id="x")
    journal.watch(0, b"p")
    assert _offsets(journal) == [10]
    assert _append(journal, 12, event_id="x") == []
    journal.watch(0, b"p")
    assert _offsets(journal) == [10]


def test_one_id_in_two_projects_is_no_retry() -> None:
    journal = _journal()
    journal.watch(0, b"p")
    journal.watch(0, b"q")
    assert _append(journal, 10, event_id="x") == [10]
    assert _append(journal, 11, event_id="x", key=b"q") == [11]


def test_one_id_in_two_partitions_is_no_retry() -> None:
    journal = _journal()
    journal.watch(0, b"p")
    journal.watch(1, b"p")
    assert _append(journal, 10, event_id="x") == [10]
    assert _append(journal, 10, event_id="x", partition=1) == [10]


def test_retry_stays_one_when_the_first_is_forgotten() -> None:
    size = Block([logged(10, "x")]).size
    journal = _journal(max_bytes=3 * size)
    journal.watch(0, b"p")
    _append(journal, 10, 11, event_id="x")
    _append(journal, 12, 13)
    assert journal.floor(0) == 10
    assert _offsets(journal) == [12, 13]
    assert _append(journal, 14, event_id="x") == []


def test_id_that_is_held_no_more_is_new() -> None:
    journal = _journal(max_bytes=2 * SIZE)
    journal.watch(0, b"p")
    assert _append(journal, 10, event_id="x") == [10]
    _append(journal, 11, 12)
    assert journal.floor(0) == 10
    assert _append(journal, 13, event_id="x") == [13]


def test_unwatching_forgets_what_watching_made_known() -> None:
    journal = _journal()
    journal.watch(0, b"p")
    _append(journal, 10, 11, event_id="x")
    journal.unwatch(0, b"p")
    assert _offsets(journal) == [10, 11]
    assert _append(journal, 12, event_id="x") == [12]
    journal.unwatch(0, b"p")


def test_project_stays_watched_when_its_partition_begins_anew() -> None:
    journal = _journal()
    journal.watch(0, b"p")
    _append(journal, 10, event_id="x")
    journal.begin(0, 4, 444)
    assert _append(journal, 5, 6, event_id="x") == [5]


# Undeliverable records


def test_rejected_record_is_left_out_of_ranges() -> None:
    journal = _journal()
    journal.watch(0, b"p")
    _append(journal, 10, 11, 12)
    assert journal.reject(0, b"p", 11)
    assert not journal.reject(0, b"p", 11), "it is known"
    assert _offsets(journal) == [10, 12]
    journal.watch(0, b"p")
    assert _offsets(journal) == [10, 12]
    journal.unwatch(0, b"p")
    assert _offsets(journal) == [10, 11, 12]


@pytest.mark.parametrize(("key", "offset"), [(b"p", 9), (b"p", 11), (b"p", 12), (b"q", 10)])
def test_nothing_is_noted_of_a_rejected_record_that_is_not_held(key: bytes, offset: int) -> None:
    journal = _journal()
    journal.watch(0, b"p")
    _append(journal, 10)
    _append(journal, 11, key=b"q")
    assert journal.reject(0, key, offset)
    assert journal.reject(0, key, offset)
    assert _offsets(journal) == [10]
    assert journal._logs[0].watched[b"p"]._left_out == set()


# What it knows of positions


def test_record_held_proves_its_timestamp() -> None:
    journal = _journal()
    _append(journal, 10, 11, 12)
    assert journal.proves(0, 11, 1100) is True
    assert journal.proves(0, 11, 1101) is False
    assert journal.timestamp(0, 11) == 1100


def test_floor_and_head_are_known_without_their_records() -> None:
    journal = _journal(max_bytes=0)
    assert journal.proves(0, 9, 900) is True
    assert journal.proves(0, 9, 1) is False
    _append(journal, 20)
    assert (journal.head(0), journal.floor(0)) == ((20, 2000), 20)
    assert journal.proves(0, 20, 2000) is True
    assert journal.proves(0, 20, 1) is False
    assert journal.timestamp(0, 20) == 2000


def test_what_is_outside_or_between_is_not_known() -> None:
    journal = _journal()
    _append(journal, 10, 12)
    for offset in -1, 8, 11, 13:
        assert journal.proves(0, offset, 0) is None
        assert journal.timestamp(0, offset) == UNKNOWN_TIMESTAMP


def test_unknown_timestamp_proves_nothing() -> None:
    journal = _journal()
    journal.begin(0, 4, UNKNOWN_TIMESTAMP)
    assert journal.proves(0, 4, UNKNOWN_TIMESTAMP) is None
    journal.append(0, [logged(5, timestamp=UNKNOWN_TIMESTAMP), logged(6)])
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


def test_runs_of_a_partition_that_begins_anew_are_forgotten() -> None:
    journal = _journal()
    journal.run_started(b"p", RUN, RunStart(0, 10))
    journal.run_started(b"q", RUN, RunStart(1, 10))
    journal.begin(0, 4, 444)
    assert journal.run_start(b"p", RUN) is None
    assert journal.run_start(b"q", RUN) == (1, 10)


# Any history

KEYS = [b"a", b"b", None]
PROJECTS = [b"a", b"b"]
PARTITIONS = [0, 1]
MAX_RUNS = 3

partitions = st.sampled_from(PARTITIONS)
projects = st.sampled_from(PROJECTS)
shapes = st.tuples(
    st.sampled_from(KEYS),
    st.integers(1, 3),
    st.none() | st.sampled_from("xyz"),
    st.none() | st.sampled_from([0, 0, 30, 3000]),
    st.sampled_from([0, 0, 0, UNKNOWN_TIMESTAMP]),
)


@dataclass
class Line:
    """One record of the model's log."""

    record: LoggedRecord
    is_retry: bool = False
    is_rejected: bool = False

    @property
    def is_left_out(self) -> bool:
        return self.is_retry or self.is_rejected


class JournalMachine(RuleBasedStateMachine):
    """A journal beside plain lists of what its partitions hold.

    How much it forgets is its own choice: the lists are cut at its floor, which is only checked
    to be no higher than the bound asks for.
    """

    @initialize(max_bytes=st.sampled_from([0, 3000, 40_000, 1_000_000]))
    def start(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.journal = Journal[LoggedRecord](max_bytes=max_bytes, id_of=id_of, max_runs=MAX_RUNS)
        self.held: dict[int, list[Line]] = {}
        self.floors: dict[int, tuple[int, int]] = {}
        self.heads: dict[int, tuple[int, int]] = {}
        self.watched: set[tuple[int, bytes]] = set()
        self.retries = 0
        self.runs: list[tuple[tuple[bytes, Subject], RunStart]] = []
        self.returned: list[tuple[Mapping[bytes | None, Sequence[LoggedRecord]], str]] = []
        for partition in PARTITIONS:
            self.begin(partition, 5, 55)

    def _held_of(self, partition: int, key: bytes | None) -> list[Line]:
        return [line for line in self.held[partition] if line.record.key == key]

    def _known(self, partition: int, offset: int) -> int:
        """Return the timestamp at an offset, looked for everywhere."""
        places = {line.record.offset: line.record.timestamp for line in self.held[partition]}
        places.update([self.floors[partition], self.heads[partition]])
        return places.get(offset, UNKNOWN_TIMESTAMP)

    @rule(
        partition=partitions,
        offset=st.integers(-1, 50),
        timestamp_ms=st.sampled_from([UNKNOWN_TIMESTAMP, 7, 8]),
    )
    def begin(self, partition: int, offset: int, timestamp_ms: int) -> None:
        self.journal.begin(partition, offset, timestamp_ms)
        self.held[partition] = []
        self.floors[partition] = self.heads[partition] = offset, timestamp_ms
        self.runs = [(run, start) for run, start in self.runs if start.partition != partition]

    @rule(
        partition=partitions,
        drawn=st.lists(shapes, max_size=3),
        times=st.sampled_from([1, 1, 2, 10, 30]),
    )
    def append(
        self,
        partition: int,
        drawn: list[tuple[bytes | None, int, str | None, int | None, int]],
        times: int,
    ) -> None:
        offset = self.heads[partition][0]
        lines: list[Line] = []
        for key, step, event_id, value, moment in drawn * times:
            offset += step
            content = None if value is None else bytes(value)
            timestamp = moment or offset * 10 + step
            line = Line(logged(offset, event_id, key, content, timestamp))
            line.is_retry = self._is_retry(partition, line.record, lines)
            lines.append(line)
        self._check_append(partition, lines)
        if lines:
            self.heads[partition] = lines[-1].record[:2]
            self._forget({**self.held, partition: self.held[partition] + lines})

    def _is_retry(self, partition: int, record: LoggedRecord, before: list[Line]) -> bool:
        event_id = id_of(record)
        return (
            event_id is not None
            and (partition, record.key) in self.watched
            and any(
                line.record.key == record.key and id_of(line.record) == event_id
                for line in self.held[partition] + before
            )
        )

    def _check_append(self, partition: int, lines: list[Line]) -> None:
        returned = self.journal.append(partition, [line.record for line in lines])
        expected: dict[bytes | None, list[LoggedRecord]] = defaultdict(list)
        for line in lines:
            if not line.is_retry:
                expected[line.record.key].append(line.record)
        assert returned == expected
        self.retries += sum(line.is_retry for line in lines)
        assert self.journal.retries == self.retries
        self.returned = [*self.returned[-3:], (returned, repr(returned))]

    def _forget(self, lines: dict[int, list[Line]]) -> None:
        """Cut the lists at the journal's floors, and check that it needed to forget so much."""
        steps = []
        for partition, all_of_it in lines.items():
            floor = self.journal.floor(partition)
            gone = [line.record for line in all_of_it if line.record.offset <= floor]
            self.held[partition] = all_of_it[len(gone) :]
            if gone:
                self.floors[partition] = gone[-1][:2]
                steps += [self.max_bytes // _BLOCK_SHARE, *(Block([r]).size for r in gone)]
        if steps and max(steps) <= self.max_bytes:  # a larger record is not held at all
            assert self.journal.size + max(steps) > self.max_bytes

    @rule(partition=partitions, project=projects)
    def watch(self, partition: int, project: bytes) -> None:
        self.journal.watch(partition, project)
        if (partition, project) in self.watched:
            return
        self.watched.add((partition, project))
        seen: set[str] = set()
        for line in self._held_of(partition, project):
            event_id = id_of(line.record)
            if event_id is not None:
                line.is_retry = event_id in seen
                seen.add(event_id)

    @rule(partition=partitions, project=projects)
    def unwatch(self, partition: int, project: bytes) -> None:
        self.journal.unwatch(partition, project)
        self.watched.discard((partition, project))
        for line in self._held_of(partition, project):
            line.is_retry = line.is_rejected = False

    @rule(partition=partitions, project=projects, back=st.integers(-1, 20))
    def reject(self, partition: int, project: bytes, back: int) -> None:
        offset = self.heads[partition][0] - back
        self.journal.reject(partition, project, offset)
        for line in self._held_of(partition, project):
            if line.record.offset == offset and (partition, project) in self.watched:
                line.is_rejected = True

    @rule(partition=partitions, project=projects, back=st.integers(-1, 200))
    def read(self, partition: int, project: bytes, back: int) -> None:
        after = self.heads[partition][0] - back
        assert list(self.journal.range(partition, project, after)) == [
            line.record
            for line in self._held_of(partition, project)
            if line.record.offset > after and not line.is_left_out
        ]

    @rule(partition=partitions, back=st.integers(-1, 60), off=st.booleans())
    def prove(self, partition: int, back: int, off: bool) -> None:  # noqa: FBT001 - a drawn value
        offset = self.heads[partition][0] - back
        known = self._known(partition, offset)
        assert self.journal.timestamp(partition, offset) == known
        expected = None if known == UNKNOWN_TIMESTAMP else not off
        assert self.journal.proves(partition, offset, known + off) is expected

    @rule(
        project=projects,
        subject=st.sampled_from([JOB, RUN]),
        partition=partitions,
        offset=st.integers(0, 100),
    )
    def start_run(self, project: bytes, subject: Subject, partition: int, offset: int) -> None:
        start = RunStart(partition, offset)
        self.journal.run_started(project, subject, start)
        if all(run != (project, subject) for run, _ in self.runs):
            self.runs.append(((project, subject), start))
        del self.runs[:-MAX_RUNS]

    @rule(project=projects, subject=st.sampled_from([JOB, RUN]))
    def ask_for_run(self, project: bytes, subject: Subject) -> None:
        found = [entry for entry in self.runs if entry[0] == (project, subject)]
        for entry in found:
            self.runs.remove(entry)
            self.runs.append(entry)
        expected = found[0][1] if found else None
        assert self.journal.run_start(project, subject) == expected

    @invariant()
    def size_is_that_of_the_blocks_and_within_the_bound(self) -> None:
        blocks = [block for log in self.journal._logs.values() for block in log.blocks]
        assert self.journal.size == sum(Block(block.records).size for block in blocks)
        assert self.journal.size <= self.max_bytes

    @invariant()
    def positions_are_those_of_the_log(self) -> None:
        for partition in self.journal.partitions:
            floor = self.journal.floor(partition), self.journal.floor_timestamp(partition)
            assert floor == self.floors[partition]
            assert self.journal.head(partition) == self.heads[partition]

    @invariant()
    def blocks_are_what_is_held_and_no_two_would_be_one(self) -> None:
        for partition, log in self.journal._logs.items():
            held = [record for block in log.blocks for record in block.records]
            assert held == [line.record for line in self.held[partition]]
            for one, next_one in pairwise(log.blocks):
                both = len(one.records) + len(next_one.records)
                size = one.size + next_one.size
                assert both > _BLOCK_RECORDS or size > self.max_bytes // _BLOCK_SHARE

    @invariant()
    def nothing_else_is_kept(self) -> None:
        for partition, log in self.journal._logs.items():
            assert log.watched.keys() == {key for where, key in self.watched if where == partition}
            for project, watched in log.watched.items():
                lines = self._held_of(partition, project)
                assert watched._ids.keys() == {id_of(line.record) for line in lines} - {None}
                assert watched._left_out == {x.record.offset for x in lines if x.is_left_out}

    @invariant()
    def what_was_returned_stays_as_it_is(self) -> None:
        assert all(repr(returned) == text for returned, text in self.returned)


def test_it_behaves_like_plain_lists() -> None:
    run_state_machine_as_test(JournalMachine, settings=PROPERTY)

"""The spool on a real disk, and buffer and spool together against a plain list."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from structlog.testing import capture_logs
from test_outbox import Parts, draft, fact

from tailrace.producers import spool as module
from tailrace.producers.draft import DROPPED_TYPE, Draft
from tailrace.producers.lanes import Outgoing
from tailrace.producers.sequence import Sequence
from tailrace.producers.spool import Spool, sync
from tailrace.schemas import Event, decode


def record(number: int, size: int = 20) -> Outgoing:
    return Outgoing(number, b"p", b"x" * size, [("ce_id", b"%d" % number)], number)


def spool(folder: Path, *, max_bytes: int = 1 << 20, segment_bytes: int = 200) -> Spool:
    return Spool(folder / "t", max_bytes=max_bytes, segment_bytes=segment_bytes)


def ids(records: list[Outgoing]) -> list[int]:
    return [int(dict(record.headers)["ce_id"]) for record in records]


def drain(made: Spool) -> list[int]:
    found = ids(made.take(1000, 1 << 30))
    made.settle(None)
    return found


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_nothing_is_on_disk_before_the_first_record(tmp_path: Path) -> None:
    made = spool(tmp_path / "folder")
    made.adopt()
    assert not made
    assert (made.take(10, 1000), made.oldest(), made.events) == ([], None, 0)
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_records_come_back_in_order_while_more_are_written(tmp_path: Path) -> None:
    made = spool(tmp_path)
    for number in range(1, 21):
        assert made.append(record(number))
    assert made.oldest() == 1
    assert ids(made.take(7, 1 << 20)) == [1, 2, 3, 4, 5, 6, 7]
    assert made.oldest() == 8
    assert made.append(record(21))
    assert ids(made.take(100, 1 << 20)) == list(range(8, 22))
    assert made.append(record(22))
    assert ids(made.take(100, 1 << 20)) == [22]
    assert not made.unread()
    made.settle(None)
    assert (bool(made), made.bytes, made.replayed) == (False, 0, 22)


def test_segment_stays_until_kafka_has_all_of_it(tmp_path: Path) -> None:
    made = spool(tmp_path)
    for number in range(1, 11):
        made.append(record(number))
    made.take(100, 1 << 20)
    before = len(files(tmp_path))
    made.settle(1)
    assert len(files(tmp_path)) == before > 3
    made.settle(6)
    assert 1 < len(files(tmp_path)) < before
    made.settle(10)
    assert made
    made.settle(None)
    assert files(tmp_path) == ["lock"]


def test_dead_process_is_adopted_and_a_living_one_is_not(tmp_path: Path) -> None:
    dead, living, heir = spool(tmp_path), spool(tmp_path), spool(tmp_path)
    dead.append(record(1))
    dead.close()
    living.append(record(2))
    heir.append(record(7))
    heir.adopt()
    taken = heir.take(10, 1 << 20)
    assert ids(taken) == [1, 7]
    assert taken[0].ticket < 0
    heir.settle(None)
    assert drain(living) == [2]
    for made in (heir, living):
        made.close()
    assert files(tmp_path) == []


def test_dead_processes_come_in_the_order_they_began(tmp_path: Path) -> None:
    for number in range(1, 6):
        made = spool(tmp_path)
        made.append(record(number))
        made.close()
    heir = spool(tmp_path)
    heir.adopt()
    assert drain(heir) == [1, 2, 3, 4, 5]


def test_what_was_put_first_at_the_end_comes_first(tmp_path: Path) -> None:
    made = spool(tmp_path)
    for number in (3, 4):
        made.append(record(number))
    assert made.put_first([record(1), record(2)]) == 2
    made.close()
    heir = spool(tmp_path)
    heir.adopt()
    assert drain(heir) == [1, 2, 3, 4]


def test_torn_tail_and_damage_cost_only_what_they_hit(tmp_path: Path) -> None:
    made = spool(tmp_path, segment_bytes=1 << 20)
    for number in (1, 2, 3):
        made.append(record(number))
    made.close()
    (path,) = tmp_path.rglob("*.segment")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content + content[:30])
    heir = spool(tmp_path)
    heir.adopt()
    with capture_logs() as lines:
        assert drain(heir) == [1, 3]
    assert heir.lost == 1
    assert "spool_damaged" in [line["event"] for line in lines]


def test_bound_refuses_and_is_logged_once(tmp_path: Path) -> None:
    made = spool(tmp_path, max_bytes=300)
    with capture_logs() as lines:
        kept = sum(made.append(record(number)) for number in range(1, 50))
    assert 0 < kept < 10
    assert made.bytes <= 300
    assert [line["event"] for line in lines] == ["spool_full"]
    assert drain(made) == list(range(1, kept + 1))
    assert made.append(record(50))


def test_full_disk_refuses_and_leaves_no_torn_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spool(tmp_path, segment_bytes=1 << 20)
    made.append(record(1))
    pwrite = os.pwrite
    calls = []

    def full(file: int, frame: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, frame[:10], at)

    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(os, "pwrite", full)
        assert not made.append(record(2))
    assert not made.ready()
    assert [line["event"] for line in lines] == ["spool_not_writable"]
    assert made.append(record(3))
    assert drain(made) == [1, 3]
    assert made.lost == 0


def test_folder_that_cannot_be_made_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = spool(tmp_path / "file")
    made.adopt()
    assert not made.append(record(1))
    assert made.put_first([record(1)]) == 0
    made.close()
    assert not made


def test_records_count_while_their_segment_is_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spool(tmp_path)
    for number in range(1, 11):
        made.append(record(number))
    counted: list[int] = []
    read_bytes = Path.read_bytes

    def reading(path: Path) -> bytes:
        counted.append(made.events)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    assert drain(made) == list(range(1, 11))
    assert len(counted) > 3
    assert set(counted) == {10}


def test_segment_that_cannot_be_read_is_left_to_the_next_process(tmp_path: Path) -> None:
    made = spool(tmp_path)
    made.append(record(1))
    made.append(record(2))
    made.close()
    (path,) = tmp_path.rglob("*.segment")
    hidden = path.rename(path.with_suffix(".hidden"))
    path.mkdir()
    heir = spool(tmp_path)
    heir.adopt()
    assert drain(heir) == []
    heir.close()
    path.rmdir()
    hidden.rename(path)
    heir = spool(tmp_path)
    heir.adopt()
    assert drain(heir) == [1, 2]


def test_sync_is_asked_for_once_per_write_out(tmp_path: Path) -> None:
    made = spool(tmp_path)
    asked: list[str] = []
    made.on_dirty = lambda: asked.append("sync")
    for number in range(1, 100):
        made.append(record(number))
    assert asked == ["sync"]
    sync(made.unsynced())
    assert made.unsynced() != []
    made.append(record(100))
    assert asked == ["sync"] * 2
    assert drain(made) == list(range(1, 101))


def test_segments_of_a_killed_process_are_adopted_whole(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tailrace.producers.lanes import Outgoing
from tailrace.producers.spool import Spool
made = Spool(Path(sys.argv[1]) / "t", max_bytes=1 << 20, segment_bytes=500)
for number in range(1, 101):
    assert made.append(Outgoing(number, b"p", b"x", [("ce_id", b"%d" % number)], 0))
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        early = spool(tmp_path)
        early.adopt()
        assert not early
        process.send_signal(signal.SIGKILL)
    heir = spool(tmp_path)
    heir.adopt()
    assert drain(heir) == list(range(1, 101))
    heir.close()
    assert files(tmp_path) == []


class BufferAndSpool(RuleBasedStateMachine):
    """Facts through a small buffer, a spool on a disk that fills up, and an outage.

    The model is a plain list of what was emitted; what a full buffer may drop while the disk is
    full is taken out of it. Facts only: which states are let go of is the buffer's own model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.stack = ExitStack()
        self.stack.enter_context(mock.patch.object(os, "pwrite", self.pwrite))
        self.stack.enter_context(mock.patch.object(module, "_RETRY_SECONDS", 0))
        self.full = False
        self.expected: list[int] = []
        self.dropped = self.told = 0
        self.arrived: list[int] = []
        self.numbers: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
        self.emitted = self.lives = 0
        self.seen: set[str] = set()
        self.begin()

    def pwrite(self, file: int, frame: bytes, at: int) -> int:
        if self.full:
            os.lseek(file, at, os.SEEK_SET)
            os.write(file, frame[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        os.lseek(file, at, os.SEEK_SET)
        return os.write(file, frame)

    def begin(self) -> None:
        self.parts = Parts(
            max_events=4, window=6, folder=Path(self.folder.name), max_spool_bytes=1 << 20
        )
        self.parts.spool._segment_bytes = 1000
        self.lives += 1
        self.parts.outbox._sequence = Sequence(f"life{self.lives}")
        self.parts.outbox.adopt()

    def lose(self, waiting: Iterable[Draft | Event]) -> int:
        """Take out of the model what is lost, and return how many facts that is."""
        facts = [made.occurred_at for made in waiting if made.type != DROPPED_TYPE]
        self.expected = [number for number in self.expected if number not in facts]
        return len(facts)

    def buffered(self) -> list[Draft]:
        return [waiting.draft for waiting in self.parts.buffer._facts]

    @rule(count=st.integers(1, 12), project=st.sampled_from("pq"))
    def emit(self, count: int, project: str) -> None:
        for _ in range(count):
            self.emitted += 1
            self.expected.append(self.emitted)
            made = fact(self.emitted, project)
            if self.full:
                fallen: list[Draft] = [*self.buffered(), made][:-4]
                tellings = [draft for draft in fallen if draft.type == DROPPED_TYPE]
                self.dropped += self.lose(fallen) + len(tellings) - sum(map(total_of, tellings))
            self.parts.outbox.put(made)

    @rule()
    def refill(self) -> None:
        self.parts.outbox.refill()

    @rule()
    def disk_fills_up(self) -> None:
        self.full = True

    @rule()
    def disk_is_cleared(self) -> None:
        self.full = False

    @precondition(lambda self: self.parts.lanes.events)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, self.parts.lanes.events))
        self.read(count)
        self.parts.acknowledge(count)

    @precondition(lambda self: self.parts.lanes.events and not self.full)
    @rule(data=st.data())
    def write_and_end_before_the_answer(self, data: st.DataObject) -> None:
        self.read(data.draw(st.integers(0, self.parts.lanes.events)))
        self.end()

    @precondition(lambda self: not self.full)
    @rule()
    def end(self) -> None:
        assert self.parts.outbox.keep() == 0
        self.begin()

    @precondition(lambda self: self.full)
    @rule()
    def end_on_a_full_disk(self) -> None:
        first = self.parts.spool.first_own()
        direct = [
            decode(record.value)
            for record in self.parts.on_its_way()
            if record.ticket > 0 and (first is None or record.ticket < first)
        ]
        untold = self.parts.buffer.losses._untold
        lost: list[Draft | Event] = [*direct, *self.buffered()]
        left = len(lost) + len(untold)
        tellings = [made for made in lost if made.type == DROPPED_TYPE]
        self.dropped -= sum(map(total_of, tellings)) + sum(t.total() for t in untold.values())
        self.lose(lost)
        assert self.parts.outbox.keep() == left
        self.begin()

    def read(self, count: int) -> None:
        """Be an independent consumer: duplicates are told by their event id."""
        for sent in self.parts.on_its_way()[:count]:
            event = decode(sent.value)
            if event.event_id in self.seen:
                continue
            self.seen.add(event.event_id)
            run = (event.source, event.project_id, event.kind, event.run_id)
            self.numbers[run].append(event.seq)
            if event.type == DROPPED_TYPE:
                self.told += total_of(event)
            else:
                self.arrived.append(event.occurred_at)

    @invariant()
    def bounded(self) -> None:
        assert len(self.parts.buffer) <= 4

    def teardown(self) -> None:
        self.full = False
        self.end()
        while self.parts.outbox.refill() or self.parts.lanes.events:
            self.read(self.parts.lanes.events)
            self.parts.acknowledge(self.parts.lanes.events)
        self.stack.close()
        assert self.arrived == self.expected
        assert self.told == self.dropped
        for numbers in self.numbers.values():
            assert numbers == list(range(1, len(numbers) + 1))
        assert self.parts.outbox.pending() == 0
        assert self.parts.outbox.keep() == 0
        assert files(Path(self.folder.name)) == []
        self.folder.cleanup()


def total_of(made: Draft | Event) -> int:
    text = made.data if isinstance(made, Event) else made.body.json
    total = orjson.loads(text)["total"]
    assert isinstance(total, int)
    return total


TestBufferAndSpool = BufferAndSpool.TestCase
TestBufferAndSpool.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_states_are_not_worth_the_disk_but_are_kept_at_the_end_with_what_was_dropped(
    tmp_path: Path,
) -> None:
    parts = Parts(max_events=3, folder=tmp_path, max_spool_bytes=1 << 20)
    for number in range(10):
        parts.outbox.put(draft(number, project=str(number)))
    assert (parts.spool.spooled, parts.buffer.dropped) == (0, 7)
    assert parts.outbox.keep() == 0
    heir = Parts(folder=tmp_path, max_spool_bytes=1 << 20)
    heir.outbox.adopt()
    heir.outbox.refill()
    states, told = heir.events()[:3], heir.events()[3:]
    assert [event.occurred_at for event in states] == [7, 8, 9]
    assert [(event.project_id, event.type) for event in told] == [
        (str(number), DROPPED_TYPE) for number in range(7)
    ]

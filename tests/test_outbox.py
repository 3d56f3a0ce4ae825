import signal
import threading
from collections import Counter
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from tailrace.producers import outbox as module
from tailrace.producers.buffer import Buffer
from tailrace.producers.draft import Draft
from tailrace.producers.lanes import Lanes, Outgoing
from tailrace.producers.outbox import Outbox, state_key
from tailrace.producers.payload import TOO_LARGE, Body
from tailrace.producers.sequence import Sequence
from tailrace.producers.spool import Spool
from tailrace.schemas import Event, decode, encode


def draft(number: int = 0, project: str = "p", body: Body | None = None) -> Draft:
    made = body or Body("job", b'{"id":"j","n":%d}' % number)
    return Draft("ingest", "ingest.job.updated", project, number, made, None, None)


class Parts:
    def __init__(
        self,
        *,
        max_events: int = 100_000,
        window: int = 20_000,
        folder: Path = Path("/nonexistent"),
        max_spool_bytes: int = 0,
    ) -> None:
        self.buffer = Buffer(
            max_events=max_events,
            max_bytes=1 << 30,
            key_of=state_key,
        )
        self.spool = Spool(folder / "t", max_bytes=max_spool_bytes)
        self.lanes = Lanes(lambda key, count: len(key) % count, max_events=window)
        self.lanes.lay_out(1)
        self.outbox = Outbox(self.buffer, self.lanes, Sequence("src"), self.spool)

    def on_its_way(self) -> list[Outgoing]:
        return [record for lane in self.lanes.startable() for record in lane.queue]

    def events(self) -> list[Event]:
        return [decode(record.value) for record in self.on_its_way()]

    def acknowledge(self, count: int) -> None:
        (lane,) = self.lanes.startable()
        self.lanes.acknowledge(lane, count)
        self.outbox.settled()


def test_records_are_numbered_as_they_leave() -> None:
    parts = Parts()
    for number in range(3):
        parts.outbox.put(draft(number))
    parts.outbox.put(draft(3, project="q"))
    assert not parts.outbox.refill()
    assert [(e.project_id, e.source, e.seq) for e in parts.events()] == [
        ("p", "src", 1),
        ("p", "src", 2),
        ("p", "src", 3),
        ("q", "src", 1),
    ]
    assert len({e.event_id for e in parts.events()}) == 4
    assert all(e.event_id[14] == "7" for e in parts.events())


def test_dropped_events_leave_no_hole_in_the_numbers() -> None:
    parts = Parts(max_events=5)
    for number in range(20):
        parts.outbox.put(draft(number))
    parts.outbox.refill()
    assert [e.seq for e in parts.events()] == [1, 2, 3, 4, 5]
    assert [e.occurred_at for e in parts.events()] == [0, 1, 2, 18, 19]
    assert (parts.buffer.conflated, parts.buffer.dropped) == (15, 0)


def test_refill_stops_at_the_window_and_works_in_slices() -> None:
    parts = Parts(window=700)
    for number in range(1000):
        parts.outbox.put(draft(number))
    assert parts.outbox.refill()
    assert not parts.outbox.refill()
    assert parts.lanes.events == 700
    assert parts.outbox.pending() == 1000
    parts.acknowledge(700)
    parts.outbox.refill()
    assert parts.outbox.pending() == 300


def test_loop_is_woken_only_where_it_sleeps_and_by_the_first_event_only() -> None:
    parts = Parts()
    woken = Counter[str]()
    parts.outbox.wake = lambda: woken.update("w")
    parts.outbox.put(draft())
    assert woken["w"] == 0
    parts.outbox.refill()
    assert parts.outbox.sleep()
    for number in range(100):
        parts.outbox.put(draft(number))
    assert woken["w"] == 1


def test_loop_does_not_sleep_over_what_came_since_its_last_refill() -> None:
    parts = Parts()
    parts.outbox.put(draft())
    assert not parts.outbox.sleep()
    parts.outbox.refill()
    with parts.outbox._lock:
        parts.outbox.put(draft())
        assert not parts.outbox.sleep()
    parts.outbox.refill()
    assert parts.outbox.sleep()


def test_bad_event_stops_nobody_and_leaves_no_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()

    def fragile(event: Event) -> bytes:
        if event.occurred_at == 1:
            raise ZeroDivisionError
        return encode(event)

    monkeypatch.setattr(module, "encode", fragile)
    for number in range(3):
        parts.outbox.put(draft(number))
    with capture_logs() as lines:
        parts.outbox.refill()
    assert [(e.occurred_at, e.seq) for e in parts.events()] == [(0, 1), (2, 2)]
    assert parts.outbox.broken == 1
    assert [line["event"] for line in lines] == ["event_not_encoded"]


def test_reduced_bodies_and_lost_members_are_counted_and_logged_once_per_type() -> None:
    parts = Parts()
    for _ in range(3):
        parts.outbox.put(draft(body=Body("job", b"{}", omitted=TOO_LARGE)))
        parts.outbox.put(draft(body=Body(None, b"{}", lost=True)))
        parts.outbox.put(draft(body=Body(None, b"{broken")))
    with capture_logs() as lines:
        parts.outbox.refill()
    assert (parts.outbox.reduced, parts.outbox.lost_members) == (6, 3)
    assert [line["event"] for line in lines] == ["event_reduced", "reserved_members_lost"]


def test_reduced_record_keeps_its_identity() -> None:
    parts = Parts()
    parts.outbox.put(draft(body=Body("job", b'{"id":"j","blob":"%s"}' % (b"x" * 1000))))
    parts.outbox.refill()
    (record,) = parts.on_its_way()
    smaller = parts.outbox.smaller(record)
    assert smaller is not None
    before, after = decode(record.value), decode(smaller.value)
    assert after == before._replace(data=after.data)
    assert orjson.loads(after.data) == {"job": {"id": "j", "_omitted": TOO_LARGE}}
    assert parts.outbox.smaller(smaller) is None


def test_watch_ends_when_what_was_put_before_has_left() -> None:
    parts = Parts()
    parts.outbox.put(draft(1))
    parts.outbox.put(draft(2))
    done = threading.Event()
    watch = parts.outbox.watch(done.set)
    parts.outbox.refill()
    parts.outbox.put(draft(3))
    parts.outbox.refill()
    parts.acknowledge(1)
    assert not done.is_set()
    parts.acknowledge(1)
    assert done.is_set()
    parts.outbox.unwatch(watch)
    assert parts.outbox.pending() == 1


def test_watch_begun_while_the_inbox_is_emptied_waits_for_what_came_into_it_meanwhile() -> None:
    parts = Parts()
    done = threading.Event()

    class Slow(Buffer):
        """As when a draft is written to the disk: another thread puts and watches meanwhile."""

        def put(self, put: Draft) -> None:
            super().put(put)
            if put.occurred_at == 1:
                parts.outbox.put(draft(2))
                parts.outbox.watch(done.set)

    parts.outbox._buffer = Slow(max_events=10, max_bytes=1 << 20)
    assert parts.outbox.hold(0)
    parts.outbox.put(draft(1))
    parts.outbox.let_go()
    parts.outbox.refill()
    parts.acknowledge(1)
    assert not done.is_set()
    parts.outbox.refill()
    parts.acknowledge(1)
    assert done.is_set()


def test_finished_needs_both_closing_and_nothing_left() -> None:
    parts = Parts()
    assert not parts.outbox.finished()
    parts.outbox.closing = True
    assert parts.outbox.finished()
    parts.outbox.put(draft())
    assert not parts.outbox.finished()
    parts.outbox.refill()
    assert not parts.outbox.finished()
    parts.acknowledge(1)
    assert parts.outbox.finished()


def test_threads_keep_their_own_order_and_lose_nothing() -> None:
    parts = Parts()
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        for number in range(500):
            parts.outbox.put(draft(number, project=f"p{thread}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        parts.outbox.refill()
    while parts.outbox.refill():
        pass
    for number in range(8):
        mine = [e for e in parts.events() if e.project_id == f"p{number}"]
        assert [e.occurred_at for e in mine] == list(range(500))
        assert [e.seq for e in mine] == list(range(1, 501))


def test_put_inside_of_an_interrupted_put_does_not_deadlock() -> None:
    parts = Parts()
    inner = [draft(2)]

    def interrupt(_number: int, _frame: object) -> None:
        while inner:
            parts.outbox.put(inner.pop())

    class Interrupting(Buffer):
        def put(self, put: Draft) -> None:
            signal.raise_signal(signal.SIGUSR1)
            super().put(put)

    parts.outbox._buffer = Interrupting(max_events=10, max_bytes=1 << 20)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        parts.outbox.put(draft(1))
        parts.outbox.refill()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [e.occurred_at for e in parts.events()] == [1, 2]


def test_full_inbox_makes_callers_wait_instead_of_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INBOX_DRAFTS", 5)
    monkeypatch.setattr(module, "_INBOX_WAIT_SECONDS", 60)
    parts = Parts()
    assert parts.outbox.hold(0)
    for number in range(5):
        parts.outbox.put(draft(number))
    large = draft(5, body=Body("job", b'"%s"' % (b"x" * 20_000)))
    waiting = [
        threading.Thread(target=parts.outbox.put, args=(made,)) for made in (large, draft(6))
    ]
    for thread in waiting:
        thread.start()
    assert (len(parts.buffer), all(thread.is_alive() for thread in waiting)) == (0, True)
    parts.outbox.let_go()
    for thread in waiting:
        thread.join()
    assert len(parts.buffer) == 7


def test_draft_counts_at_every_moment_of_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    counted: list[int] = []

    def counting(name: str, thing: object) -> None:
        original = getattr(thing, name)

        def counted_before(*args: object) -> object:
            counted.append(parts.outbox.pending())
            result = original(*args)
            counted.append(parts.outbox.pending())
            return result

        monkeypatch.setattr(thing, name, counted_before)

    counting("put", parts.buffer)
    counting("take", parts.buffer)
    counting("add", parts.lanes)
    counting("_partition_of", parts.lanes)
    parts.outbox.put(draft())
    parts.outbox.refill()
    parts.lanes.lay_out(3)
    assert parts.outbox.pending() == 1
    assert len(counted) == 10
    assert 0 not in counted


def test_event_that_comes_after_the_end_is_counted_as_dropped() -> None:
    parts = Parts()
    assert parts.outbox.keep() == 0
    with capture_logs() as lines:
        parts.outbox.put(draft())
    assert (parts.buffer.dropped, parts.outbox.pending()) == (1, 0)
    assert [line["event"] for line in lines] == ["events_dropping"]


def fact(number: int, project: str = "p") -> Draft:
    return draft(number, project)._replace(type="ingest.job.completed")


def test_facts_beyond_the_buffer_pass_through_the_spool_in_order(tmp_path: Path) -> None:
    parts = Parts(max_events=10, folder=tmp_path, max_spool_bytes=1 << 20)
    for number in range(5):
        parts.outbox.put(fact(number))
    parts.outbox.refill()
    for number in range(5, 100):
        parts.outbox.put(fact(number))
    assert (parts.spool.spooled, len(parts.buffer)) == (85, 10)
    parts.outbox.refill()
    parts.outbox.put(fact(100))
    assert parts.spool.spooled == 86
    done = threading.Event()
    watch = parts.outbox.watch(done.set)
    seen = parts.events()
    while parts.lanes.events:
        parts.acknowledge(parts.lanes.events)
        parts.outbox.refill()
        seen += parts.events()
    assert watch.reached
    assert [e.occurred_at for e in seen] == list(range(101))
    assert [e.seq for e in seen] == list(range(1, 102))
    assert (parts.outbox.pending(), parts.spool.bytes, parts.spool.replayed) == (0, 0, 86)


def test_what_is_kept_at_the_end_is_adopted_in_order(tmp_path: Path) -> None:
    parts = Parts(max_events=10, folder=tmp_path, max_spool_bytes=1 << 20)
    for number in range(5):
        parts.outbox.put(fact(number))
    parts.outbox.refill()
    direct = parts.events()
    for number in range(5, 50):
        parts.outbox.put(fact(number))
    assert parts.outbox.keep() == 0
    later = Parts(folder=tmp_path, max_spool_bytes=1 << 20)
    later.outbox.adopt()
    later.outbox.put(fact(50))
    done = threading.Event()
    watch = later.outbox.watch(done.set)
    later.outbox.refill()
    replayed = later.events()
    assert replayed[:5] == direct
    assert [e.occurred_at for e in replayed] == list(range(50))
    assert [e.seq for e in replayed] == list(range(1, 51))
    later.acknowledge(49)
    later.outbox.refill()
    assert not done.is_set()
    later.acknowledge(1)
    later.outbox.refill()
    assert [(e.occurred_at, e.seq) for e in later.events()] == [(50, 1)]
    later.acknowledge(1)
    assert watch.reached
    assert later.outbox.keep() == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_full_spool_refuses_and_the_numbers_stay_dense(tmp_path: Path) -> None:
    parts = Parts(max_events=5, folder=tmp_path, max_spool_bytes=2000)
    for number in range(30):
        parts.outbox.put(fact(number))
    spooled = parts.spool.spooled
    assert 0 < spooled < 10
    assert parts.buffer.dropped == 25 - spooled
    seen: list[Event] = []
    while parts.outbox.refill() or parts.lanes.events:
        seen += parts.events()
        parts.acknowledge(parts.lanes.events)
    told = seen.pop()
    assert [e.occurred_at for e in seen] == [*range(spooled), *range(25, 30)]
    assert [e.seq for e in seen] == list(range(1, len(seen) + 1))
    assert (told.type, told.kind, told.project_id) == ("tailrace.events.dropped", "custom", "p")
    lost = 25 - spooled
    assert orjson.loads(told.data) == {"dropped": {"ingest.job.completed": lost}, "total": lost}


def test_what_the_spool_does_not_take_at_the_end_is_told(tmp_path: Path) -> None:
    parts = Parts(folder=tmp_path, max_spool_bytes=0)
    for number in range(3):
        parts.outbox.put(fact(number))
    parts.outbox.refill()
    parts.outbox.put(fact(3))
    assert parts.outbox.keep() == 4

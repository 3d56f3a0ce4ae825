"""Between the callers' threads and the background loop: what waits, and what is on its way."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog
import uuid_utils

from tailrace.logs import RateLimit
from tailrace.producers.buffer import Buffer, StateKey, Waiting
from tailrace.producers.draft import Draft, complete, dropped_draft, run_of
from tailrace.producers.found import Found, find
from tailrace.producers.lanes import Lanes, Outgoing
from tailrace.producers.payload import TOO_LARGE, reduced_json
from tailrace.producers.sequence import RunKey, Sequence
from tailrace.producers.spool import Spool
from tailrace.schemas import Event, coalesce_key, decode, encode, headers_of

__all__ = ["Outbox", "Watch", "state_key"]

_SLICE = 500
"""Events encoded before the loop gets a turn: some 10 ms."""
_LOG_PERIOD = 60.0
_INBOX_DRAFTS = 1000
_INBOX_DRAFT_BYTES = 16 << 10
_INBOX_WAIT_SECONDS = 0.25

_log = structlog.get_logger("tailrace.producers")


class Watch:
    """Someone who waits until everything up to a ticket has left.

    Args:
        done: Called once, on the background thread, when it has, or when that thread ends.
    """

    __slots__ = ("done", "reached", "target")

    def __init__(self, done: Callable[[], object]) -> None:
        self.done = done
        self.reached = False
        """Whether it has left; not so when the background thread has ended instead."""
        self.target: int | None = None
        """Set by the background loop, which sees everything that was put before."""


class Outbox:
    """Takes drafts from any thread and hands them on as records, in the order they were put.

    `put` leaves its draft in an inbox, and whoever holds the lock at that moment moves it on. So it
    may be called from a signal handler or a finalizer that interrupts another `put`. The inbox is
    bounded: past 1000 drafts, and with a draft of more than 16 KiB, `put` waits for the lock, which
    is held while a fact is written to the spool or a slice is encoded; a quarter of a second at
    most.

    The loop looks into the inbox every now and then while there is traffic, so that most calls cost
    no system call; `put` wakes it where it has said by `sleep` that it will not look.

    Order: what is in the lanes is older than what is in the spool, and that is older than what is
    in the buffer. So while the spool holds anything that Kafka does not have, the lanes are filled
    from there only.

    Args:
        buffer: Bounds what waits; see there for what happens when it is full. Its facts are
            spilled to here.
        lanes: Bounds what is on its way.
        sequence: Numbers what leaves the buffer.
        spool: Takes the facts that the buffer cannot hold.
    """

    def __init__(self, buffer: Buffer, lanes: Lanes, sequence: Sequence, spool: Spool) -> None:
        self._buffer = buffer
        buffer.spill = self.spill
        self._lanes = lanes
        self._sequence = sequence
        self._spool = spool
        self._inbox: deque[Draft] = deque()
        self._lock = threading.Lock()
        self._moving = 0
        self._watches: dict[Watch, None] = {}
        self._asleep = False
        self._seen = 0
        """Drafts that the last refill has seen."""
        self._limit = RateLimit(_LOG_PERIOD)
        self.wake: Callable[[], None] = _nobody
        """Called from any thread when there is something to send and the loop may not know."""
        self.closing = False
        """Whether nothing more will be put."""
        self._kept = False
        self.reduced = 0
        self.lost_members = 0
        self.broken = 0
        """Drafts that could not be made a record: never expected, each logged."""

    def put(self, draft: Draft) -> None:
        """Take a draft."""
        inbox = self._inbox
        inbox.append(draft)
        full = len(inbox) > _INBOX_DRAFTS or len(draft.body.json) > _INBOX_DRAFT_BYTES
        self._absorb(_INBOX_WAIT_SECONDS if full else 0)
        if self._asleep:
            self._asleep = False
            self.wake()

    def sleep(self) -> bool:
        """Have the next `put` wake the loop; False: something was put since the last refill."""
        self._asleep = True
        # In this order: a `put` from here on sees the flag, and one before is seen below.
        if self._inbox or self._buffer.accepted != self._seen:
            self._asleep = False
        return self._asleep

    def pending(self) -> int:
        """Return how many drafts and records are neither acknowledged nor given up.

        Asked for by any thread at any moment: whatever moves is counted in its new place before it
        leaves the old one. What is being replayed from the spool counts twice all the while.
        """
        waiting = len(self._inbox) + len(self._buffer) + self._moving
        return waiting + self._lanes.events + self._spool.events

    def watch(self, done: Callable[[], object]) -> Watch:
        """Return a watch on everything that was put before; `unwatch` it in the end."""
        watch = Watch(done)
        self._watches[watch] = None
        self.wake()
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Forget a watch."""
        self._watches.pop(watch, None)

    # What the uplink asks for, on its own thread.

    def refill(self) -> bool:
        """Move what waits into the lanes, one slice of it; True: more waits and fits."""
        with self._lock:
            # Before the inbox is emptied: what is put meanwhile stays in it for the next time.
            begun = [watch for watch in list(self._watches) if watch.target is None]
            self._empty_inbox()
            self._seen = self._buffer.accepted
            for watch in begun:
                watch.target = self._buffer.accepted
            moved = self._replay() if self._spool else self._encode()
        self.settled()
        return moved == _SLICE and all(self._lanes.room())

    def _encode(self) -> int:
        while self._buffer.losses.untold() and not self._buffer.pressed:
            self._tell_losses()
        room, room_bytes = self._lanes.room()
        self._moving = min(room, _SLICE)
        taken = self._buffer.take(self._moving, room_bytes) if room_bytes else []
        self._moving = len(taken)
        for waiting in taken:
            record = self._record(waiting)
            if record is not None:
                self._lanes.add(record)
            self._moving -= 1
        return len(taken)

    def _replay(self) -> int:
        room, room_bytes = self._lanes.room()
        taken = self._spool.take(min(room, _SLICE), room_bytes)
        for record in taken:
            self._lanes.add(record)
        if not self._spool.unread():
            self._spool.settle(self._lanes.oldest())
        return len(taken)

    def _tell_losses(self) -> None:
        """Emit to a project what of it was dropped."""
        project, dropped = self._buffer.losses.tell()
        _log.warning("events_dropped", project=project, **dropped)
        now = time.time_ns() // 1000
        self._buffer.put(dropped_draft(project, dropped, occurred_at=now))

    def settled(self) -> None:
        """Let go of what Kafka has, and wake the watches whose events have all left."""
        if not self._watches and not self._spool:
            self._absorb()
            return
        with self._lock:
            on_its_way = self._lanes.oldest()
            self._spool.settle(on_its_way)
            places = (on_its_way, self._spool.oldest(), self._buffer.oldest())
        self._absorb()
        oldest = min((ticket for ticket in places if ticket is not None), default=None)
        for watch in list(self._watches):
            if watch.target is not None and (oldest is None or watch.target < oldest):
                watch.reached = True
                self.unwatch(watch)
                watch.done()

    # What is kept on disk.

    def adopt(self) -> None:
        """Take over what dead processes left in the spool; it is sent before anything else."""
        with self._lock:
            self._spool.adopt()
        self._absorb()

    def spill(self, waiting: Waiting) -> bool:
        """Put a fact that the buffer cannot hold into the spool; called by the buffer."""
        if not self._spool.ready():
            return False
        record, run = self._record_and_run(waiting)
        if record is None:
            return True
        kept = self._spool.append(record)
        if not kept:
            self._sequence.take_back(run)
        return kept

    def hold(self, timeout: float) -> bool:
        """Keep every thread from buffer and spool, for a fork; `let_go` where it is True."""
        return self._lock.acquire(timeout=timeout)

    def let_go(self) -> None:
        """Undo a `hold`."""
        self._lock.release()

    def unsynced(self) -> list[int]:
        """Return the spool's files that are to be synced."""
        with self._lock:
            files = self._spool.unsynced()
        self._absorb()
        return files

    def keep(self) -> int:
        """Put all that is not acknowledged into the spool: nothing will be sent any more.

        Returns:
            How many events the spool did not take.
        """
        with self._lock:
            self._empty_inbox()
            first = self._spool.first_own()
            direct = [r for r in self._lanes.held() if r.ticket > 0]
            direct = [r for r in direct if first is None or r.ticket < first]
            left = len(direct) - self._spool.put_first(direct)
            rest = self._buffer.take(len(self._buffer), 1 << 62)
            while self._buffer.losses.untold():
                self._tell_losses()
                rest += self._buffer.take(1, 1 << 62)
            for waiting in rest:
                record = self._record(waiting)
                left += record is not None and not self._spool.append(record)
            self._spool.close()
            self._kept = True
        self._absorb()
        return left

    def release(self) -> None:
        """End all watches: nothing will be sent any more."""
        for watch in list(self._watches):
            self.unwatch(watch)
            watch.done()

    def finished(self) -> bool:
        """Tell whether nothing is left to send, nor ever will be."""
        return self.closing and not self.pending()

    def smaller(self, record: Outgoing) -> Outgoing | None:
        """Return the record reduced to its ids; None when that makes it no smaller."""
        event = decode(record.value)
        event = event._replace(data=reduced_json(event.data, TOO_LARGE))
        value = encode(event)
        return record._replace(value=value) if len(value) < len(record.value) else None

    def _absorb(self, wait: float = 0) -> None:
        """Move the inbox into the buffer, unless someone else holds the lock for `wait` seconds.

        What comes in between is moved by the next `put` or refill: nobody serves the others for
        ever.
        """
        if self._inbox and self._lock.acquire(timeout=wait):
            try:
                self._empty_inbox()
            finally:
                self._lock.release()

    def _empty_inbox(self) -> None:
        """Move what is in the inbox by now; after `keep` it is too late for that."""
        inbox, buffer = self._inbox, self._buffer
        for _ in range(len(inbox)):
            draft, lost = inbox[0], buffer.dropped
            try:
                if self._kept:
                    buffer.losses.add(draft.project_id, draft.type)
                else:
                    buffer.put(draft)
            finally:
                inbox.popleft()
            if buffer.dropped != lost:
                self._warn("events_dropping", draft.type, buffered=len(buffer))

    def _record(self, waiting: Waiting) -> Outgoing | None:
        return self._record_and_run(waiting)[0]

    def _record_and_run(self, waiting: Waiting) -> tuple[Outgoing | None, RunKey]:
        draft = waiting.draft
        run: RunKey = (draft.project_id, draft.kind, None)
        try:
            found = find(draft.type, draft.body)
            self._note(draft, found)
            run = run_of(draft, found)
            return self._encoded(waiting, found, run), run
        except Exception:  # noqa: BLE001 - one bad event must not stop those behind it
            self.broken += 1
            _log.exception("event_not_encoded", type=draft.type)
            return None, run

    def _encoded(self, waiting: Waiting, found: Found, run: RunKey) -> Outgoing:
        draft = waiting.draft
        source, seq = self._sequence.next(run)
        try:
            event = complete(
                draft, found, run, event_id=str(uuid_utils.uuid7()), source=source, seq=seq
            )
            return _outgoing(waiting.ticket, event, draft.traceparent)
        except BaseException:
            self._sequence.take_back(run)
            raise

    def _note(self, draft: Draft, found: Found) -> None:
        if draft.body.omitted or found.reduced:
            self.reduced += 1
            self._warn("event_reduced", draft.type, reason=draft.body.omitted or "not_json")
        if draft.body.lost:
            self.lost_members += 1
            self._warn("reserved_members_lost", draft.type)

    def _warn(self, event: str, event_type: str, **fields: object) -> None:
        # Logging runs the host's own handlers and streams, which may fail as well.
        with suppress(Exception):
            held = self._limit.allow((event, event_type), time.monotonic())
            if held is not None:
                _log.warning(event, type=event_type, more=held, **fields)


def state_key(draft: Draft) -> StateKey:
    """Return what decides whether a state may stand for another: see `Buffer`."""
    found = find(draft.type, draft.body)
    run = run_of(draft, found)
    entity = found.entity_id or run[2]
    value = coalesce_key(entity, found.status, found.stage)
    return StateKey(run, (draft.type, entity), value)


def _nobody() -> None:
    """Nobody to wake yet."""


def _outgoing(ticket: int, event: Event, traceparent: str | None) -> Outgoing:
    return Outgoing(
        ticket=ticket,
        key=event.project_id.encode(),
        value=encode(event),
        headers=headers_of(event, traceparent),
        timestamp_ms=event.occurred_at // 1000,
    )

"""Expectation and recording -> what was lost, repeated, reordered or made up. Pure.

A viewer's life is cut into stretches: from its first position, and after each explicit gap from
where the gap says that the stream goes on, to the next gap or the end. In a stretch nothing is
exempt: through all drops and resumes, on whatever node, each required record comes exactly once, in
ascending offset, and every cursor stands where it says.
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from verifier.dialects import Batch, Closed, Dialect, Failed, Frame, Gap, Seen, Subscribed, locate
from verifier.expectation import Expectation, Expected
from verifier.recording import Connection, Recording

__all__ = ["Fault", "Verdict", "Violation", "faults", "judge"]


class Fault(StrEnum):
    """What can be wrong."""

    LOST_FACT = "a fact did not come"
    LOST_STATE = "a state did not come, and none that may stand for it"
    HELD_BACK = "a state of the frame's range is neither in it nor replaced by one that is"
    REPEATED = "an event came again"
    REORDERED = "an event came after a later one"
    FOREIGN = "an event that the channel's log does not hold, or not like that"
    MISCOUNTED = "events and skipped are not the number of records in the range"
    BROKEN_CHAIN = "prev is not the cursor before it"
    BAD_CURSOR = "a cursor that does not stand where its events do"
    BAD_RESUME = "a resume that does not go on after the given cursor"
    UNFINISHED = "the viewer did not see what was written last"
    FAILED = "an error, a message of no known form, or a close that forbids to come back"


class Violation(NamedTuple):
    """One thing that is wrong."""

    viewer: str
    fault: Fault
    detail: str


class Verdict(NamedTuple):
    """What a recording shows."""

    violations: list[Violation]
    gaps: list[str]
    """Reasons of the explicit gaps; what they cover is exempt."""
    delivered: int
    """Events."""
    skipped: int
    """Required to be accounted for, but not delivered: newer states stood for them."""
    retried: int
    """Events that came again, legally: a retry whose original the viewer had before it resumed."""
    facts: int
    """Of the events."""
    resumes: int
    """Connections that went on after a cursor."""
    dialect: Dialect


MAX_VIOLATIONS: Final = 50
"""Told per viewer; the rest would say the same."""

_FINAL_CLOSES: Final = range(4500, 5000)
_BEGINNING: Final = -1


def judge(expectation: Expectation, recording: Recording) -> Verdict:
    """Return what is wrong with what a viewer recorded.

    The log must lie inside the replay bound: ``from=start`` on a project is judged from the log's
    beginning.
    """
    life = _Life(expectation, recording)
    for connection in recording.connections:
        life.live(connection)
    life.end()
    violations = life.violations[:MAX_VIOLATIONS]
    return Verdict(
        violations,
        life.gaps,
        life.delivered,
        life.skipped,
        life.retried,
        life.facts,
        sum(connection.after is not None for connection in recording.connections),
        recording.dialect,
    )


class _Life:
    """Follows a recording from its first frame to its last."""

    def __init__(self, expectation: Expectation, recording: Recording) -> None:
        self.violations: list[Violation] = []
        self.gaps: list[str] = []
        self.delivered = self.skipped = self.retried = self.facts = 0
        self._log = expectation
        self._recording = recording
        self._from_start = recording.watch.start == "start"
        self._start: int | None = _BEGINNING if self._from_start else None
        """Where the stretch begins; None until anything tells."""
        self._upto = _BEGINNING
        """Everything up to here has come, or never will."""
        self._since = _BEGINNING
        """Where the subscription begins."""
        self._known = _BEGINNING
        """A retry of anything after it must be dropped: where the subscription begins, or the
        frame, for between two frames a forgetful node may turn to the log and read on there."""
        self._cursor: str | None = None
        self._came: set[int] = set()
        """Offsets that came in this stretch."""

    def live(self, connection: Connection) -> None:
        """Follow one connection."""
        if connection.after != self._cursor:
            self._wrong(Fault.BAD_RESUME, f"the client gave {connection.after}: not its last")
        self._since = self._known = self._upto
        v1 = self._recording.dialect == "v1"
        if v1 and connection.frames and isinstance(connection.frames[0], Batch | Gap):
            self._wrong(Fault.FAILED, "frames before the answer to subscribe")
        for frame in connection.frames:
            self._frame(frame, connection.after)

    def end(self) -> None:
        """Judge what the life as a whole must have shown."""
        self._close_stretch(self._upto, mercy=False)
        if self._recording.end != "marker":
            self._wrong(Fault.UNFINISHED, f"{self._recording.end} after offset {self._upto}")

    def _frame(self, frame: Frame, after: str | None) -> None:
        if self._log.forgetful:
            self._known = self._upto
        match frame:
            case Subscribed():
                self._subscribed(frame, after)
            case Batch(prev=None):
                self._single(frame)
            case Batch():
                self._batch(frame, frame.prev or "")
            case Gap():
                self._gap(frame)
            case Closed(code, reason):
                if code in _FINAL_CLOSES:
                    self._wrong(Fault.FAILED, f"closed with {code} {reason}")
            case Failed(what):
                self._wrong(Fault.FAILED, what)

    def _subscribed(self, frame: Subscribed, after: str | None) -> None:
        name = frame.channel.partition("?")[0]
        if name != self._recording.watch.channel:
            self._wrong(Fault.FOREIGN, f"the channel's name is {frame.channel}")
        if frame.gap is not None:
            self._open_stretch(frame.cursor, frame.gap)
        elif after is not None and (frame.cursor != after or not frame.resumed):
            self._wrong(Fault.BAD_RESUME, f"{frame} after {after}")
        elif after is None:
            self._begin(self._place(frame.cursor))
        self._cursor = frame.cursor

    def _begin(self, offset: int) -> None:
        """Take the position that a first subscription names."""
        if self._from_start:
            if self._log.between(_BEGINNING, offset):
                self._wrong(Fault.BAD_CURSOR, f"from=start begins at {offset}")
        elif self._start is None:
            self._start = offset
        self._upto = self._since = self._known = max(self._upto, offset)

    def _gap(self, frame: Gap) -> None:
        self._chain(frame.prev)
        self._open_stretch(frame.cursor, frame.reason)

    def _open_stretch(self, cursor: str, reason: str) -> None:
        self._close_stretch(self._upto, mercy=True)
        self.gaps.append(reason)
        self._start = self._upto = self._since = self._known = self._place(cursor)
        self._cursor = cursor

    def _single(self, frame: Batch) -> None:
        """Follow an event with its own cursor, or a cursor that moves alone."""
        before = self._upto
        for seen in frame.events:
            self._event(seen)
        offset = self._place(frame.cursor)
        if frame.events and offset < self._upto:
            self._wrong(Fault.BAD_CURSOR, f"{offset} after an event at {self._upto}")
        if not frame.events and offset < before:
            self._wrong(Fault.BAD_CURSOR, f"back from {before} to {offset}")
        if self._start is None:
            self._start = offset
        self._advance(frame.cursor, offset)

    def _batch(self, frame: Batch, prev: str) -> None:
        self._chain(prev)
        low, high = self._place(prev), self._place(frame.cursor)
        if self._cursor is None:
            self._begin(low)
        if high < low:
            self._wrong(Fault.BAD_CURSOR, f"back from {low} to {high}")
        for seen in frame.events:
            offset = self._event(seen)
            if offset is not None and not low < offset <= high:
                self._wrong(Fault.BAD_CURSOR, f"offset {offset} outside of ({low}, {high}]")
        records = self._log.between(low, high)
        self._count(frame, records, low, high)
        self._held_back(records, high)
        self._advance(frame.cursor, high)

    def _count(self, frame: Batch, records: Sequence[Expected], low: int, high: int) -> None:
        """Compare with the log; records that nobody may see MAY count as skipped."""
        got = len(frame.events) + (frame.skipped or 0)
        spare = self._log.bad_between(low, high)
        spare += self._log.repeatable_between(low, high, self._known)
        if not len(records) <= got <= len(records) + spare:
            detail = f"{len(frame.events)}+{frame.skipped} for {len(records)} in ({low}, {high}]"
            self._wrong(Fault.MISCOUNTED, detail)

    def _held_back(self, records: Sequence[Expected], high: int) -> None:
        for record in records:
            held = record.replaced_by is not None and record.replaced_by > high
            if held and record.offset not in self._came and not self._older_stands_for(record):
                self._wrong(Fault.HELD_BACK, f"{_told(record)}, replaced at {record.replaced_by}")

    def _event(self, seen: Seen) -> int | None:
        """Take one event and return where it stands in the log."""
        self.delivered += 1
        copies = self._log.copies.get(seen.text)
        if copies is None:
            self._wrong(Fault.FOREIGN, seen.text[:300].decode())
            return None
        if self._start is None:
            if len(copies) > 1:
                return None  # it may stand at either; its cursor will tell
            self._start = self._upto = copies[0] - 1
        offset = self._stands_at(copies)
        if offset in self._came:
            self._wrong(Fault.REPEATED, f"{seen.type} at {offset}, after {self._upto}")
        elif offset <= self._upto:
            self._wrong(Fault.REORDERED, f"{seen.type} at {offset}, after {self._upto}")
        self.retried += offset != copies[0]
        record = self._log.at(copies[0])
        self.facts += record is not None and record.entry.key is None
        self._came.add(offset)
        self._upto = max(self._upto, offset)
        return offset

    def _stands_at(self, copies: Sequence[int]) -> int:
        """Return which of an event's copies came: the first, or a retry that need not be known."""
        later = [copy for copy in copies if copy > self._since] or copies[:1]
        if later[0] > self._upto:
            return later[0]
        repeatable = (
            copy
            for copy in later[1:]
            if copy > self._upto and self._log.repeatable(copy, self._known)
        )
        return next(repeatable, later[0])

    def _advance(self, cursor: str, offset: int) -> None:
        self._cursor = cursor
        self._upto = max(self._upto, offset)

    def _chain(self, prev: str | None) -> None:
        if prev is not None and self._cursor is not None and prev != self._cursor:
            self._wrong(Fault.BROKEN_CHAIN, f"{prev} after {self._cursor}")

    def _place(self, cursor: str) -> int:
        """Return a cursor's offset; where it is wrong, the position so far."""
        place = locate(cursor)
        if place is None or place.partition != self._log.partition:
            self._wrong(Fault.BAD_CURSOR, f"{cursor} names {place}")
            return self._upto
        return place.offset

    def _close_stretch(self, end: int, *, mercy: bool) -> None:
        """Look for what did not come.

        Args:
            end: The offset up to which the stretch goes.
            mercy: A gap follows, which covers what may stand for an earlier state.
        """
        if self._start is None:
            return
        for record in self._log.between(self._start, end):
            stands = record.replaced_by
            if record.offset in self._came:
                continue
            lost = stands is None or (stands > end and not mercy)
            if lost and not self._older_stands_for(record):
                fault = Fault.LOST_FACT if record.entry.key is None else Fault.LOST_STATE
                self._wrong(fault, _told(record))
            else:
                self.skipped += 1
        self._came.clear()

    def _older_stands_for(self, record: Expected) -> bool:
        """Whether a retry of an older value came in the place of a state, legally."""
        for retry in self._log.retries_for(record.offset):
            if retry in self._came:
                return True
            copies = self._log.copies_of(retry)
            # Which of its copies came, nothing tells.
            if self._log.repeatable(retry, _BEGINNING) and self._came.intersection(copies):
                return True
        return False

    def _wrong(self, fault: Fault, detail: str) -> None:
        self.violations.append(Violation(self._recording.viewer, fault, detail))


def _told(record: Expected) -> str:
    run = "/".join(filter(None, record.entry.run))
    return f"{record.entry.type} of {run} at {record.offset}"


def faults(violations: Sequence[Violation]) -> Counter[Fault]:
    """Count violations by what is wrong."""
    return Counter(violation.fault for violation in violations)

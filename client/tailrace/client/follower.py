"""What a follower of one channel makes of each thing that an edge says. Pure.

A connection is: `connecting`, then `message` for each text, `heard` for every other frame, and in
the end `closed` (or `refused`, when there was no connection at all). Each answers what is to be
done; the cursor that the next connection resumes after is kept here, so is the proof that nothing
is missing: what is received begins where the previous one ended (`docs/protocol.md` §3.2).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from tailrace.client.errors import DialectError, RefusedError
from tailrace.client.request import CURSOR

__all__ = ["Batch", "Counters", "Ended", "Event", "Follower", "Gap", "Retry"]

Event = dict[str, object]
"""The event JSON (`docs/protocol.md` §1.1)."""


class Batch(NamedTuple):
    """What the range (prev, cursor] of the log holds for the channel."""

    prev: str
    """The cursor before it."""
    cursor: str
    """The cursor to resume after, once all its events are done with."""
    skipped: int
    """States of the range that newer ones replaced."""
    events: list[Event]
    """In the order of the log; may be empty."""


class Gap(NamedTuple):
    """The range (prev, cursor] of the log cannot be delivered."""

    prev: str
    cursor: str
    """Where the stream goes on from."""
    reason: str
    """``retention``, ``reset``, ``repartitioned``, ``too_far`` or ``invalid``."""


class Retry(NamedTuple):
    """This connection is of no more use: connect again."""

    reason: str
    asked: float = 0.0
    """Seconds that the edge wants to be left alone; 0 when it said nothing."""


class Ended(NamedTuple):
    """The edge has ended the stream, as it should be."""


@dataclass(slots=True)
class Counters:
    """What has happened to a stream since it began."""

    events: int = 0
    """Handed to the consumer."""
    skipped: int = 0
    """States that newer ones replaced; with `events` all records of the channel."""
    gaps: int = 0
    """Ranges that could not be delivered."""
    reconnects: int = 0
    """Connections after the first that were subscribed."""
    chain_breaks: int = 0
    """Messages that did not begin where the one before them ended."""


_HELLO_S: Final = 10.0
"""From the handshake to the first message."""
_HEARTBEAT_S: Final = (0.1, 30.0)
_DEFAULT_HEARTBEAT_MS: Final = 25_000
_NORMAL: Final = 1000
_TOO_BIG: Final = 1009
_DRAIN: Final = 1012
_TOKEN_EXPIRED: Final = 4001
_TOO_SLOW: Final = 4008
_FINAL: Final = range(4500, 5000)
_RETRIED_STATUSES: Final = frozenset({408, 425, 429, *range(500, 600)})

_Members = dict[str, object]


class Follower:
    """The position of one stream and its conversation with whichever edge serves it.

    Args:
        after: A cursor of an earlier stream to resume after.
        renewable: Whether the next connection may show another token.
    """

    def __init__(self, after: str | None, *, renewable: bool) -> None:
        self.cursor = after
        """After which the next connection resumes; None until an edge has named a position."""
        self.counters = Counters()
        self._renewable = renewable
        self._began = False
        self.connecting(0.0)

    def connecting(self, now: float) -> None:
        """Forget the previous connection.

        Args:
            now: Seconds of a monotonic clock, as in all other methods.
        """
        self._channel: str | None = None
        self._heartbeat: float | None = None
        self._asked = 0.0
        self.heard(now)

    @property
    def subscribed(self) -> bool:
        """Whether the present connection has said from where it goes on."""
        return self._channel is not None

    # --- is anybody there? ----------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """Note that a frame of any sort has come."""
        self._pinged = False
        self._patient_until = now + (self._heartbeat or _HELLO_S)

    def patience(self, now: float) -> float:
        """Return the seconds to wait for the next frame before `silent` is to be asked."""
        return max(0.0, self._patient_until - now)

    def silent(self, now: float) -> bytes | Retry:
        """Return a ping to send after one heartbeat without any frame, and give up after two.

        A heartbeat counts at most 30 s; the first message must come within 10 s.
        """
        if self._pinged or self._heartbeat is None:
            return Retry("nothing was heard of the edge for too long")
        self._pinged = True
        self._patient_until = now + self._heartbeat
        return orjson.dumps({"t": "ping", "at": int(now * 1_000_000)})

    # --- messages -------------------------------------------------------------------------------

    def message(self, text: bytes, now: float) -> Batch | Gap | Retry | None:
        """Return what a message means: None is nothing to do.

        Raises:
            DialectError: It is none of ``tailrace.v1.json``.
        """
        members = _parse(text)
        answer: Batch | Gap | Retry | None = None
        match members.get("t"):
            case "hello":
                self._hello(members)
            case "subscribed":
                answer = self._subscribed(members)
            case "batch":
                answer = self._batch(members)
            case "gap":
                answer = self._gap(members)
            case "drain":
                self._asked = _seconds(members.get("retry_after_ms"))
            case _:  # what is unknown is ignored
                pass
        self.heard(now)
        return answer

    def _hello(self, members: _Members) -> None:
        given = members.get("heartbeat_ms")
        if not isinstance(given, int | float) or given <= 0:
            given = _DEFAULT_HEARTBEAT_MS
        shortest, longest = _HEARTBEAT_S
        self._heartbeat = min(max(given / 1000, shortest), longest)

    def _subscribed(self, members: _Members) -> Gap | Retry | None:
        channel, cursor, before = _text(members, "ch"), _cursor(members, "cursor"), self.cursor
        gap = members.get("gap")
        if before is not None and gap is None:
            if members.get("resumed") is not True or cursor != before:
                return self._broken(before, cursor)
        elif before is not None and not isinstance(gap, dict):
            raise DialectError("`gap` is no object")
        self._channel = channel
        self.cursor = cursor
        self.counters.reconnects += self._began
        self._began = True
        if before is None or not isinstance(gap, dict):
            return None
        return self._told(Gap(before, cursor, _text(gap, "reason")))

    def _batch(self, members: _Members) -> Batch | Retry:
        prev, cursor = _cursor(members, "prev"), _cursor(members, "cursor")
        skipped, events = members.get("skipped"), members.get("events")
        if not isinstance(skipped, int) or skipped < 0:
            raise DialectError("`skipped` is no count")
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            raise DialectError("`events` is no list of objects")
        if not self._continues(members, prev):
            return self._broken(self.cursor, prev)
        self.cursor = cursor
        self.counters.skipped += skipped
        return Batch(prev, cursor, skipped, events)

    def _gap(self, members: _Members) -> Gap | Retry:
        gap = Gap(_cursor(members, "prev"), _cursor(members, "cursor"), _text(members, "reason"))
        if not self._continues(members, gap.prev):
            return self._broken(self.cursor, gap.prev)
        self.cursor = gap.cursor
        return self._told(gap)

    def _told(self, gap: Gap) -> Gap:
        self.counters.gaps += 1
        return gap

    def _continues(self, members: _Members, prev: str) -> bool:
        return self._channel is not None and (self._channel, self.cursor) == (
            members.get("ch"),
            prev,
        )

    def _broken(self, expected: str | None, found: str) -> Retry:
        """Give up the connection, so that the last good cursor is resumed from."""
        self.counters.chain_breaks += 1
        return Retry(f"broken chain: after {expected} comes what follows {found}", self._asked)

    # --- ends -----------------------------------------------------------------------------------

    def lost(self, reason: str) -> Retry:
        """Return what to do after a connection that broke without a close."""
        return Retry(reason, self._asked)

    def closed(self, code: int, reason: str) -> Retry | Ended:
        """Return what to do after a close by the edge.

        Raises:
            RefusedError: It would close again: 1009, 4500 to 4999, or 4001 with no other token.
        """
        if code == _NORMAL:
            return Ended()
        hopeless = code == _TOKEN_EXPIRED and not self._renewable
        if code == _TOO_BIG or code in _FINAL or hopeless:
            raise RefusedError(code, reason)
        told = _reason(reason)
        if code == _TOO_SLOW and self.cursor is None:
            # What was received in order is the better proof; this helps who has received nothing.
            self.cursor = _cursor(told, "cursor") if "cursor" in told else None
        asked = _seconds(told.get("retry_after_ms")) if code == _DRAIN else 0.0
        return Retry(f"closed with {code}", asked or self._asked)

    def refused(self, status: int, reason: str, retry_after: str | None) -> Retry:
        """Return what to do after a handshake that was answered with an HTTP status.

        Raises:
            RefusedError: The same request would be refused again.
        """
        if status not in _RETRIED_STATUSES:
            raise RefusedError(status, reason)
        # RFC 9110 §10.2.3 allows a date too; an edge sends seconds.
        told = retry_after is not None and retry_after.isascii() and retry_after.isdigit()
        return Retry(f"refused with {status}", float(retry_after or 0) if told else 0.0)


def _parse(text: bytes) -> _Members:
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise DialectError(f"a message is not JSON: {exc}") from exc
    if not isinstance(members, dict):
        raise DialectError("a message is no object")
    return members


def _reason(text: str) -> _Members:
    """Return the members of a close reason, which may be cut or no JSON at all."""
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return members if isinstance(members, dict) else {}


def _text(members: _Members, name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise DialectError(f"`{name}` is no text")
    return value


def _cursor(members: _Members, name: str) -> str:
    value = _text(members, name)
    if CURSOR.fullmatch(value) is None:
        raise DialectError(f"`{name}` is no cursor")
    return value


def _seconds(milliseconds: object) -> float:
    return max(0.0, milliseconds / 1000) if isinstance(milliseconds, int | float) else 0.0

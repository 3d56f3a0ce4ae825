"""The messages of each dialect -> frames (docs/protocol.md §3, §5). Pure."""

import binascii
import struct
from base64 import urlsafe_b64decode
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import orjson

from verifier.record import canonical

__all__ = [
    "Batch",
    "Closed",
    "Dialect",
    "Failed",
    "Frame",
    "Gap",
    "Place",
    "Seen",
    "Subscribed",
    "locate",
    "parse",
]

Dialect = Literal["plain", "v1", "sse", "json"]
DialectOrClose = Literal["plain", "v1", "sse", "json", "close"]


class Seen(NamedTuple):
    """An event as a viewer got it."""

    type: str
    text: bytes
    """Its JSON in canonical form, without a cursor."""


class Subscribed(NamedTuple):
    """v1: where the stream begins."""

    channel: str
    cursor: str
    resumed: bool
    gap: str | None


class Batch(NamedTuple):
    """Events and the cursor after them; none of them where only the cursor moves."""

    prev: str | None
    """None in the dialects that do not say."""
    cursor: str
    skipped: int | None
    """None in the dialects that do not say."""
    events: tuple[Seen, ...]


class Gap(NamedTuple):
    """The server says that a range cannot be delivered."""

    prev: str | None
    cursor: str
    reason: str


class Closed(NamedTuple):
    """The server ended it."""

    code: int | None
    reason: str


class Failed(NamedTuple):
    """A message that the contract does not know, or an error."""

    what: str


Frame: TypeAlias = Subscribed | Batch | Gap | Closed | Failed


def parse(dialect: DialectOrClose, message: Any) -> list[Frame]:
    """Return what a message says to its viewer; nothing for one that says nothing of the log.

    Args:
        dialect: Its dialect; ``close`` for a connection's end.
        message: Its text; of SSE a mapping of a block's fields, of a close its code and reason.
    """
    try:
        match dialect:
            case "plain":
                return [_plain(orjson.loads(message))]
            case "v1":
                return _v1(orjson.loads(message))
            case "sse":
                return _sse(message)
            case "json":
                return _catch_up(orjson.loads(message))
            case _:
                return [Closed(*message)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return [Failed(f"{type(error).__name__} {error} in {str(message)[:200]!r}")]


def _seen(members: dict[str, Any]) -> Seen:
    if "cursor" in members:
        raise ValueError("a cursor inside an event")
    return Seen(members["type"], canonical(members))


def _plain(members: dict[str, Any]) -> Frame:
    if list(members)[-1] != "cursor":
        raise ValueError("the last member is not the cursor")
    cursor = members.pop("cursor")
    if members["type"] == "stream.gap":
        return Gap(None, cursor, members["reason"])
    return Batch(None, cursor, None, (_seen(members),))


def _v1(m: dict[str, Any]) -> list[Frame]:
    match m["t"]:
        case "subscribed":
            gap = None if m["gap"] is None else m["gap"]["reason"]
            return [Subscribed(m["ch"], m["cursor"], m["resumed"], gap)]
        case "batch":
            events = tuple(map(_seen, m["events"]))
            return [Batch(m["prev"], m["cursor"], m["skipped"], events)]
        case "gap":
            return [Gap(m["prev"], m["cursor"], m["reason"])]
        case "error" if m["code"] == "unavailable":
            return [Closed(None, m["message"])]
        case "error":
            return [Failed(f"{m['code']}: {m['message']}")]
        case _:  # hello, pong, drain, and whatever a later version says
            return []


def _sse(block: dict[str, str]) -> list[Frame]:
    if "data" not in block:
        return [Batch(None, block["id"], None, ())] if "id" in block else []
    members = orjson.loads(block["data"])
    if block.get("event") == "gap":
        return [Gap(None, members["cursor"], members["reason"])]
    if "event" in block:
        raise ValueError("an event field")
    return [Batch(None, block["id"], None, (_seen(members),))]


def _catch_up(m: dict[str, Any]) -> list[Frame]:
    batch = Batch(m["prev"], m["cursor"], m["skipped"], tuple(map(_seen, m["events"])))
    if m["gap"] is not None:
        return [Gap(None, m["prev"], m["gap"]["reason"]), batch]
    return [batch]


class Place(NamedTuple):
    """A position in the log: after the record at `offset`."""

    partition: int
    offset: int


_LAYOUT: Final = struct.Struct(">BIIIqq")
"""Version, topic id, partition, partition count, offset, timestamp; a checksum follows."""
_CHECKSUM_BYTES: Final = 4


def locate(cursor: str) -> Place | None:
    """Return the position that a cursor names; None where it is none.

    Clients must not do this: to them a cursor is opaque. The verifier looks inside because only
    then a count of records can be exact.
    """
    try:
        raw = urlsafe_b64decode(cursor)
        _, _, partition, _, offset, _ = _LAYOUT.unpack(raw[:-_CHECKSUM_BYTES])
    except (ValueError, binascii.Error, struct.error):
        return None
    return Place(partition, offset)

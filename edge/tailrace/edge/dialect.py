"""The bytes of each dialect. Pure.

A frame is built once and is the same bytes for all viewers of a channel that speak the dialect.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import orjson

from tailrace.edge.chunk import Chunk, Rendered
from tailrace.edge.protocol import Gap, deflated_frame, text_frame
from tailrace.schemas import Position, format_cursor

__all__ = ["Break", "Dialect", "frame_of", "gap_frame", "message", "page_body", "plain_message"]


class Dialect(IntEnum):
    """How a connection says it."""

    V1 = 1
    """`tailrace.v1.json`: WebSocket, one message per chunk."""
    PLAIN = 2
    """`tailrace.plain`: WebSocket, one message per event."""
    V1_DEFLATED = 3
    """Where permessage-deflate was negotiated."""
    PLAIN_DEFLATED = 4
    SSE = 5
    """Server-sent events in chunked transfer coding (RFC 9112 §7.1)."""
    SSE_RAW = 6
    """Server-sent events up to the end of the connection, for HTTP/1.0."""

    @property
    def uncompressed(self) -> "Dialect":
        """The same without compression, which every connection takes as well."""
        return _UNCOMPRESSED.get(self, self)

    def for_takers(self, count: int) -> "Dialect":
        """Return how to say it to so many at once: for one alone compression does not pay."""
        return self if count > 1 else self.uncompressed


_UNCOMPRESSED = {
    Dialect.V1_DEFLATED: Dialect.V1,
    Dialect.PLAIN_DEFLATED: Dialect.PLAIN,
}


class Break(NamedTuple):
    """A range (prev, cursor] of a channel that cannot be delivered."""

    name: str
    prev: Position
    cursor: Position
    reason: Gap


def message(t: str, **members: object) -> bytes:
    """Return one `tailrace.v1.json` message as a WebSocket frame."""
    return text_frame(orjson.dumps({"t": t, **members}))


def frame_of(chunk: Chunk, dialect: Dialect) -> bytes:
    """Return what to write for a chunk; empty where the dialect has nothing to say of it."""
    frame = chunk.frames.get(dialect)
    if frame is None:
        frame = chunk.frames[dialect] = _BUILDERS[dialect](chunk)
    return frame


def gap_frame(gap: Break, dialect: Dialect) -> bytes:
    """Return how a dialect tells of a gap."""
    cursor = format_cursor(gap.cursor)
    dialect = dialect.uncompressed
    if dialect is Dialect.V1:
        prev = format_cursor(gap.prev)
        return message("gap", ch=gap.name, prev=prev, cursor=cursor, reason=gap.reason)
    text = orjson.dumps({"type": "stream.gap", "reason": gap.reason, "cursor": cursor})
    if dialect is Dialect.PLAIN:
        return text_frame(text)
    # The id makes the browser resume after the gap.
    block = b"event: gap\nid: " + cursor.encode() + b"\ndata: " + text + b"\n\n"
    return block if dialect is Dialect.SSE_RAW else _chunked(block)


def plain_message(event: Rendered, cursor: str) -> bytes:
    """Return the event JSON with `cursor` as its last member."""
    return event.text[:-1] + b',"cursor":"' + cursor.encode() + b'"}'


def page_body(chunk: Chunk, *, more: bool, gap: Gap | None) -> bytes:
    """Return the body of a JSON catch-up."""
    head = {
        "prev": format_cursor(chunk.prev),
        "cursor": format_cursor(chunk.cursor),
        "skipped": chunk.skipped,
        "more": more,
        "gap": None if gap is None else {"reason": gap},
    }
    return orjson.dumps(head)[:-1] + b',"events":[' + _texts(chunk) + b"]}"


def _texts(chunk: Chunk) -> bytes:
    return b",".join([event.text for event in chunk.events])


def _batch(chunk: Chunk) -> bytes:
    return b'{"t":"batch","ch":%b,"prev":"%b","cursor":"%b","skipped":%d,"events":[%b]}' % (
        orjson.dumps(chunk.name),
        format_cursor(chunk.prev).encode(),
        format_cursor(chunk.cursor).encode(),
        chunk.skipped,
        _texts(chunk),
    )


def _v1(chunk: Chunk) -> bytes:
    return text_frame(_batch(chunk))


def _v1_deflated(chunk: Chunk) -> bytes:
    return deflated_frame(_batch(chunk))


def _cursor(chunk: Chunk, event: Rendered) -> str:
    return format_cursor(
        chunk.cursor._replace(offset=event.offset, timestamp_ms=event.timestamp_ms)
    )


def _plain_messages(chunk: Chunk) -> Iterator[bytes]:
    return (plain_message(event, _cursor(chunk, event)) for event in chunk.events)


def _plain(chunk: Chunk) -> bytes:
    return b"".join(map(text_frame, _plain_messages(chunk)))


def _plain_deflated(chunk: Chunk) -> bytes:
    return b"".join(map(deflated_frame, _plain_messages(chunk)))


def _sse_raw(chunk: Chunk) -> bytes:
    if not chunk.events:  # the heartbeat
        return b"id: " + format_cursor(chunk.cursor).encode() + b"\n\n"
    return b"".join(
        [
            b"id: %b\ndata: %b\n\n" % (_cursor(chunk, event).encode(), event.text)
            for event in chunk.events
        ]
    )


def _sse(chunk: Chunk) -> bytes:
    return _chunked(frame_of(chunk, Dialect.SSE_RAW))


def _chunked(block: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(block), block)


_BUILDERS = {
    Dialect.V1: _v1,
    Dialect.PLAIN: _plain,
    Dialect.V1_DEFLATED: _v1_deflated,
    Dialect.PLAIN_DEFLATED: _plain_deflated,
    Dialect.SSE: _sse,
    Dialect.SSE_RAW: _sse_raw,
}

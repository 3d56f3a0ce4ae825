"""Cursor <-> text.

A cursor names a position in the log of its project's partition and proves it: it carries the id of
the topic, its partition count and the timestamp of the record there, so that another incarnation of
the log cannot pass for this one. To a client it is opaque: 44 characters of ``[A-Za-z0-9_-]``.
"""

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache

from tailrace.schemas.errors import CursorError
from tailrace.schemas.event import Position

__all__ = ["format_cursor", "parse_cursor"]

_LAYOUT = struct.Struct(">BIIIqq")
"""Version, topic id, partition, partition count, offset, timestamp: 29 bytes, and 4 of CRC-32."""
_VERSION = 1
_LENGTH = 44
_OLDEST_TIMESTAMP = -1  # Kafka's own "no timestamp"


@lru_cache(maxsize=1024)  # the cursor of one frame is the prev of the next
def format_cursor(position: Position) -> str:
    """Return the text of a position; `parse_cursor` gives the position back."""
    body = _LAYOUT.pack(
        _VERSION,
        position.topic_id,
        position.partition,
        position.partitions,
        position.offset,
        position.timestamp_ms,
    )
    return urlsafe_b64encode(body + _checksum(body)).decode()


def parse_cursor(text: str) -> Position:
    """Return the position that a cursor names.

    Raises:
        CursorError: The text is not a cursor: wrong length, alphabet, version or checksum, or a
            position that cannot exist.
    """
    if len(text) != _LENGTH or not text.isascii():
        raise CursorError(text)
    try:
        # The lenient decoder skips foreign characters; the length check below then fails.
        raw = urlsafe_b64decode(text)
    except binascii.Error as exc:
        raise CursorError(text) from exc
    body, checksum = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
    if len(body) != _LAYOUT.size or checksum != _checksum(body) or "+" in text or "/" in text:
        raise CursorError(text)
    version, topic_id, partition, partitions, offset, timestamp_ms = _LAYOUT.unpack(body)
    position = Position(partition, offset, timestamp_ms, partitions, topic_id)
    if version != _VERSION or not _possible(position):
        raise CursorError(text)
    return position


def _possible(position: Position) -> bool:
    return (
        position.partition < position.partitions
        and position.offset >= -1
        and position.timestamp_ms >= _OLDEST_TIMESTAMP
    )


def _checksum(body: bytes) -> bytes:
    return binascii.crc32(body).to_bytes(4, "big")

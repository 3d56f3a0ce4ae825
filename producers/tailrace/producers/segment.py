"""Format of a spool's segment: frames of records, each provable on its own. Pure.

A segment is a row of frames: length of the body and its CRC-32C (RFC 3720 §12.1, the checksum of
Kafka's own batches), both uint32 big-endian, then the body: one `Outgoing`. A process that dies
within a write leaves a torn frame at the end, which is no frame.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c

from tailrace.producers.lanes import Outgoing

__all__ = ["HEAD_BYTES", "Scanned", "frame_of", "scan"]

_HEAD = struct.Struct(">II")
_BODY = struct.Struct(">qqIIH")
_HEADER = struct.Struct(">HI")

HEAD_BYTES = _HEAD.size


class Scanned(NamedTuple):
    """A frame that was read."""

    record: Outgoing | None
    """None where the bytes are not those that were written."""
    end: int
    """Offset behind the frame."""


def frame_of(record: Outgoing) -> bytes:
    """Return the bytes of a record in a segment."""
    parts = [
        _BODY.pack(
            record.ticket,
            record.timestamp_ms,
            len(record.key),
            len(record.value),
            len(record.headers),
        ),
        record.key,
        record.value,
    ]
    for name, value in record.headers:
        encoded = name.encode()
        parts += (_HEADER.pack(len(encoded), len(value)), encoded, value)
    body = b"".join(parts)
    return _HEAD.pack(len(body), google_crc32c.value(body)) + body


def scan(content: bytes) -> Iterator[Scanned]:
    """Yield the frames of a segment's content, up to its end or its torn tail."""
    start = 0
    while len(content) - start >= HEAD_BYTES:
        length, crc = _HEAD.unpack_from(content, start)
        body = content[start + HEAD_BYTES : start + HEAD_BYTES + length]
        if len(body) < max(length, _BODY.size):
            return
        start += HEAD_BYTES + length
        yield Scanned(_record(body) if google_crc32c.value(body) == crc else None, start)


def _record(body: bytes) -> Outgoing | None:
    """Return the record; None where another program's checksum vouches for other bytes."""
    ticket, timestamp_ms, key_bytes, value_bytes, count = _BODY.unpack_from(body)
    at = _BODY.size
    key = body[at : at + key_bytes]
    at += key_bytes
    value = body[at : at + value_bytes]
    at += value_bytes
    headers: list[tuple[str, bytes]] = []
    try:
        for _ in range(count):
            name_bytes, size = _HEADER.unpack_from(body, at)
            at += _HEADER.size
            name = body[at : at + name_bytes].decode()
            at += name_bytes
            headers.append((name, body[at : at + size]))
            at += size
    except (struct.error, UnicodeDecodeError):
        return None
    return Outgoing(ticket, key, value, headers, timestamp_ms) if at == len(body) else None

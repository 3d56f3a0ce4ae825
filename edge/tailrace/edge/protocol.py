"""The words of the wire: close codes, type filters, WebSocket frames. Pure."""

import json
import re
import zlib
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import NamedTuple

from tailrace.schemas import ParameterError

__all__ = [
    "PLAIN",
    "V1",
    "CloseCode",
    "Gap",
    "Types",
    "close_frame",
    "close_reason",
    "deflated_frame",
    "parse_types",
    "text_frame",
]

PLAIN = "tailrace.plain"
"""The subprotocol that names the plain dialect, which is also what no subprotocol means."""

V1 = "tailrace.v1.json"


class CloseCode(IntEnum):
    """WebSocket close codes. 4000-4499: reconnect. 4500-4999: do not."""

    NORMAL = 1000
    GOING_AWAY = 1001
    MESSAGE_TOO_BIG = 1009
    DRAIN = 1012
    TOO_SLOW = 4008
    TOO_MANY = 4029
    BAD_REQUEST = 4500
    UNKNOWN_SUBPROTOCOL = 4506


class Gap(StrEnum):
    """Why a range of the log cannot be delivered."""

    RETENTION = "retention"
    """Kafka no longer has it."""
    RESET = "reset"
    """It is of another incarnation of the topic."""
    REPARTITIONED = "repartitioned"
    """The topic had another partition count."""
    TOO_FAR = "too_far"
    """It is past the replay bound."""
    INVALID = "invalid"
    """It is not a cursor of this project."""


class Types(NamedTuple):
    """Which event types a channel carries. Sorted and without repeats; both empty: all."""

    exact: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def match(self, event_type: str) -> bool:
        """Tell whether events of this type belong to the channel."""
        if not self.exact and not self.prefixes:
            return True
        return event_type in self.exact or event_type.startswith(self.prefixes)

    def __str__(self) -> str:
        """Return the canonical parameter: sorted, without repeats; empty for all."""
        return ",".join(sorted((*self.exact, *(f"{prefix}*" for prefix in self.prefixes))))


_ITEM = re.compile(r"[a-z0-9_.]+\*?|\*")
_MAX_ITEMS = 64


def parse_types(text: str) -> Types:
    """Return the filter that a `types` parameter names.

    Raises:
        ParameterError: An item is empty, malformed, or there are more than 64.
    """
    items = text.split(",")
    if len(items) > _MAX_ITEMS:
        raise ParameterError("types", f"more than {_MAX_ITEMS} items")
    for item in items:
        if _ITEM.fullmatch(item) is None:
            raise ParameterError("types", f"{item[:64]!r} is not an event type or a prefix.*")
    if "*" in items:
        return Types()
    prefixes = {item[:-1] for item in items if item.endswith("*")}
    exact = {item for item in items if not item.endswith("*")}
    return Types(tuple(sorted(exact)), tuple(sorted(prefixes)))


_SMALL = 126
_MEDIUM = 1 << 16


_TEXT = b"\x81"
_DEFLATED_TEXT = b"\xc1"


def text_frame(payload: bytes) -> bytes:
    """Return one unmasked, final text frame (RFC 6455 §5.2)."""
    return _framed(_TEXT, payload)


def deflated_frame(payload: bytes) -> bytes:
    """Return one text frame, compressed if that makes it smaller (RFC 7692 §7.2.1).

    It refers to no message before it, so that it is the same bytes for every connection whose
    window is the full 32 KiB, with context takeover or without. No other compressor may write to
    such a connection.
    """
    if len(payload) < _DEFLATE_BYTES:
        return text_frame(payload)
    body = _deflater.compress(payload) + _deflater.flush(zlib.Z_FULL_FLUSH)
    if len(body) >= len(payload):
        return text_frame(payload)
    return _framed(_DEFLATED_TEXT, body.removesuffix(b"\x00\x00\xff\xff"))


_DEFLATE_BYTES = 512
_deflater = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS)
"""One for all: a full flush forgets what came before, and making one costs more than a message."""


def _framed(first: bytes, payload: bytes) -> bytes:
    size = len(payload)
    if size < _SMALL:
        return first + bytes((size,)) + payload
    if size < _MEDIUM:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return one unmasked close frame; the reason has 123 bytes at most."""
    return _framed(b"\x88", code.to_bytes(2, "big") + reason)


_MAX_REASON = 123  # RFC 6455 §5.5: a control frame holds 125 bytes, 2 of them the code


def close_reason(members: Mapping[str, object] | str) -> bytes:
    """Return the reason of a close frame, JSON for members, cut to what fits at a character."""
    text = members if isinstance(members, str) else json.dumps(members, separators=(",", ":"))
    return text.encode()[:_MAX_REASON].decode(errors="ignore").encode()

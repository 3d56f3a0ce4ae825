"""What goes over a connection: parameters in, the bytes of each dialect out. Pure.

A frame is built once and is the same bytes for all viewers of a channel.
"""

import json
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from tailrace.schemas import ParameterError

__all__ = [
    "PLAIN",
    "CloseCode",
    "Types",
    "close_reason",
    "parse_types",
    "plain_frame",
    "plain_message",
    "text_frame",
]

PLAIN = "tailrace.plain"
"""The subprotocol that names the plain dialect, which is also what no subprotocol means."""


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


class Types(NamedTuple):
    """Which event types a channel carries. Sorted and without repeats; both empty: all."""

    exact: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def match(self, event_type: str) -> bool:
        """Tell whether events of this type belong to the channel."""
        if not self.exact and not self.prefixes:
            return True
        return event_type in self.exact or event_type.startswith(self.prefixes)


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


def text_frame(payload: bytes) -> bytes:
    """Return one unmasked, final text frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < _SMALL:
        return bytes((0x81, size)) + payload
    if size < _MEDIUM:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def plain_message(event_json: bytes, cursor: str) -> bytes:
    """Return the plain dialect's message: the event JSON with `cursor` as its last member."""
    return event_json[:-1] + b',"cursor":"' + cursor.encode() + b'"}'


def plain_frame(event_json: bytes, cursor: str) -> bytes:
    """Return `plain_message` as a WebSocket frame."""
    return text_frame(plain_message(event_json, cursor))


_MAX_REASON = 123  # RFC 6455 §5.5: a control frame holds 125 bytes, 2 of them the code


def close_reason(members: Mapping[str, object] | str) -> bytes:
    """Return the reason of a close frame, JSON for members, cut to what fits at a character."""
    text = members if isinstance(members, str) else json.dumps(members, separators=(",", ":"))
    return text.encode()[:_MAX_REASON].decode(errors="ignore").encode()

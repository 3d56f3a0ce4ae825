"""One event as one line for people to read. Pure."""

from collections.abc import Mapping
from typing import Final

import orjson

from tailrace.client import Gap
from tailrace.client.errors import one_line
from tailrace.producers.found import Found, find
from tailrace.producers.payload import Body
from tailrace.schemas import RESERVED, body_member

__all__ = ["gap_line", "tail_line"]

_COLOURS: Final = {
    "failed": 31,
    "completed": 32,
    "cancelled": 33,
    "created": 36,
    "started": 36,
}
"""ANSI colour of a type's last word."""
_TIME_CHARS: Final = len("2026-11-23T10:15:30.123")
_TYPE_CHARS: Final = len("workflow.node_state.updated")


def tail_line(event: Mapping[str, object], *, colour: bool) -> str:
    """Return an event as time (UTC), type, run, status/stage/progress, and message or error.

    What other people wrote is shown printable, on one line, each part cut at 200 characters.
    """
    event_type = one_line(str(event.get("type", "")))
    body = {name: value for name, value in event.items() if name not in RESERVED}
    found = find(event_type, Body(None, orjson.dumps(body)))
    parts = [
        one_line(str(event.get("timestamp", "")))[:_TIME_CHARS].replace("T", " "),
        _coloured(event_type, colour=colour),
        one_line(found.run_id or "-"),
        _progress(found),
        _message(event, event_type, found),
    ]
    return "  ".join(filter(None, parts))


def gap_line(gap: Gap) -> str:
    """Return a gap as one line."""
    return f"tailrace: gap ({one_line(gap.reason)}): nothing from {gap.prev} to {gap.cursor}"


def _coloured(event_type: str, *, colour: bool) -> str:
    padded = event_type.ljust(_TYPE_CHARS)
    code = _COLOURS.get(event_type.rpartition(".")[2])
    return f"\x1b[{code}m{padded}\x1b[0m" if colour and code is not None else padded


def _progress(found: Found) -> str:
    percent = None if found.progress is None else f"{found.progress:.0%}"
    return "/".join(one_line(part) for part in (found.status, found.stage, percent) if part)


def _message(event: Mapping[str, object], event_type: str, found: Found) -> str:
    error = event.get("errorMessage") or found.error_message
    if error:
        return f"error: {one_line(str(error))}"
    inner = event.get(body_member(event_type) or "")
    for members in (inner, event):
        for name in ("message", "content"):
            text = members.get(name) if isinstance(members, Mapping) else None
            if isinstance(text, str):
                return one_line(text)
    return ""

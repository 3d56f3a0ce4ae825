"""Body of an event -> the columns that are found in it, and the text of its `data` column.

Runs in the background: it reads the JSON text that was snapshotted, never the caller's objects.
"""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from tailrace.producers.payload import NOT_JSON, RUN_ID_NAMES, Body, reduced
from tailrace.producers.text import ERROR_MAX_CHARS, ID_MAX_CHARS, clean
from tailrace.schemas import body_member

__all__ = ["Found", "find"]

_ENTITY_NAMES = ("id", "node_id", "node", "name")
_RUN_MEMBERS = frozenset({"job", "run"})
_NUMBERS = (int, float)

_Members = dict[str, object]


class Found(NamedTuple):
    """What an event's body says of itself."""

    run_id: str | None
    """None when the body does not name its run."""
    entity_id: str | None
    """The body's own id, or the node's; None when it has none."""
    status: str | None
    stage: str | None
    progress: float | None
    """0 … 1; what lies outside stays in the body only."""
    error_message: str | None
    data: str
    """Text of a JSON object: the body members of the event JSON."""
    reduced: bool = False
    """Whether the body turned out not to be JSON after all."""


def find(event_type: str, body: Body) -> Found:
    """Return the columns of an event.

    Members at the top level are searched first, then those inside of the type's own member; names
    in the order of the contract, and null or empty values count as missing.
    """
    value, text = _parse(body.json)
    spoilt = text is None or (body.member is None and not isinstance(value, dict))
    if spoilt or text is None:
        value = reduced(value, NOT_JSON)
        text = orjson.dumps(value).decode()
    if body.member is not None:
        text = f'{{"{body.member}":{text}}}'
    member = body.member or body_member(event_type)
    return _columns(_scopes(value, body.member, member), member, text, reduced=spoilt)


def _columns(scopes: Sequence[_Members], member: str | None, data: str, *, reduced: bool) -> Found:
    run_id = _text(scopes, RUN_ID_NAMES)
    if run_id is None and member in _RUN_MEMBERS:
        run_id = _text(scopes, ("id",))
    return Found(
        run_id=run_id,
        entity_id=_text(scopes, _ENTITY_NAMES),
        status=_text(scopes, ("status",)),
        stage=_text(scopes, ("stage", "node", "name") if member == "step" else ("stage", "node")),
        progress=_progress(scopes),
        error_message=_text(scopes, ("error_message",), ERROR_MAX_CHARS),
        data=data,
        reduced=reduced,
    )


def _scopes(value: object, own: str | None, member: str | None) -> list[_Members]:
    if not isinstance(value, dict):
        return []
    inner = value.get(member) if own is None and member is not None else None
    return [value, inner] if isinstance(inner, dict) else [value]


def _text(
    scopes: Sequence[_Members], names: Sequence[str], max_chars: int = ID_MAX_CHARS
) -> str | None:
    for scope in scopes:
        for name in names:
            value = scope.get(name)
            if value is None:  # Most are: this line is half of what `find` would cost without it.
                continue
            if isinstance(value, str):
                if value:
                    return clean(value, max_chars)
            elif isinstance(value, _NUMBERS) and not isinstance(value, bool):
                return clean(str(value), max_chars)
    return None


def _progress(scopes: Sequence[_Members]) -> float | None:
    for scope in scopes:
        value = scope.get("progress")
        if isinstance(value, _NUMBERS) and not isinstance(value, bool):
            return float(value) if 0 <= value <= 1 else None
    return None


def _parse(text: bytes) -> tuple[object, str | None]:
    """Return the value and its text; no text where even the repaired one cannot be read back."""
    try:
        return orjson.loads(text), text.decode()
    except orjson.JSONDecodeError:
        pass
    try:
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
        repaired = json.dumps(value, ensure_ascii=False)
        orjson.loads(repaired)
    except (ValueError, RecursionError):
        return None, None
    return value, repaired


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None

"""Payload -> body of the event, snapshotted as JSON text on the caller's thread.

A fact is never lost to its payload: what is not JSON, too large, or no model, dataclass or dict at
all is *reduced* to its ids, status, stage and progress, and says so in ``_omitted``.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import orjson
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from tailrace.producers.text import clean
from tailrace.schemas import MODEL_MEMBERS, RESERVED, body_member

__all__ = [
    "NOT_JSON",
    "RUN_ID_NAMES",
    "TOO_LARGE",
    "UNSUPPORTED",
    "Body",
    "body_of",
    "reduced",
    "reduced_json",
]

NOT_JSON = "not_json"
TOO_LARGE = "too_large"
UNSUPPORTED = "unsupported"

RUN_ID_NAMES = (
    *("run_id", "job_id", "agent_run_id", "workflow_run_id"),
    *("runId", "jobId", "agentRunId", "workflowRunId"),
)
"""Where a payload names its run, first match first."""

_KEPT = (
    *("id", "project_id", "projectId"),
    *RUN_ID_NAMES,
    *("node_id", "node", "name", "status", "stage", "progress"),
)
_RESERVED = frozenset(RESERVED)
_BODY_MEMBERS = frozenset(MODEL_MEMBERS.values())
_INT64 = 1 << 63

Serialize: TypeAlias = Callable[[Any], bytes]


class Body(NamedTuple):
    """What an event says of its payload."""

    member: str | None
    """The member of the event JSON that `json` goes under; None: its members are at the top."""
    json: bytes
    omitted: str | None = None
    """Why the payload was reduced: `NOT_JSON`, `TOO_LARGE` or `UNSUPPORTED`."""
    lost: bool = False
    """Whether members of a reserved name were taken out."""


class _Shape(NamedTuple):
    """How payloads of one class are treated."""

    member: str | None
    """The member that one of our models goes under, whatever the type."""
    mapping: bool
    to_json: Serialize | None
    """None for what is neither a model, nor a dataclass, nor a mapping."""


def body_of(event_type: str, payload: object, *, spread: bool, max_bytes: int) -> Body:
    """Return the body of an event; never raises, whatever the payload does.

    Args:
        event_type: Decides the member, unless the payload is one of our models.
        payload: A pydantic model, a dataclass or a mapping; anything else is reduced.
        spread: Whether a mapping's own members go to the top level. They do so as well, like those
            of a foreign model, where the type is one's own and has no member.
        max_bytes: A larger body is reduced.
    """
    shape = _shape_of(payload)
    member = shape.member
    if member is None and not (spread and shape.mapping):
        member = body_member(event_type)
    if shape.to_json is None:
        return _reduced_body(event_type, member, payload, UNSUPPORTED)
    try:
        if member is not None:
            body = Body(member, shape.to_json(payload))
        else:
            body = _top_level(payload, shape)
    except Exception:  # noqa: BLE001 - serializers run the caller's code, which may raise anything
        return _reduced_body(event_type, member, payload, NOT_JSON)
    if len(body.json) > max_bytes:
        return _reduced_body(event_type, member, payload, TOO_LARGE)._replace(lost=body.lost)
    return body


def _top_level(payload: Any, shape: _Shape) -> Body:
    assert shape.to_json is not None
    members = payload
    if not shape.mapping:
        text = shape.to_json(payload)
        members = json.loads(text)
        if not isinstance(members, dict):
            raise TypeError("not a JSON object")
        if _RESERVED.isdisjoint(members):
            return Body(None, text)
    if _RESERVED.isdisjoint(members):
        return Body(None, shape.to_json(members))
    kept = {name: value for name, value in members.items() if name not in _RESERVED}
    return Body(None, _plain_json(kept), lost=True)


def _shape_of(payload: Any) -> _Shape:
    return _shape(type(payload))  # type: ignore[arg-type]  # classes are hashable


@lru_cache(maxsize=1024)
def _shape(cls: type) -> _Shape:
    if issubclass(cls, BaseModel):
        own = (member for model, member in MODEL_MEMBERS.items() if issubclass(cls, model))
        overridden = cls.model_dump is not BaseModel.model_dump
        return _Shape(next(own, None), mapping=False, to_json=_dumped if overridden else _model)
    if issubclass(cls, dict):
        return _Shape(None, mapping=True, to_json=_plain_json)
    if issubclass(cls, Mapping):
        return _Shape(None, mapping=True, to_json=lambda payload: _plain_json(dict(payload)))
    if dataclasses.is_dataclass(cls):
        return _Shape(None, mapping=False, to_json=_plain_json)
    return _Shape(None, mapping=False, to_json=None)


def _model(model: BaseModel) -> bytes:
    # Half the cost of model_dump_json, which encodes the same bytes and decodes them again.
    return model.__pydantic_serializer__.to_json(model, warnings=False, fallback=_default)


def _dumped(model: BaseModel) -> bytes:
    return _plain_json(model.model_dump(mode="json"))


def _plain_json(payload: object) -> bytes:
    try:
        return orjson.dumps(payload, _default, orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        # orjson stops at 64-bit integers and 254 levels, which JSON does not.
        return json.dumps(payload, default=_default, ensure_ascii=False).encode()


def _default(value: object) -> object:
    """Return the JSON form of what orjson does not know: models, sets, paths and the like.

    Raises:
        TypeError: Bytes are no text, and an iterator is the caller's to consume.
    """
    if isinstance(value, bytes | bytearray | memoryview | Iterator):
        raise TypeError(f"{type(value).__name__} is not JSON")
    if isinstance(value, BaseException):
        return str(value) or type(value).__name__
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, PurePath):
        return str(value)
    return to_jsonable_python(value)


def _reduced_body(event_type: str, member: str | None, payload: object, reason: str) -> Body:
    inner = body_member(event_type) if member is None else None
    kept = reduced(payload, reason, inner=inner)
    return Body(member, orjson.dumps(kept), omitted=reason)


def reduced(payload: object, reason: str, *, inner: str | None = None) -> dict[str, object]:
    """Return what is left of a payload: ids, status, stage and progress, and ``_omitted``.

    Args:
        payload: A mapping is read by key, anything else by attribute; what raises is left out.
        reason: The value of ``_omitted``.
        inner: A member that is itself a payload and reduced likewise.
    """
    kept: dict[str, object] = {}
    for name in _KEPT:
        value = _scalar(_get(payload, name))
        if value is not None:
            kept[name] = value
    nested = _get(payload, inner) if inner is not None else None
    if inner is not None and _shape_of(nested).to_json is not None:
        kept[inner] = reduced(nested, reason)
    return {**kept, "_omitted": reason}


def reduced_json(data: str, reason: str) -> str:
    """Return the `data` column of an event with each of its bodies reduced."""
    members = orjson.loads(data)
    bodies: dict[str, object] = {
        name: reduced(value, reason)
        for name, value in members.items()
        if name in _BODY_MEMBERS and isinstance(value, dict)
    }
    if bodies.keys() != members.keys():
        bodies = {**reduced(members, reason), **bodies}
    return orjson.dumps(bodies).decode()


def _get(payload: object, name: str) -> object:
    try:
        return payload.get(name) if isinstance(payload, Mapping) else getattr(payload, name, None)
    except Exception:  # noqa: BLE001 - properties and mappings of the caller's may raise anything
        return None


def _scalar(value: object) -> str | int | float | None:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value) if -_INT64 <= value < _INT64 else None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, UUID | Decimal) else None

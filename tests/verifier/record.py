"""A Kafka record -> what a viewer may see of it (docs/protocol.md §1). Pure."""

import io
import json
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import fastavro
import orjson

__all__ = ["STATES", "Entry", "Record", "Run", "canonical", "encode", "read_entry"]

_SCHEMA: Final = fastavro.parse_schema(
    json.loads(resources.files("tailrace.schemas").joinpath("event.v1.avsc").read_text())
)
_FRAME: Final = struct.Struct(">bI")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RESERVED: Final = frozenset({"type", "timestamp", "errorMessage", "cursor"})

STATES: Final = frozenset(
    {
        "ingest.job.updated",
        "agent.run.updated",
        "agent.step.updated",
        "workflow.run.updated",
        "workflow.node_state.updated",
    }
)
FACTS: Final = frozenset(
    {
        *(
            f"{of}.{what}"
            for of in ("ingest.job", "agent.run", "workflow.run")
            for what in ("created", "completed", "failed", "cancelled")
        ),
        *(f"workflow.node.{what}" for what in ("started", "completed", "failed")),
        "agent.message.appended",
    }
)


class Record(NamedTuple):
    """A record as a plain consumer reads it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Run(NamedTuple):
    """What a barrier holds for; equal ids of different kinds are different runs."""

    kind: str
    run: str | None


class Entry(NamedTuple):
    """A record of a project."""

    partition: int
    offset: int
    project: str
    run: Run
    type: str
    event_id: str
    key: str | None
    """Of a state: entity, status and stage. None: a fact."""
    text: bytes | None
    """The event JSON in canonical form; None: the record is bad and nobody may see it."""


class _Envelope(NamedTuple):
    type: str
    run: Run
    event_id: str
    key: str | None


def canonical(members: dict[str, Any]) -> bytes:
    """Return a form of an event JSON that is equal for equal events."""
    return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)


def encode(columns: dict[str, object]) -> bytes:
    """Return a record's value: Confluent framing V0 with schema id 1."""
    out = io.BytesIO()
    out.write(_FRAME.pack(0, 1))
    fastavro.schemaless_writer(out, _SCHEMA, columns)
    return out.getvalue()


def read_entry(record: Record) -> Entry | None:
    """Return what a record says; None where no viewer can tell that it exists.

    That is a record without a key or value, or one that has neither headers to route it by nor a
    value that can be read.
    """
    try:
        project = (record.key or b"").decode()
    except UnicodeDecodeError:
        return None
    if not project or record.value is None:
        return None
    columns = _columns(record.value)
    envelope = _by_headers(record.headers) or (None if columns is None else _by_columns(columns))
    if envelope is None:
        return None
    text = None if columns is None or columns["project_id"] != project else _event_json(columns)
    return Entry(record.partition, record.offset, project, *_reordered(envelope), text)


def _reordered(envelope: _Envelope) -> tuple[Run, str, str, str | None]:
    key = envelope.key
    if envelope.type in FACTS:
        key = None
    return envelope.run, envelope.type, envelope.event_id, key


def _columns(value: bytes) -> dict[str, Any] | None:
    try:
        magic, _ = _FRAME.unpack_from(value)
        if magic != 0:
            return None
        read: Any = fastavro.schemaless_reader(io.BytesIO(value[_FRAME.size :]), _SCHEMA, None)
    except (EOFError, ValueError, LookupError, TypeError, ArithmeticError, struct.error):
        return None
    return dict(read)


def _by_headers(headers: Sequence[tuple[str, bytes]]) -> _Envelope | None:
    found = dict(headers)
    try:
        texts = {n: found[n].decode() for n in ("ce_id", "ce_type", "ce_subject")}
        key = found["ce_coalescekey"].decode() if "ce_coalescekey" in found else None
    except (KeyError, UnicodeDecodeError):
        return None
    if key is None and texts["ce_type"] in STATES:
        return None
    kind, _, run = texts["ce_subject"].partition("/")
    return _Envelope(texts["ce_type"], Run(kind, run or None), texts["ce_id"], key)


def _by_columns(columns: dict[str, Any]) -> _Envelope:
    key = None
    if columns["type"] in STATES:
        parts = (columns[name] or "" for name in ("entity_id", "status", "stage"))
        key = "|".join(quote(part, safe="") for part in parts)
    run = Run(columns["kind"], columns["run_id"] or None)
    return _Envelope(columns["type"], run, str(columns["event_id"]), key)


def _event_json(columns: dict[str, Any]) -> bytes | None:
    moment = columns["occurred_at"]
    if not isinstance(moment, datetime):
        moment = _EPOCH + timedelta(microseconds=moment)
    try:
        body = orjson.loads(columns["data"])
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict):
        return None
    members = {name: value for name, value in body.items() if name not in _RESERVED}
    members["type"] = columns["type"]
    members["timestamp"] = moment.astimezone(UTC).isoformat(timespec="microseconds")
    if columns["error_message"] is not None:
        members["errorMessage"] = columns["error_message"]
    return canonical(members)

"""Event <-> Kafka record, and Event -> event JSON.

The value of a record is Confluent framing V0 (``0x00``, big-endian int32 schema id) around an Avro
body; its headers follow the CloudEvents 1.0 Kafka protocol binding, binary content mode (§3.2), so
that an edge routes and coalesces a record without decoding it.
"""

import io
import json
import struct
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import resources
from typing import Any, TypeAlias

import fastavro
import orjson

from tailrace.schemas.errors import RecordError
from tailrace.schemas.event import Envelope, Event, Subject
from tailrace.schemas.types import EVENT_TYPES, Delivery, coalesce_key, delivery

__all__ = [
    "EVENT_SCHEMA",
    "PACKAGED_SCHEMA_ID",
    "RESERVED",
    "Headers",
    "decode",
    "encode",
    "envelope_of",
    "event_json",
    "headers_of",
    "parse_headers",
    "parse_schema",
]

Headers: TypeAlias = Iterable[tuple[str, bytes]]
ParsedSchema: TypeAlias = dict[str, Any]

RESERVED = ("type", "timestamp", "errorMessage", "cursor")
"""Members of the event JSON that a body can never override."""

PACKAGED_SCHEMA_ID = 1
"""The id written where no schema registry gives another one."""

EVENT_SCHEMA = resources.files("tailrace.schemas").joinpath("event.v1.avsc").read_text()
"""The writer schema as text, the form that a schema registry takes."""

_FRAME = struct.Struct(">bI")
_MAGIC = 0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NULLABLE = frozenset({"run_id", "entity_id", "status", "stage", "progress", "error_message"})
_COLUMN_TYPES: dict[str, type] = {"occurred_at": int, "seq": int, "progress": float}
_UNREADABLE = (
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    ArithmeticError,
    struct.error,
    MemoryError,
)
"""What fastavro raises on bytes that do not fit the schema, a length of exabytes included."""
_NOT_A_SCHEMA = (
    fastavro.schema.SchemaParseException,
    fastavro.schema.UnknownType,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
"""What fastavro raises on JSON that is not an Avro schema."""


def parse_schema(text: str) -> ParsedSchema:
    """Parse an Avro schema, without its logical types.

    Converting those doubles the cost of a record and Event keeps the plain numbers and text.

    Raises:
        ValueError: `text` is not the Avro schema of a record, or a recursive one: fastavro's C
            reader has no depth limit, so that a record of the wrong schema id would end the
            process.
    """
    try:
        parsed = fastavro.parse_schema(_without_logical_types(json.loads(text)))
        recursive = _refers_to(parsed, frozenset())
    except _NOT_A_SCHEMA as exc:
        raise ValueError(f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(parsed, dict) or parsed["type"] != "record":
        raise ValueError("the schema's top level is not a record")
    if recursive:
        raise ValueError("the schema is recursive")
    return parsed


def _refers_to(schema: Any, enclosing: frozenset[str]) -> bool:
    """Tell whether a parsed schema names one of the records around it."""
    match schema:
        case str():
            return schema in enclosing
        case list():
            return any(_refers_to(branch, enclosing) for branch in schema)
        case {"type": "record", "name": name, "fields": fields}:
            return any(_refers_to(field["type"], enclosing | {name}) for field in fields)
        case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
            return _refers_to(inner, enclosing)
        case _:
            return False


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, dict):
        return {k: _without_logical_types(v) for k, v in schema.items() if k != "logicalType"}
    return schema


_PACKAGED = parse_schema(EVENT_SCHEMA)


def _packaged(_schema_id: int) -> ParsedSchema:
    return _PACKAGED


def encode(event: Event, schema_id: int = PACKAGED_SCHEMA_ID) -> bytes:
    """Return the value of the event's record.

    Raises:
        ValueError: A text of the event holds a lone surrogate, or `seq` exceeds 64 bits.
    """
    out = io.BytesIO()
    out.write(_FRAME.pack(_MAGIC, schema_id))
    try:
        fastavro.schemaless_writer(out, _PACKAGED, event._asdict())
    except (TypeError, OverflowError, AttributeError) as exc:
        raise ValueError(str(exc)) from exc
    return out.getvalue()


def decode(value: bytes, schema_of: Callable[[int], ParsedSchema] = _packaged) -> Event:
    """Return the event of a record's value, read with the schema that it was written with.

    Args:
        value: The record's value. Bytes after the last column are ignored: columns are only ever
            appended, so a wider record reads well with an older schema.
        schema_of: Schema id -> `parse_schema` of it. The default reads every id with the packaged
            schema; reading with another reader schema as well would cost 71 % more.

    Raises:
        RecordError: ``undecodable``.
    """
    try:
        magic, schema_id = _FRAME.unpack_from(value)
        if magic != _MAGIC:
            raise RecordError("undecodable", f"magic byte {magic} is not Confluent framing V0")
        body = io.BytesIO(value)
        body.seek(_FRAME.size)
        schema = schema_of(schema_id)
        columns: Any = fastavro.schemaless_reader(body, schema, None)
        if schema is not _PACKAGED:
            columns = _checked(columns)
        return Event._make(columns.values())  # both in the order of `Event._fields`
    except _UNREADABLE as exc:
        detail = f"{type(exc).__name__}: {exc}".splitlines()[0][:200]
        raise RecordError("undecodable", detail) from exc


def _checked(columns: Any) -> dict[str, object]:
    """Check the columns that another schema gave: a nullable one may be missing, later ones new."""
    return {name: _column(name, columns.get(name)) for name in Event._fields}


def _column(name: str, value: object) -> object:
    expected = _COLUMN_TYPES.get(name, str)
    if type(value) is not expected and not (value is None and name in _NULLABLE):
        raise TypeError(f"column {name} is not {expected.__name__}")
    return value


def headers_of(event: Event, traceparent: str | None = None) -> list[tuple[str, bytes]]:
    """Return the headers of the event's record."""
    headers = [
        ("content-type", b"application/avro"),
        ("ce_specversion", b"1.0"),
        ("ce_id", event.event_id.encode()),
        ("ce_source", event.source.encode()),
        ("ce_type", event.type.encode()),
        ("ce_subject", _subject_text(event.kind, event.run_id)),
    ]
    if delivery(event.type, keyed=False) is Delivery.STATE:
        key = coalesce_key(event.entity_id, event.status, event.stage)
        headers.append(("ce_coalescekey", key.encode()))
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    return headers


@lru_cache(maxsize=4096)
def _subject_text(kind: str, run_id: str | None) -> bytes:
    return (f"{kind}/{run_id}" if run_id else kind).encode()


@lru_cache(maxsize=4096)
def _parse_subject(text: bytes) -> Subject:
    kind, _, run_id = text.decode().partition("/")
    return Subject(kind, run_id or None)


@lru_cache(maxsize=1024)
def _parse_type(text: bytes) -> tuple[str, bool]:
    """Return the type's name and whether a record of it must carry a coalesce key."""
    name = text.decode()
    return name, EVENT_TYPES.get(name) is Delivery.STATE


def parse_headers(headers: Headers) -> Envelope | None:
    """Return what the headers of a record say; None when its value must be decoded instead.

    That is the case when `ce_id`, `ce_type` or `ce_subject` is missing, a state has no
    `ce_coalescekey`, or one of them is not UTF-8: the work of a producer that knows only Avro.
    """
    found = dict(headers)
    try:
        name, is_state = _parse_type(found["ce_type"])
        subject = _parse_subject(found["ce_subject"])
        event_id = found["ce_id"].decode()
        key = found.get("ce_coalescekey")
        if key is None:
            return None if is_state else Envelope(name, subject, event_id, None)
        text = key.decode()
    except (KeyError, UnicodeDecodeError, AttributeError, TypeError):
        return None
    # A key on a type that is defined as a fact does not make it a state.
    return Envelope(name, subject, event_id, text if _coalesces(name) else None)


@lru_cache(maxsize=1024)
def _coalesces(name: str) -> bool:
    return delivery(name, keyed=True) is Delivery.STATE


def envelope_of(event: Event) -> Envelope:
    """Return what the headers of a decoded event would say."""
    key = None
    if delivery(event.type, keyed=False) is Delivery.STATE:
        key = coalesce_key(event.entity_id, event.status, event.stage)
    return Envelope(event.type, event.subject, event.event_id, key)


def event_json(event: Event) -> bytes:
    """Return the event JSON that a client receives, without a cursor and on one line.

    The body is spliced in as the producer wrote it, so that its numbers keep their digits.

    Raises:
        RecordError: ``data_not_object``, or ``undecodable`` for a moment outside of the calendar.
    """
    body = _body(event.data)
    head = _head(event.type) + _moment(event.occurred_at)
    tail = b"}"
    if event.error_message is not None:
        tail = b',"errorMessage":' + orjson.dumps(event.error_message) + b"}"
    return head + b'",' + body + tail if body else head + b'"' + tail


@lru_cache(maxsize=1024)
def _head(event_type: str) -> bytes:
    return b'{"type":' + orjson.dumps(event_type) + b',"timestamp":"'


def _body(data: str) -> bytes:
    """Check that `data` is a JSON object and return its members, without the braces."""
    try:
        members = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise RecordError("data_not_object", str(exc)[:200]) from exc
    if not isinstance(members, dict):
        raise RecordError("data_not_object", f"a JSON {type(members).__name__}")
    if not members.keys().isdisjoint(RESERVED):
        return _without_reserved(data)
    text = data.encode()
    if b"\n" in text or b"\r" in text:
        # They can only be white space between tokens; a frame must not hold any (SSE).
        text = text.replace(b"\r", b" ").replace(b"\n", b" ")
    return text.strip()[1:-1].strip()


def _without_reserved(data: str) -> bytes:
    """Return the members of a JSON object, but for the reserved ones; numbers keep their digits."""
    try:
        members = json.loads(data, parse_int=orjson.Fragment, parse_float=orjson.Fragment)
        kept = {name: value for name, value in members.items() if name not in RESERVED}
        return orjson.dumps(kept)[1:-1]
    except (TypeError, RecursionError) as exc:  # orjson writes 254 levels and reads 1024
        raise RecordError("data_not_object", f"a reserved member, and {exc}") from exc


def _moment(occurred_at: int) -> bytes:
    seconds, micros = divmod(occurred_at, 1_000_000)
    return b"%b.%06d+00:00" % (_second(seconds), micros)


@lru_cache(maxsize=1024)
def _second(seconds: int) -> bytes:
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError as exc:
        raise RecordError("undecodable", f"{seconds} s since the epoch is no moment") from exc
    return moment.replace(tzinfo=None).isoformat(timespec="seconds").encode()

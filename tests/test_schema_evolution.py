"""The topic through time and other people's software: readers, writers and schemas not ours."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import avro.io
import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY, events

from tailrace.schemas import (
    EVENT_SCHEMA,
    Event,
    RecordError,
    UnavailableError,
    decode,
    encode,
    parse_schema,
)

EVENT = Event(
    event_id="0199f3a2-7c4d-7e11-8a3b-5f6071829304",
    type="agent.step.updated",
    occurred_at=1_795_428_930_123_456,
    project_id="proj-ü",
    kind="agent",
    run_id=None,
    entity_id="step-1",
    source="agent@host-1",
    seq=2**40,
    status="running",
    stage=None,
    progress=0.25,
    error_message=None,
    data='{"step":{"id":"step-1"}}',
)
TENANT = {"name": "tenant", "type": ["null", "string"], "default": None}
COST = {"name": "cost", "type": ["null", "double"], "default": None}
TAGS = {"name": "tags", "type": ["null", {"type": "array", "items": "string"}], "default": None}
NULLABLE = ["run_id", "entity_id", "status", "stage", "progress", "error_message"]


def packaged() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(EVENT_SCHEMA)
    return schema


def with_columns(*columns: dict[str, Any]) -> str:
    """Return the packaged schema with later columns."""
    schema = packaged()
    return json.dumps({**schema, "fields": [*schema["fields"], *columns]})


def without_column(name: str) -> str:
    schema = packaged()
    kept = [field for field in schema["fields"] if field["name"] != name]
    return json.dumps({**schema, "fields": kept})


def with_type(name: str, avro_type: object) -> str:
    schema = packaged()
    fields = [{**f, "type": avro_type} if f["name"] == name else f for f in schema["fields"]]
    return json.dumps({**schema, "fields": fields})


def written_with(schema: str, **columns: object) -> bytes:
    """Return the value that a producer in another language writes: framing, then its own schema."""
    parsed = plain(json.loads(schema))
    names = {field["name"] for field in parsed["fields"]}
    event = {name: value for name, value in EVENT._asdict().items() if name in names}
    out = io.BytesIO()
    writer = avro.io.DatumWriter(avro.schema.parse(json.dumps(parsed)))
    writer.write({**event, **columns}, avro.io.BinaryEncoder(out))
    return b"\x00\x00\x00\x00\x02" + out.getvalue()


def plain(schema: Any) -> Any:
    """Return the schema without logical types: Event holds the plain numbers and text."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if isinstance(schema, dict):
        return {name: plain(item) for name, item in schema.items() if name != "logicalType"}
    return schema


def read_by_avro(value: bytes, reader: str = EVENT_SCHEMA) -> dict[str, Any]:
    """Read a value as other software does: past the framing, logical types on."""
    datum = avro.io.DatumReader(avro.schema.parse(EVENT_SCHEMA), avro.schema.parse(reader))
    body = io.BytesIO(value[5:])
    columns: Any = datum.read(avro.io.BinaryDecoder(body))
    assert body.read() == b""
    return dict(columns)


def reads(reader: str, writer: str) -> bool:
    """Tell whether a reader with one schema reads everything written with the other."""
    checker: Any = ReaderWriterCompatibilityChecker
    result = checker().get_compatibility(avro.schema.parse(reader), avro.schema.parse(writer))
    return bool(result.compatibility == SchemaCompatibilityType.compatible)


def fully_compatible(*versions: str) -> bool:
    """Tell whether a registry with FULL_TRANSITIVE takes these versions, one after another."""
    return all(reads(a, b) for a in versions for b in versions)


# Third-party software and the packaged schema


def test_the_packaged_schema_is_good_avro_for_others() -> None:
    schema: Any = avro.schema.parse(EVENT_SCHEMA)
    assert schema.fullname == "tailrace.v1.Event"
    assert [field.name for field in schema.fields] == list(Event._fields)


def test_every_column_is_documented() -> None:
    assert all(field["doc"] for field in packaged()["fields"])


def test_exactly_the_nullable_columns_have_a_default() -> None:
    defaults = {f["name"]: f["default"] for f in packaged()["fields"] if "default" in f}
    assert defaults == dict.fromkeys(NULLABLE)
    assert [f["name"] for f in packaged()["fields"] if isinstance(f["type"], list)] == NULLABLE


def test_logical_types_are_declared_for_analysts() -> None:
    declared = {
        field["name"]: field["type"]["logicalType"]
        for field in packaged()["fields"]
        if isinstance(field["type"], dict)
    }
    assert declared == {"event_id": "uuid", "occurred_at": "timestamp-micros"}


@PROPERTY
@given(events(), st.integers(min_value=0, max_value=4 * 10**15))
def test_a_third_party_reader_reads_what_we_write(event: Event, occurred_at: int) -> None:
    columns = read_by_avro(encode(event._replace(occurred_at=occurred_at)))
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=occurred_at)
    assert columns == {**event._asdict(), "occurred_at": moment}


def test_a_reader_with_later_columns_reads_what_we_write() -> None:
    columns = read_by_avro(encode(EVENT), with_columns(TENANT, COST, TAGS))
    assert (columns["tenant"], columns["cost"], columns["tags"]) == (None, None, None)
    assert columns["data"] == EVENT.data


# Versions of the schema


def test_nullable_columns_may_be_appended_for_ever() -> None:
    assert fully_compatible(
        EVENT_SCHEMA,
        with_columns(TENANT),
        with_columns(TENANT, COST),
        with_columns(TENANT, COST, TAGS),
    )


@pytest.mark.parametrize(
    "next_schema",
    [
        with_columns({"name": "tenant", "type": "string"}),
        with_columns({"name": "tenant", "type": ["null", "string"]}),
        with_type("seq", "string"),
        with_type("seq", "double"),
        with_type("progress", ["null", "double", "string"]),
        with_type("run_id", "string"),
        without_column("seq"),
        without_column("data"),
    ],
    ids=[
        "required column",
        "no default",
        "another type",
        "a wider number",
        "another branch",
        "no longer nullable",
        "seq removed",
        "data removed",
    ],
)
def test_any_other_evolution_is_seen_to_be_incompatible(next_schema: str) -> None:
    assert not fully_compatible(EVENT_SCHEMA, next_schema)


# Reading records of other writers


def test_a_foreign_writer_of_the_packaged_schema_is_read() -> None:
    assert decode(written_with(EVENT_SCHEMA)) == EVENT


def test_a_wider_record_reads_well_without_a_registry() -> None:
    value = written_with(with_columns(TENANT, COST, TAGS), tenant="t", cost=1.5, tags=["a", "b"])
    assert decode(value) == EVENT


@PROPERTY
@given(events(), st.none() | st.text(st.characters(codec="utf-8")), st.none() | st.floats())
def test_any_wider_record_reads_well(event: Event, tenant: str | None, cost: float | None) -> None:
    schema = with_columns(TENANT, COST)
    value = written_with(schema, **event._asdict(), tenant=tenant, cost=cost)
    assert decode(value) == event
    parsed = parse_schema(schema)
    assert decode(value, lambda _id: parsed) == event


def test_the_schema_is_asked_for_by_the_id_of_the_record() -> None:
    asked = []

    def schema_of(schema_id: int) -> dict[str, Any]:
        asked.append(schema_id)
        return parse_schema(EVENT_SCHEMA)

    assert decode(encode(EVENT, 1), schema_of) == decode(encode(EVENT, 2**31 - 1), schema_of)
    assert asked == [1, 2**31 - 1]


def decoded(value: bytes, schema: str) -> Event:
    parsed = parse_schema(schema)
    return decode(value, lambda _id: parsed)


@pytest.mark.parametrize("name", NULLABLE)
def test_a_narrower_record_has_none_for_a_nullable_column(name: str) -> None:
    schema = without_column(name)
    expected = EVENT._asdict() | {name: None}
    assert decoded(written_with(schema), schema)._asdict() == expected


def test_a_writer_may_order_its_columns_otherwise() -> None:
    schema = packaged()
    reordered = json.dumps({**schema, "fields": [TENANT, *reversed(schema["fields"])]})
    assert decoded(written_with(reordered, tenant="t"), reordered) == EVENT


def test_a_writer_may_name_its_record_otherwise() -> None:
    schema = json.dumps({**packaged(), "name": "Row", "namespace": "com.example"})
    assert decoded(written_with(schema), schema) == EVENT


def assert_undecodable(value: bytes, schema: str) -> None:
    with pytest.raises(RecordError) as caught:
        decoded(value, schema)
    assert caught.value.reason == "undecodable"


@pytest.mark.parametrize("name", [n for n in Event._fields if n not in NULLABLE])
def test_a_record_without_a_required_column_is_undecodable(name: str) -> None:
    schema = without_column(name)
    assert_undecodable(written_with(schema), schema)


@pytest.mark.parametrize(
    ("name", "avro_type", "value"),
    [
        ("seq", "string", "1"),
        ("seq", "boolean", True),
        ("seq", "double", 1.0),
        ("seq", ["null", "long"], None),
        ("occurred_at", "string", "2026-11-23"),
        ("data", "bytes", b"{}"),
        ("data", {"type": "map", "values": "string"}, {"a": "b"}),
        ("project_id", ["null", "string"], None),
        ("progress", ["null", "string"], "0.5"),
        ("status", ["null", "int"], 3),
    ],
)
def test_a_column_of_another_type_is_undecodable(name: str, avro_type: Any, value: object) -> None:
    schema = with_type(name, avro_type)
    assert_undecodable(written_with(schema, **{name: value}), schema)


def test_a_column_that_is_nullable_elsewhere_is_read_when_it_is_there() -> None:
    schema = with_type("seq", ["null", "long"])
    assert decoded(written_with(schema), schema) == EVENT


@PROPERTY
@given(st.binary(max_size=60))
def test_a_record_of_a_foreign_schema_is_undecodable(body: bytes) -> None:
    schema = '{"type":"record","name":"Order","fields":[{"name":"id","type":["null","long"]}]}'
    assert_undecodable(b"\x00\x00\x00\x00\x02" + body, schema)


def test_an_id_whose_schema_is_no_record_is_undecodable() -> None:
    with pytest.raises(RecordError) as caught:
        decode(encode(EVENT), lambda _id: parse_schema('"string"'))
    assert caught.value.reason == "undecodable"


def test_a_registry_that_does_not_answer_is_not_the_fault_of_the_record() -> None:
    def schema_of(_id: int) -> dict[str, Any]:
        raise UnavailableError("the registry does not answer")

    with pytest.raises(UnavailableError):
        decode(encode(EVENT), schema_of)

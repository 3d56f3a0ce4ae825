import io
import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import INT32, INT64, PROPERTY, body_texts, events, texts

from tailrace.schemas import (
    EVENT_SCHEMA,
    RESERVED,
    Delivery,
    Envelope,
    Event,
    RecordError,
    Subject,
    decode,
    delivery,
    encode,
    envelope_of,
    event_json,
    headers_of,
    parse_headers,
    parse_schema,
)

EVENT = Event(
    event_id="0199f3a2-7c4d-7e11-8a3b-5f6071829304",
    type="ingest.job.updated",
    occurred_at=1_795_428_930_123_456,
    project_id="proj-ü",
    kind="ingest",
    run_id="job/7",
    entity_id="job/7",
    source="ingest@host-1",
    seq=300,
    status="running",
    stage="parse",
    progress=0.25,
    error_message=None,
    data='{"job":{"id":"job/7","progress":0.250}}',
)
VALUE = (
    b"\x00\x00\x00\x00\x07"  # Confluent framing V0, schema id 7
    b"\x480199f3a2-7c4d-7e11-8a3b-5f6071829304"
    b"\x24ingest.job.updated"
    b"\x80\xdb\xcb\xf9\xdb\xbb\xb0\x06"
    b"\x0eproj-\xc3\xbc"
    b"\x0cingest"
    b"\x02\x0ajob/7"
    b"\x02\x0ajob/7"
    b"\x1aingest@host-1"
    b"\xd8\x04"
    b"\x02\x0erunning"
    b"\x02\x0aparse"
    b"\x02\x00\x00\x00\x00\x00\x00\xd0\x3f"
    b"\x00"
    b'\x4e{"job":{"id":"job/7","progress":0.250}}'
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = [
    ("content-type", b"application/avro"),
    ("ce_specversion", b"1.0"),
    ("ce_id", b"0199f3a2-7c4d-7e11-8a3b-5f6071829304"),
    ("ce_source", b"ingest@host-1"),
    ("ce_type", b"ingest.job.updated"),
    ("ce_subject", b"ingest/job/7"),
    ("ce_coalescekey", b"job%2F7|running|parse"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]
JSON = (
    b'{"type":"ingest.job.updated","timestamp":"2026-11-23T10:15:30.123456+00:00",'
    b'"job":{"id":"job/7","progress":0.250}}'
)


def reason_of(value: bytes) -> str | None:
    """Return why a value is refused; None when it decodes."""
    try:
        decode(value)
    except RecordError as exc:
        return exc.reason
    return None


def rendered(event: Event) -> tuple[dict[str, Any], str | None]:
    """Return the event JSON, parsed; or nothing and why it is refused."""
    try:
        return json.loads(event_json(event)), None
    except RecordError as exc:
        return {}, exc.reason


def headers_but(**changes: bytes | None) -> list[tuple[str, Any]]:
    """Return the golden headers with some of them replaced, or left out where None."""
    kept = [(name, changes.get(name, value)) for name, value in HEADERS]
    return [(name, value) for name, value in kept if value is not None]


# The value of a record


def test_the_bytes_on_the_wire_are_those_of_earlier_releases() -> None:
    assert encode(EVENT, 7) == VALUE
    assert decode(VALUE) == EVENT


@PROPERTY
@given(events())
def test_value_is_what_fastavro_writes_by_the_schema(event: Event) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parse_schema(EVENT_SCHEMA), event._asdict())
    assert encode(event)[5:] == out.getvalue()


def test_the_packaged_schema_has_id_1() -> None:
    assert encode(EVENT)[:5] == b"\x00\x00\x00\x00\x01"


@PROPERTY
@given(events(), INT32)
def test_any_event_survives_the_way_through_kafka(event: Event, schema_id: int) -> None:
    value = encode(event, schema_id)
    assert value[:5] == b"\x00" + schema_id.to_bytes(4, "big")
    assert decode(value) == event


@PROPERTY
@given(events(), st.binary(max_size=20))
def test_columns_after_the_last_known_one_are_ignored(event: Event, later: bytes) -> None:
    assert decode(encode(event) + later) == event


@PROPERTY
@given(st.binary(max_size=400), st.booleans())
@example(b"", False)
def test_any_bytes_are_an_event_or_undecodable(body: bytes, framed: bool) -> None:  # noqa: FBT001
    assert reason_of(b"\x00\x00\x00\x00\x01" * framed + body) in {None, "undecodable"}


@PROPERTY
@given(
    st.integers(min_value=0, max_value=len(VALUE)),
    st.binary(max_size=12),
    st.integers(min_value=0, max_value=12),
)
def test_a_damaged_value_is_an_event_or_undecodable(at: int, put: bytes, cut: int) -> None:
    assert reason_of(VALUE[:at] + put + VALUE[at + cut :]) in {None, "undecodable"}


@pytest.mark.parametrize("length", range(len(VALUE)))
def test_a_truncated_value_is_undecodable(length: int) -> None:
    assert reason_of(VALUE[:length]) == "undecodable"


@pytest.mark.parametrize("magic", [1, 2, 0x7B, 0xFF])
def test_another_framing_is_undecodable(magic: int) -> None:
    with pytest.raises(RecordError, match="magic byte"):
        decode(bytes([magic]) + VALUE[1:])


@pytest.mark.parametrize("exponent", [31, 40, 62, 63])
def test_a_length_beyond_the_record_allocates_nothing(exponent: int) -> None:
    zigzag, length = 2 * (2**exponent - 1), bytearray()
    while zigzag > 0x7F:
        length.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    assert reason_of(VALUE[:5] + bytes([*length, zigzag]) + VALUE[6:]) == "undecodable"


def test_text_that_is_not_utf8_is_undecodable() -> None:
    assert reason_of(VALUE.replace(b"\xc3\xbc", b"\xc3\xc3")) == "undecodable"


@pytest.mark.parametrize(
    "columns",
    [
        {"project_id": "\ud800"},
        {"data": '"\udfff"'},
        {"seq": 2**63},
        {"occurred_at": -(2**63) - 1},
        {"type": None},
        {"seq": None},
        {"run_id": 7},
        {"progress": "half"},
        {"data": b"{}"},
    ],
)
def test_an_event_that_the_record_cannot_hold_is_a_value_error(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode(EVENT._replace(**columns))


# The headers of a record


def test_the_headers_are_those_of_earlier_releases() -> None:
    assert headers_of(EVENT, TRACEPARENT) == HEADERS


def test_no_trace_no_traceparent() -> None:
    assert headers_of(EVENT) == HEADERS[:-1]


def test_a_fact_has_no_coalesce_key() -> None:
    fact = EVENT._replace(type="ingest.job.completed")
    assert "ce_coalescekey" not in dict(headers_of(fact))
    assert envelope_of(fact).coalesce_key is None


def test_a_type_of_ones_own_has_no_coalesce_key() -> None:
    own = EVENT._replace(type="billing.invoice.sent", kind="custom")
    assert "ce_coalescekey" not in dict(headers_of(own))
    assert envelope_of(own).coalesce_key is None


@pytest.mark.parametrize("run_id", [None, ""])
def test_without_a_run_the_subject_is_the_kind_alone(run_id: str | None) -> None:
    event = EVENT._replace(run_id=run_id)
    assert dict(headers_of(event))["ce_subject"] == b"ingest"
    assert envelope_of(event).subject == Subject("ingest", None)


@PROPERTY
@given(events(), st.none() | st.just(TRACEPARENT))
@example(EVENT._replace(run_id=""), None)
@example(EVENT._replace(run_id="/"), None)
@example(EVENT._replace(status="a|b", stage="%"), None)
def test_headers_say_what_the_decoded_event_says(event: Event, traceparent: str | None) -> None:
    headers = headers_of(event, traceparent)
    assert parse_headers(headers) == envelope_of(event)
    assert parse_headers(reversed(headers)) == envelope_of(decode(encode(event)))
    keyed = "ce_coalescekey" in dict(headers)
    assert keyed is (delivery(event.type, keyed=False) is Delivery.STATE)


def test_an_envelope_is_enough_to_route_and_coalesce() -> None:
    assert parse_headers(HEADERS) == Envelope(
        "ingest.job.updated",
        Subject("ingest", "job/7"),
        "0199f3a2-7c4d-7e11-8a3b-5f6071829304",
        "job%2F7|running|parse",
    )


def test_headers_of_other_software_are_ignored() -> None:
    others = [("ce_time", b"\xff"), ("x", b""), *HEADERS, ("__connect.errors", b"\x00")]
    assert parse_headers(others) == parse_headers(HEADERS)


@pytest.mark.parametrize("missing", ["ce_id", "ce_type", "ce_subject", "ce_coalescekey"])
def test_a_state_without_one_of_the_four_headers_must_be_decoded(missing: str) -> None:
    assert parse_headers(headers_but(**{missing: None})) is None


def test_a_record_without_headers_must_be_decoded() -> None:
    assert parse_headers([]) is None


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "ce_subject", "ce_coalescekey"])
def test_a_header_that_is_not_utf8_must_be_decoded(name: str) -> None:
    assert parse_headers(headers_but(**{name: b"\xff\xfe"})) is None


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "ce_subject"])
def test_a_null_header_must_be_decoded(name: str) -> None:
    headers: list[tuple[str, Any]] = [*HEADERS, (name, None)]
    assert parse_headers(headers) is None


@pytest.mark.parametrize("name", ["ce_specversion", "ce_source", "content-type", "traceparent"])
def test_the_other_headers_are_not_needed(name: str) -> None:
    assert parse_headers(headers_but(**{name: None})) == parse_headers(HEADERS)


def test_a_key_does_not_make_a_state_of_a_fact() -> None:
    envelope = parse_headers(headers_but(ce_type=b"ingest.job.failed"))
    assert envelope is not None
    assert envelope.coalesce_key is None


def test_a_key_makes_a_state_of_an_unknown_type() -> None:
    envelope = parse_headers(headers_but(ce_type=b"billing.invoice.changed"))
    assert envelope is not None
    assert envelope.coalesce_key == "job%2F7|running|parse"


def test_an_unknown_type_needs_no_key() -> None:
    envelope = parse_headers(headers_but(ce_type=b"billing.invoice.sent", ce_coalescekey=None))
    assert envelope is not None
    assert envelope.coalesce_key is None


@PROPERTY
@given(st.dictionaries(st.sampled_from([name for name, _ in HEADERS]), st.binary(max_size=20)))
def test_any_headers_are_an_envelope_or_must_be_decoded(headers: dict[str, bytes]) -> None:
    envelope = parse_headers(headers.items())
    assert envelope is None or envelope.type.encode() == headers["ce_type"]


# The event JSON


def test_the_event_json_is_that_of_earlier_releases() -> None:
    assert event_json(EVENT) == JSON


def test_error_message_stands_last() -> None:
    failed = EVENT._replace(error_message='no "parser" for \u2028 .xyz')
    last = ',"errorMessage":"no \\"parser\\" for \u2028 .xyz"}'.encode()
    assert event_json(failed) == JSON[:-1] + last


def test_an_empty_error_message_is_one() -> None:
    assert json.loads(event_json(EVENT._replace(error_message="")))["errorMessage"] == ""


@pytest.mark.parametrize("data", ["{}", " {\n} ", '{"type":1,"cursor":2}'])
def test_an_empty_body_leaves_the_envelope(data: str) -> None:
    head = b'{"type":"ingest.job.updated","timestamp":"2026-11-23T10:15:30.123456+00:00"'
    event = EVENT._replace(data=data)
    assert event_json(event) == head + b"}"
    assert event_json(event._replace(error_message="e")) == head + b',"errorMessage":"e"}'


@PROPERTY
@given(events(data=body_texts()), st.integers(min_value=-(10**16), max_value=10**17))
def test_the_event_json_is_the_envelope_and_the_body_on_one_line(event: Event, at: int) -> None:
    text = event_json(event._replace(occurred_at=at))
    body = {k: v for k, v in json.loads(event.data).items() if k not in RESERVED}
    received = json.loads(text)
    moment = datetime.fromisoformat(received.pop("timestamp"))
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == at
    assert received.pop("type") == event.type
    assert received.pop("errorMessage", None) == event.error_message
    assert received == body
    assert b"\n" not in text
    assert b"\r" not in text


@PROPERTY
@given(body_texts())
def test_numbers_keep_their_digits(data: str) -> None:
    def as_written(text: str | bytes) -> Any:
        return json.loads(text, parse_int=str, parse_float=str)

    body = {name: value for name, value in as_written(data).items() if name not in RESERVED}
    received = as_written(event_json(EVENT._replace(data=data)))
    assert {name: received[name] for name in body} == body


def test_numbers_that_no_double_can_hold_keep_their_digits() -> None:
    data = '{"a":12345678901234567890123,"b":1.10,"c":1E2,"d":0.1000000000000000000001,"e":-0}'
    members = data[1:-1].encode()
    assert members in event_json(EVENT._replace(data=data))
    assert members in event_json(EVENT._replace(data='{"cursor":1,' + data[1:]))


@PROPERTY
@given(st.sampled_from(RESERVED), st.booleans(), texts)
def test_a_body_never_overrides_the_envelope(name: str, escaped: bool, value: str) -> None:  # noqa: FBT001
    spelled = f"\\u{ord(name[0]):04x}{name[1:]}" if escaped else name
    forged = json.dumps(value)
    data = f'{{"{spelled}":{forged}, "job": {{"{name}":1}}, "{spelled}":{forged}}}'
    event = EVENT._replace(data=data, error_message="e")
    received = json.loads(event_json(event), object_pairs_hook=list)
    assert received == [
        ("type", EVENT.type),
        ("timestamp", "2026-11-23T10:15:30.123456+00:00"),
        ("job", [(name, 1)]),
        ("errorMessage", "e"),
    ]


def test_pretty_printed_data_comes_out_on_one_line() -> None:
    data = '\r\n{\r\n  "job": {\n\t"text": "a\\nb",\r"n": 1\n  }\n}\n'
    text = event_json(EVENT._replace(data=data))
    assert len(text.splitlines()) == 1
    assert json.loads(text)["job"] == {"text": "a\nb", "n": 1}


@pytest.mark.parametrize(
    "data",
    [
        "",
        " ",
        "null",
        "true",
        "7",
        '"text"',
        "[]",
        '[{"job":{}}]',
        "{",
        "{}{}",
        '{"job":{}},',
        '{"a":1,}',
        "{'a':1}",
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":[1.0,NaN]}',
        '{"a":"\n"}',
        '{"a":"\\ud800"}',
        '{"a":"\ud800"}',
        '{"type":NaN}',
        '\ufeff{"a":1}',
        '\u00a0{"a":1}',
        '{"a":' * 100_000,
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type":1,"a":' + "[" * 300 + "]" * 300 + "}",
        '{"type":1,"a":' + "[" * 1015 + "]" * 1015 + "}",
    ],
    ids=itertools.count(),
)
def test_data_that_is_no_json_object_is_refused(data: str) -> None:
    with pytest.raises(RecordError) as caught:
        event_json(EVENT._replace(data=data))
    assert caught.value.reason == "data_not_object"
    assert len(str(caught.value)) < 300


@PROPERTY
@given(events() | events(data=body_texts()))
def test_an_event_is_rendered_or_refused_with_a_reason(event: Event) -> None:
    received, reason = rendered(event)
    assert (received.get("type"), reason) in {
        (event.type, None),
        (None, "data_not_object"),
        (None, "undecodable"),
    }


@pytest.mark.parametrize(
    ("occurred_at", "timestamp"),
    [
        (0, "1970-01-01T00:00:00.000000+00:00"),
        (1, "1970-01-01T00:00:00.000001+00:00"),
        (1_000_000, "1970-01-01T00:00:01.000000+00:00"),
        (-1, "1969-12-31T23:59:59.999999+00:00"),
        (-62_135_596_800_000_000, "0001-01-01T00:00:00.000000+00:00"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_timestamps_are_utc_with_microseconds(occurred_at: int, timestamp: str) -> None:
    text = event_json(EVENT._replace(occurred_at=occurred_at))
    assert json.loads(text)["timestamp"] == timestamp


@pytest.mark.parametrize(
    "occurred_at",
    [-62_135_596_800_000_001, 253_402_300_800_000_000, 2**63 - 1, -(2**63)],
)
def test_a_moment_outside_of_the_calendar_is_undecodable(occurred_at: int) -> None:
    with pytest.raises(RecordError) as caught:
        event_json(EVENT._replace(occurred_at=occurred_at))
    assert caught.value.reason == "undecodable"


@PROPERTY
@given(INT64)
def test_any_moment_is_rendered_or_refused(occurred_at: int) -> None:
    received, reason = rendered(EVENT._replace(occurred_at=occurred_at))
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"
    assert reason == "undecodable" or re.fullmatch(pattern, received["timestamp"])


# Schemas


def test_logical_types_cost_nothing_at_run_time() -> None:
    assert "logicalType" in EVENT_SCHEMA
    assert "logicalType" not in json.dumps(parse_schema(EVENT_SCHEMA))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[" * 100_000,
        "null",
        "5",
        "true",
        "{}",
        "[]",
        '"string"',
        '["null","string"]',
        '{"type":"string"}',
        '{"type":"array","items":"string"}',
        '{"type":"map","values":"string"}',
        '{"type":"enum","name":"E"}',
        '{"type":"fixed","name":"F"}',
        '{"type":"nothing"}',
        '{"type":{"type":"string"}}',
        '{"type":"record","fields":[]}',
        '{"type":"record","name":5,"fields":[]}',
        '{"type":"record","name":"R","fields":5}',
        '{"type":"record","name":"R","fields":[5]}',
        '{"type":"record","name":"R","fields":[{"name":"a"}]}',
        '{"type":"record","name":"R","fields":[{"name":"a","type":"Q"}]}',
    ],
    ids=itertools.count(),
)
def test_text_that_is_no_record_schema_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_schema(text)


@pytest.mark.parametrize(
    "inner",
    [
        '"a.R"',
        '"R"',
        '["null","R"]',
        '{"type":"array","items":"R"}',
        '{"type":"map","values":["null","R"]}',
        '{"type":"record","name":"Q","fields":[{"name":"r","type":"R"}]}',
    ],
)
def test_a_recursive_schema_is_refused(inner: str) -> None:
    # Decoding with one can end the process: fastavro's reader recurses in C, without a limit.
    text = '{"type":"record","name":"R","namespace":"a","fields":[{"name":"x","type":%s}]}'
    with pytest.raises(ValueError, match="recursive"):
        parse_schema(text % inner)


def test_a_named_type_that_is_used_twice_is_not_recursive() -> None:
    twice: list[object] = [{"name": "a", "type": {"type": "record", "name": "Q", "fields": []}}]
    twice.append({"name": "b", "type": "Q"})
    text = json.dumps({"type": "record", "name": "R", "fields": twice})
    assert parse_schema(text)["name"] == "R"

import json
import typing

from tailrace.schemas import EVENT_SCHEMA, Envelope, Event, Position, Subject

AVRO_TYPES: dict[object, object] = {
    str: "string",
    int: "long",
    str | None: ["null", "string"],
    float | None: ["null", "double"],
}


def an_event(**columns: object) -> Event:
    defaults: dict[str, typing.Any] = dict.fromkeys(Event._fields)
    return Event(**{**defaults, **columns})


def test_event_has_the_columns_of_the_packaged_schema_in_their_order() -> None:
    fields = json.loads(EVENT_SCHEMA)["fields"]
    assert list(Event._fields) == [field["name"] for field in fields]


def test_event_has_the_types_of_the_packaged_schema() -> None:
    hints = typing.get_type_hints(Event)
    for field in json.loads(EVENT_SCHEMA)["fields"]:
        kind = field["type"]
        plain = kind["type"] if isinstance(kind, dict) else kind
        assert AVRO_TYPES[hints[field["name"]]] == plain, field["name"]


def test_subject_is_kind_and_run() -> None:
    assert an_event(kind="ingest", run_id="7").subject == Subject("ingest", "7")


def test_equal_run_ids_of_different_kinds_are_different_subjects() -> None:
    assert an_event(kind="ingest", run_id="7").subject != an_event(kind="agent", run_id="7").subject


def test_an_empty_run_id_is_no_run() -> None:
    assert an_event(kind="ingest", run_id="").subject == Subject("ingest", None)
    assert an_event(kind="ingest", run_id=None).subject == Subject("ingest", None)


def test_order_of_members_is_part_of_the_interface() -> None:
    assert Subject._fields == ("kind", "run_id")
    assert Position._fields == ("partition", "offset", "timestamp_ms", "partitions", "topic_id")
    assert Envelope._fields == ("type", "subject", "event_id", "coalesce_key")

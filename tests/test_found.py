import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY, json_values
from test_payload import anything

from tailrace.producers.found import Found, find
from tailrace.producers.payload import RUN_ID_NAMES, Body, body_of
from tailrace.schemas import EVENT_TYPES


def found(event_type: str, value: object, member: str | None = None) -> Found:
    return find(event_type, Body(member, orjson.dumps(value)))


@pytest.mark.parametrize("name", RUN_ID_NAMES)
def test_every_name_of_a_run_id_is_found(name: str) -> None:
    assert found("agent.step.updated", {"id": "s", name: "r"}, "step").run_id == "r"


def test_first_name_of_a_run_id_wins() -> None:
    body: dict[str, object] = {name: name for name in reversed(RUN_ID_NAMES)}
    assert found("x.y", body).run_id == "run_id"


@pytest.mark.parametrize(
    ("event_type", "member", "expected"),
    [
        ("ingest.job.updated", "job", "own"),
        ("agent.run.created", "run", "own"),
        ("workflow.run.created", None, "own"),
        ("agent.step.updated", "run", "own"),
        ("agent.step.updated", "step", None),
        ("agent.message.appended", "message", None),
        ("workflow.node.started", None, None),
        ("my.own", None, None),
    ],
)
def test_own_id_is_the_run_of_a_job_or_run_only(
    event_type: str, member: str | None, expected: str | None
) -> None:
    assert found(event_type, {"id": "own"}, member).run_id == expected


def test_numbers_as_ids_become_text_and_other_values_count_as_missing() -> None:
    assert found("x.y", {"run_id": 7}).run_id == "7"
    missing: list[object] = [None, "", True, [], {}]
    for value in missing:
        assert found("x.y", {"run_id": value, "job_id": "j"}).run_id == "j"


@pytest.mark.parametrize(
    ("body", "entity"),
    [
        ({"id": "i", "node_id": "n"}, "i"),
        ({"node_id": "n", "node": "x"}, "n"),
        ({"node": "x", "name": "y"}, "x"),
        ({"name": "y"}, "y"),
        ({}, None),
    ],
)
def test_entity_is_the_first_of_its_names(body: dict[str, object], entity: str | None) -> None:
    assert found("workflow.node_state.updated", body).entity_id == entity


@pytest.mark.parametrize(
    ("member", "body", "stage"),
    [
        ("job", {"stage": "PARSE", "node": "n"}, "PARSE"),
        ("nodeState", {"node": "n", "name": "x"}, "n"),
        ("step", {"name": "plan"}, "plan"),
        ("job", {"name": "report.pdf"}, None),
    ],
)
def test_stage_is_the_node_or_the_steps_name(
    member: str, body: dict[str, object], stage: str | None
) -> None:
    assert found("my.own", body, member).stage == stage


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0, 0.0), (0.5, 0.5), (1, 1.0), (-0.1, None), (1.01, None), (True, None), ("0.5", None)],
)
def test_progress_outside_of_its_range_is_no_column(
    progress: object, expected: float | None
) -> None:
    made = found("ingest.job.updated", {"id": "j", "progress": progress}, "job")
    assert made.progress == expected
    assert orjson.loads(made.data)["job"]["progress"] == progress


def test_error_message_is_found() -> None:
    assert found("ingest.job.failed", {"error_message": "boom"}, "job").error_message == "boom"


def test_members_at_the_top_win_over_those_inside_of_the_types_member() -> None:
    body = {
        "run_id": "outer",
        "nodeState": {"run_id": "inner", "id": "n", "status": "RUNNING", "node": "fetch"},
    }
    made = found("workflow.node_state.updated", body)
    assert (made.run_id, made.entity_id, made.status, made.stage) == (
        "outer",
        "n",
        "RUNNING",
        "fetch",
    )
    assert orjson.loads(made.data) == body


def test_members_inside_of_another_types_member_are_not_searched() -> None:
    assert found("workflow.run.updated", {"nodeState": {"run_id": "r"}}).run_id is None


def test_member_is_wrapped_around_the_text_as_it_was() -> None:
    made = find("ingest.job.updated", Body("job", b'{"id": "j",  "n": 1.0}'))
    assert made.data == '{"job":{"id": "j",  "n": 1.0}}'


def test_constants_that_json_lacks_become_null() -> None:
    made = find("x.y", Body(None, b'{"a":NaN,"b":[-Infinity,1e999],"run_id":"r"}'))
    assert orjson.loads(made.data) == {"a": None, "b": [None, None], "run_id": "r"}
    assert made.run_id == "r"
    assert not made.reduced


@pytest.mark.parametrize(
    "text", [b'{"a":"\\ud800"}', b"{", b"", b"[1]", b"[" * 5000 + b"]" * 5000], ids=repr
)
def test_text_that_cannot_be_read_back_is_reduced(text: bytes) -> None:
    made = find("x.y", Body(None, text))
    assert made.reduced
    assert orjson.loads(made.data) == {"_omitted": "not_json"}


@PROPERTY
@given(json_values, st.sampled_from([*EVENT_TYPES, "my.own"]), st.sampled_from([None, "job"]))
def test_any_json_gives_an_object(value: object, event_type: str, member: str | None) -> None:
    made = find(event_type, Body(member, json.dumps(value).encode()))
    assert isinstance(orjson.loads(made.data), dict)


@PROPERTY
@given(anything, st.sampled_from([*EVENT_TYPES, "my.own"]), st.booleans())
def test_any_payload_gives_an_object(payload: object, event_type: str, spread: bool) -> None:  # noqa: FBT001
    body = body_of(event_type, payload, spread=spread, max_bytes=10_000)
    assert isinstance(orjson.loads(find(event_type, body).data), dict)

import json
import math
from collections import OrderedDict, UserDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NoReturn
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel
from strategies import PROPERTY

from tailrace.producers.payload import (
    NOT_JSON,
    TOO_LARGE,
    UNSUPPORTED,
    Body,
    body_of,
    reduced_json,
)
from tailrace.schemas import (
    EVENT_TYPES,
    MODEL_MEMBERS,
    RESERVED,
    AgentMessage,
    AgentNodeState,
    AgentRun,
    AgentStep,
    IngestJob,
    WorkflowRun,
    body_member,
)

UID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


class Color(Enum):
    RED = "red"


class Foreign(BaseModel):
    id: str
    status: Color = Color.RED
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)


class Excluding(BaseModel):
    id: str
    secret: str | None = None

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        return super().model_dump(**{**kwargs, "exclude_none": True})


class SubJob(IngestJob):
    pages: int = 3


@dataclass
class Plain:
    id: str
    status: str = "RUNNING"
    tags: set[str] = field(default_factory=lambda: {"a"})


class Hostile:
    id = "h1"
    progress = math.inf

    @property
    def status(self) -> NoReturn:
        raise RuntimeError("no")


def body(payload: object, event_type: str = "ingest.job.updated", *, spread: bool = False) -> Body:
    return body_of(event_type, payload, spread=spread, max_bytes=900_000)


def value(payload: object, event_type: str = "x.y", *, spread: bool = True) -> Any:
    return orjson.loads(body(payload, event_type, spread=spread).json)


@pytest.mark.parametrize(
    ("model", "member"),
    [
        (IngestJob(id="1"), "job"),
        (AgentRun(id="1"), "run"),
        (AgentStep(id="1"), "step"),
        (AgentNodeState(id="1"), "nodeState"),
        (AgentMessage(id="1"), "message"),
        (WorkflowRun(id="1"), "run"),
        (SubJob(id="1"), "job"),
    ],
)
@pytest.mark.parametrize("event_type", [*EVENT_TYPES, "my.own.type"])
@pytest.mark.parametrize("spread", [False, True])
def test_our_models_go_under_their_own_member_whatever_the_type(
    model: BaseModel, member: str, event_type: str, *, spread: bool
) -> None:
    made = body(model, event_type, spread=spread)
    assert made.member == member
    assert orjson.loads(made.json) == model.model_dump(mode="json")


def test_every_model_of_ours_is_covered() -> None:
    assert set(MODEL_MEMBERS.values()) == {"job", "run", "step", "nodeState", "message"}


@pytest.mark.parametrize("event_type", EVENT_TYPES)
@pytest.mark.parametrize("payload", [Foreign(id="1"), Plain(id="1")])
@pytest.mark.parametrize("spread", [False, True])
def test_foreign_model_goes_under_the_types_member(
    event_type: str, payload: object, *, spread: bool
) -> None:
    assert body(payload, event_type, spread=spread).member == body_member(event_type)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_dict_goes_under_the_types_member_unless_it_spreads(event_type: str) -> None:
    assert body({"a": 1}, event_type).member == body_member(event_type)
    assert body({"a": 1}, event_type, spread=True).member is None


@pytest.mark.parametrize("payload", [{"a": 1}, MappingProxyType({"a": 1}), UserDict({"a": 1})])
def test_type_of_ones_own_puts_a_mapping_at_the_top(payload: object) -> None:
    assert body(payload, "billing.invoice") == Body(None, b'{"a":1}')


def test_type_of_ones_own_puts_a_foreign_model_at_the_top() -> None:
    made = body(Plain(id="1", tags=set()), "billing.invoice")
    assert (made.member, orjson.loads(made.json)) == (
        None,
        {"id": "1", "status": "RUNNING", "tags": []},
    )


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_name_at_the_top_is_lost_and_said(name: str) -> None:
    assert body({name: "x", "a": 1}, spread=True) == Body(None, b'{"a":1}', lost=True)


def test_reserved_name_inside_of_a_member_stays() -> None:
    made = body({"type": "pdf"})
    assert made == Body("job", b'{"type":"pdf"}')


def test_reserved_names_of_a_foreign_model_at_the_top_are_lost() -> None:
    @dataclass
    class Typed:
        type: str = "x"
        a: int = 1

    assert body(Typed(), "my.own") == Body(None, b'{"a":1}', lost=True)


def test_values_that_pydantic_would_serialize_are_serialized_in_dicts() -> None:
    payload = {
        "model": Foreign(id="1"),
        "ours": SubJob(id="2"),
        "enum": Color.RED,
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "uuid": UID,
        "decimal": Decimal("1.50"),
        "set": {1},
        "frozen": frozenset({2}),
        "deque": deque([3]),
        "path": PurePosixPath("/a/b"),
        "plain": Plain(id="3"),
        "proxy": MappingProxyType({"k": Color.RED}),
        "error": ValueError("bad"),
        "mute": KeyError(),
        5: "number",
        UID: "uuid",
    }
    assert value(payload) == {
        "model": {"id": "1", "status": "red", "at": "2026-01-02T00:00:00Z"},
        "ours": json.loads(SubJob(id="2").model_dump_json()),
        "enum": "red",
        "at": "2026-01-02T00:00:00+00:00",
        "uuid": str(UID),
        "decimal": "1.50",
        "set": [1],
        "frozen": [2],
        "deque": [3],
        "path": "/a/b",
        "plain": {"id": "3", "status": "RUNNING", "tags": ["a"]},
        "proxy": {"k": "red"},
        "error": "bad",
        "mute": "KeyError",
        "5": "number",
        str(UID): "uuid",
    }


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_become_null(number: float) -> None:
    assert value({"a": [number], "b": {"c": number}}) == {"a": [None], "b": {"c": None}}
    assert value(IngestJob(id="1", progress=number), "ingest.job.updated")["progress"] is None
    assert value({"m": IngestJob(id="1", progress=number)})["m"]["progress"] is None


def test_integers_of_any_size_keep_their_digits() -> None:
    assert b"123456789012345678901234567890" in body({"a": 123456789012345678901234567890}).json


def test_model_that_overrides_model_dump_is_dumped_by_it() -> None:
    assert body(Excluding(id="1")).json == b'{"id":"1"}'


def job(**extra: object) -> IngestJob:
    return IngestJob(**{"id": "c1", "status": "RUNNING", "progress": 0.5, **extra})  # type: ignore[arg-type]


def _cycle() -> dict[str, object]:
    payload: dict[str, object] = {"id": "c1", "status": "RUNNING", "progress": 0.5}
    payload["self"] = payload
    return payload


@pytest.mark.parametrize(
    "payload",
    [
        _cycle(),
        {"id": "c1", "status": "RUNNING", "progress": 0.5, "raw": b"\xff"},
        {"id": "c1", "status": "RUNNING", "progress": 0.5, "text": "\ud800"},
        {"id": "c1", "status": "RUNNING", "progress": 0.5, "thing": object()},
        {"id": "c1", "status": "RUNNING", "progress": 0.5, (1, 2): "key"},
        {"id": "c1", "status": "RUNNING", "progress": 0.5, "lazy": iter([1])},
        job(raw=b"\xff"),
        job(text="\ud800"),
        job(thing=object()),
        job(cycle=_cycle()),
    ],
)
def test_payload_that_is_not_json_keeps_ids_status_and_progress(payload: object) -> None:
    made = body(payload)
    assert (made.member, made.omitted) == ("job", NOT_JSON)
    assert orjson.loads(made.json) == {
        "id": "c1",
        "status": "RUNNING",
        "progress": 0.5,
        "_omitted": NOT_JSON,
    }


def test_payload_that_is_too_large_is_reduced() -> None:
    expected = {"id": "j", "project_id": "p", "stage": "PARSE"}
    made = body(IngestJob.model_validate({**expected, "text": "x" * 900_000}))
    assert orjson.loads(made.json) == {**expected, "_omitted": TOO_LARGE}


def test_body_at_the_bound_is_sent_whole() -> None:
    payload = {"a": "x" * 92}
    assert body_of("x.y", payload, spread=True, max_bytes=100).omitted is None
    assert body_of("x.y", payload, spread=True, max_bytes=99).omitted == TOO_LARGE


def test_member_inside_of_a_spread_dict_is_reduced_as_well() -> None:
    payload = {
        "run_id": "r",
        "nodeState": {"id": "n", "node": "fetch", "blob": "x" * 900_000},
        "other": {"id": "gone"},
    }
    made = body(payload, "workflow.node_state.updated", spread=True)
    assert orjson.loads(made.json) == {
        "run_id": "r",
        "nodeState": {"id": "n", "node": "fetch", "_omitted": TOO_LARGE},
        "_omitted": TOO_LARGE,
    }


@pytest.mark.parametrize("payload", [None, "text", 5, [1], b"raw", object(), IngestJob, iter([])])
def test_payload_of_no_supported_kind_still_gives_a_body(payload: object) -> None:
    made = body(payload, "workflow.run.completed", spread=True)
    assert (made.member, made.omitted) == ("run", UNSUPPORTED)
    assert orjson.loads(made.json)["_omitted"] == UNSUPPORTED


def test_attributes_of_an_unknown_object_are_read_as_far_as_they_let_themselves() -> None:
    assert value(Hostile()) == {"id": "h1", "_omitted": UNSUPPORTED}


def test_list_as_root_model_has_no_members_for_the_top() -> None:
    made = body(RootModel[list[int]]([1]), "my.own")
    assert orjson.loads(made.json) == {"_omitted": NOT_JSON}
    assert body(RootModel[list[int]]([1])) == Body("job", b"[1]")


def test_ids_with_lone_surrogates_are_repaired_in_what_is_left() -> None:
    assert value({"id": "a\ud800"}) == {"id": "a?", "_omitted": NOT_JSON}


def test_iterator_is_left_to_the_caller() -> None:
    lazy = iter([1, 2])
    body({"id": "a", "lazy": lazy})
    assert list(lazy) == [1, 2]


def test_order_of_members_is_the_payloads() -> None:
    assert body(OrderedDict(b=1, a=2)).json == b'{"b":1,"a":2}'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            '{"job":{"id":"j","blob":"x"}}',
            {"job": {"id": "j", "_omitted": TOO_LARGE}},
        ),
        (
            '{"run_id":"r","nodeState":{"id":"n","x":1},"blob":[1]}',
            {"run_id": "r", "nodeState": {"id": "n", "_omitted": TOO_LARGE}, "_omitted": TOO_LARGE},
        ),
        ('{"job":[1]}', {"_omitted": TOO_LARGE}),
    ],
)
def test_finished_data_can_be_reduced_later(data: str, expected: Mapping[str, object]) -> None:
    assert orjson.loads(reduced_json(data, TOO_LARGE)) == expected


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs"]), max_size=3)
    | st.binary(max_size=8)
    | st.decimals()
    | st.uuids()
    | st.datetimes()
    | st.timedeltas()
    | st.complex_numbers()
    | st.just(object())
    | st.just(Hostile()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(
            st.text(max_size=4) | st.integers() | st.none() | st.floats(), inner, max_size=4
        )
        | st.builds(lambda extra: IngestJob.model_construct(id="j", extra=extra), inner)
    ),
    max_leaves=10,
)


@PROPERTY
@given(anything, st.sampled_from([*EVENT_TYPES, "my.own"]), st.booleans())
def test_any_payload_gives_a_body(payload: object, event_type: str, spread: bool) -> None:  # noqa: FBT001
    made = body(payload, event_type, spread=spread)
    parsed = json.loads(made.json.decode())
    assert made.member is not None or isinstance(parsed, dict)

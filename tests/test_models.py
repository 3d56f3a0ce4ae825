import json
import typing
from uuid import UUID

import pytest
from pydantic import BaseModel, ValidationError

from tailrace.schemas import (
    MODEL_MEMBERS,
    AgentMessage,
    AgentNodeState,
    AgentRun,
    AgentStep,
    Event,
    IngestJob,
    WorkflowRun,
)

MEMBERS: dict[type[BaseModel], list[str]] = {
    IngestJob: ["id", "project_id", "status", "stage", "progress", "error_message"],
    AgentRun: ["id", "project_id", "status", "progress", "error_message"],
    AgentNodeState: ["id", "run_id", "node", "status", "error_message"],
    AgentStep: ["id", "run_id", "name", "status", "error_message", "node_states"],
    AgentMessage: ["id", "run_id", "role", "content"],
    WorkflowRun: ["id", "project_id", "workflow", "status", "progress", "error_message"],
}
"""Clients read these names: removing or renaming one is a change of the contract."""

MODELS = list(MEMBERS)


@pytest.mark.parametrize("model", MODELS)
def test_members_are_those_of_the_contract(model: type[BaseModel]) -> None:
    assert list(model.model_fields) == MEMBERS[model]


def test_each_model_has_its_member_of_the_event_json() -> None:
    expected = {
        IngestJob: "job",
        AgentRun: "run",
        AgentStep: "step",
        AgentNodeState: "nodeState",
        AgentMessage: "message",
        WorkflowRun: "run",
    }
    assert expected == MODEL_MEMBERS


@pytest.mark.parametrize(
    ("model", "name"),
    [(model, name) for model, names in MEMBERS.items() for name in names if name in Event._fields],
)
def test_members_that_feed_a_column_have_the_type_of_the_column(
    model: type[BaseModel], name: str
) -> None:
    value = 0.5 if typing.get_type_hints(Event)[name] == float | None else "text"
    dumped = model.model_validate({"id": "x", name: value}).model_dump()
    assert dumped[name] == value
    with pytest.raises(ValidationError, match=name):
        model.model_validate({"id": "x", name: ["neither text nor number"]})


@pytest.mark.parametrize("model", MODELS)
def test_only_the_id_is_required(model: type[BaseModel]) -> None:
    assert model.model_validate({"id": "x"}).model_dump()["id"] == "x"
    with pytest.raises(ValidationError, match="id"):
        model.model_validate({})


@pytest.mark.parametrize("model", MODELS)
def test_extra_members_are_kept(model: type[BaseModel]) -> None:
    dumped = model.model_validate({"id": "x", "pages": [1, 2]}).model_dump(mode="json")
    assert dumped["pages"] == [1, 2]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (7, "7"),
        (UUID("0199f3a2-7c4d-7e11-8a3b-5f6071829304"), "0199f3a2-7c4d-7e11-8a3b-5f6071829304"),
        ("ä/1", "ä/1"),
    ],
)
@pytest.mark.parametrize("model", MODELS)
def test_ids_of_databases_become_text(model: type[BaseModel], given: object, text: str) -> None:
    assert model.model_validate({"id": given}).model_dump()["id"] == text


def test_ids_of_other_objects_become_text_too() -> None:
    assert IngestJob.model_validate({"id": 1, "project_id": 2}).project_id == "2"
    assert AgentStep.model_validate({"id": 1, "run_id": 2}).run_id == "2"


@pytest.mark.parametrize("given", [True, None, 1.5, ["x"]])
@pytest.mark.parametrize("model", MODELS)
def test_what_is_no_id_is_refused(model: type[BaseModel], given: object) -> None:
    with pytest.raises(ValidationError, match="id"):
        model.model_validate({"id": given})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_know_become_null(number: float) -> None:
    job = IngestJob.model_validate({"id": "x", "progress": number, "extra": number})
    assert json.loads(job.model_dump_json()) == {
        "id": "x",
        "project_id": None,
        "status": None,
        "stage": None,
        "progress": None,
        "error_message": None,
        "extra": None,
    }


def test_a_step_holds_node_states() -> None:
    step = AgentStep.model_validate({"id": "s", "node_states": [{"id": "n", "node": "plan"}]})
    assert step.node_states == [AgentNodeState(id="n", node="plan")]


def test_steps_do_not_share_their_default_list() -> None:
    first, second = AgentStep(id="a"), AgentStep(id="b")
    first.node_states.append(AgentNodeState(id="n"))
    assert second.node_states == []

from uuid import UUID

import pytest

from tailrace.producers.draft import Draft, complete, draft_of, run_of
from tailrace.producers.found import find
from tailrace.producers.scope import RunScope
from tailrace.schemas import Event, IngestJob, ParameterError

NOW = 1_700_000_000_000_000


def draft(
    kind: str = "ingest",
    project_id: object = "p",
    event_type: object = "ingest.job.updated",
    payload: object = None,
    error: object = None,
    scope: RunScope | None = None,
) -> Draft:
    return draft_of(
        kind,
        project_id,
        event_type,
        {} if payload is None else payload,
        error,
        occurred_at=NOW,
        scope=scope,
        max_bytes=900_000,
    )


def completed(made: Draft) -> Event:
    found = find(made.type, made.body)
    return complete(made, found, run_of(made, found), event_id="e", source="s", seq=3)


def test_event_holds_what_was_found() -> None:
    job = IngestJob(id="j", status="RUNNING", stage="PARSE", progress=0.5)
    assert completed(draft(payload=job, error=ValueError("bad"))) == Event(
        event_id="e",
        type="ingest.job.updated",
        occurred_at=NOW,
        project_id="p",
        kind="ingest",
        run_id="j",
        entity_id="j",
        source="s",
        seq=3,
        status="RUNNING",
        stage="PARSE",
        progress=0.5,
        error_message="bad",
        data='{"job":' + job.model_dump_json() + "}",
    )


@pytest.mark.parametrize("project", [7, UUID(int=7)])
def test_project_may_be_the_id_that_a_database_hands_out(project: object) -> None:
    assert draft(project_id=project).project_id == str(project)


@pytest.mark.parametrize("project", [None, "", True, 1.5, b"p", object(), "\ud800", "x" * 2000])
def test_project_that_is_no_id_is_refused(project: object) -> None:
    with pytest.raises(ParameterError, match="project_id"):
        draft(project_id=project)


@pytest.mark.parametrize("name", [None, "", 5, "Ingest.Job", "a..b", "a b", "x" * 200, "\ud800"])
def test_type_that_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(ParameterError, match="event_type"):
        draft(event_type=name)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ParameterError, match="kind"):
        draft(kind="other")


def test_error_given_wins_over_the_bodys() -> None:
    payload = {"error_message": "old"}
    assert completed(draft(payload=payload, error="new")).error_message == "new"
    assert completed(draft(payload=payload)).error_message == "old"


def test_scope_names_the_run_only_where_the_body_does_not() -> None:
    scope = RunScope("r", "agent")
    unnamed = completed(draft("workflow", "p", "workflow.node.started", {"node": "n"}, None, scope))
    assert (unnamed.kind, unnamed.run_id, unnamed.entity_id) == ("agent", "r", "n")
    named = completed(draft("workflow", "p", "workflow.node.started", {"run_id": "w"}, None, scope))
    assert (named.kind, named.run_id) == ("workflow", "w")
    same = completed(draft("workflow", "p", "workflow.node.started", {"run_id": "r"}, None, scope))
    assert (same.kind, same.run_id) == ("agent", "r")


def test_scope_without_a_kind_leaves_the_functions() -> None:
    event = completed(
        draft("agent", "p", "agent.step.updated", {"id": "s"}, None, RunScope("r", None))
    )
    assert (event.kind, event.run_id, event.entity_id) == ("agent", "r", "s")


def test_without_any_run_the_event_is_the_projects() -> None:
    event = completed(draft("workflow", "p", "workflow.node.started", {}))
    assert (event.run_id, event.entity_id) == (None, None)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("ingest", '{"job":{"a":1}}'),
        ("agent", '{"job":{"a":1}}'),
        ("workflow", '{"a":1}'),
        ("custom", '{"a":1}'),
    ],
)
def test_dicts_spread_by_the_function_that_was_called(kind: str, data: str) -> None:
    assert completed(draft(kind, "p", "ingest.job.updated", {"a": 1})).data == data


def test_size_counts_body_and_error() -> None:
    small, large = draft(payload={"a": ""}), draft(payload={"a": "x" * 1000}, error="y" * 500)
    assert large.size - small.size == 1500


def test_only_defined_states_may_be_replaced() -> None:
    assert draft(event_type="ingest.job.updated").is_state
    assert not draft(event_type="ingest.job.completed").is_state
    assert not draft(event_type="my.own.updated").is_state

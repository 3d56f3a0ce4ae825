import pytest
from hypothesis import given
from strategies import PROPERTY, event_types, texts

from tailrace.schemas import (
    EVENT_TYPES,
    KINDS,
    Delivery,
    body_member,
    coalesce_key,
    delivery,
    is_event_type,
)

FACT, STATE = Delivery.FACT, Delivery.STATE

TABLE = {
    "ingest.job.created": (FACT, "job"),
    "ingest.job.updated": (STATE, "job"),
    "ingest.job.completed": (FACT, "job"),
    "ingest.job.failed": (FACT, "job"),
    "ingest.job.cancelled": (FACT, "job"),
    "agent.run.created": (FACT, "run"),
    "agent.run.updated": (STATE, "run"),
    "agent.run.completed": (FACT, "run"),
    "agent.run.failed": (FACT, "run"),
    "agent.run.cancelled": (FACT, "run"),
    "agent.step.updated": (STATE, "step"),
    "agent.message.appended": (FACT, "message"),
    "workflow.run.created": (FACT, "run"),
    "workflow.run.updated": (STATE, "run"),
    "workflow.run.completed": (FACT, "run"),
    "workflow.run.failed": (FACT, "run"),
    "workflow.run.cancelled": (FACT, "run"),
    "workflow.node.started": (FACT, "nodeState"),
    "workflow.node.completed": (FACT, "nodeState"),
    "workflow.node.failed": (FACT, "nodeState"),
    "workflow.node_state.updated": (STATE, "nodeState"),
}
"""The public contract, written out: a change of it is a change for every client."""


def test_the_defined_types_are_the_21_of_the_contract() -> None:
    assert len(TABLE) == 21
    assert {name: (cls, body_member(name)) for name, cls in EVENT_TYPES.items()} == TABLE


@pytest.mark.parametrize("name", TABLE)
def test_every_defined_type_is_a_legal_name(name: str) -> None:
    assert is_event_type(name)


def test_kinds_are_the_four_families() -> None:
    assert KINDS == ("ingest", "agent", "workflow", "custom")


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_a_coalesce_key_does_not_change_the_class_of_a_defined_type(
    name: str, *, keyed: bool
) -> None:
    assert delivery(name, keyed=keyed) is TABLE[name][0]


def test_an_unknown_type_is_a_fact_unless_it_is_keyed() -> None:
    assert delivery("billing.invoice.sent", keyed=False) is FACT
    assert delivery("billing.invoice.sent", keyed=True) is STATE


@pytest.mark.parametrize("name", ["billing.invoice.sent", "ingest.jobs.updated", "job", "run.job"])
def test_an_unknown_type_has_no_body_member(name: str) -> None:
    assert body_member(name) is None


def test_a_new_event_of_a_known_family_goes_under_its_member() -> None:
    assert body_member("ingest.job.paused") == "job"


@pytest.mark.parametrize("name", ["a", "a.b", "0", "_", "a_b.c_1.d", "a" * 128])
def test_dotted_lower_case_words_are_legal(name: str) -> None:
    assert is_event_type(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "A",
        "a b",
        "a-b",
        "a.b\n",
        "ä",
        "a\u0661",
        "a/b",
        "a|b",
        "a" * 129,
    ],
)
def test_other_names_are_not_legal(name: str) -> None:
    assert not is_event_type(name)


def test_coalesce_key_holds_entity_status_and_stage() -> None:
    assert coalesce_key("job-7", "running", "parse") == "job-7|running|parse"


def test_parts_that_are_missing_are_empty_in_the_coalesce_key() -> None:
    assert coalesce_key(None, None, None) == "||"


def test_separators_in_ids_are_encoded_in_the_coalesce_key() -> None:
    assert coalesce_key("a|b", "50%", "ü/x y") == "a%7Cb|50%25|%C3%BC%2Fx%20y"


@PROPERTY
@given(texts, texts, texts, texts, texts, texts)
def test_coalesce_keys_are_equal_only_when_their_parts_are(
    a1: str, a2: str, a3: str, b1: str, b2: str, b3: str
) -> None:
    same = (a1, a2, a3) == (b1, b2, b3)
    assert (coalesce_key(a1, a2, a3) == coalesce_key(b1, b2, b3)) is same
    assert coalesce_key(a1, a2, a3).count("|") == 2
    assert coalesce_key(a1, a2, a3).isascii()


@PROPERTY
@given(event_types)
def test_generated_names_are_legal(name: str) -> None:
    assert is_event_type(name)

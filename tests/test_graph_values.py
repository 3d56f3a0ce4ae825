import dataclasses
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.types import Command
from pydantic import BaseModel, ConfigDict

from tailrace.producers.graph_values import REDACTED, Values, role_of, updates_of


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int


@dataclasses.dataclass
class Data:
    a: object


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("outputs", "update"),
    [
        (None, {}),
        ("text", {}),
        ({"a": 1}, {"a": 1}),
        (Model.model_validate({"a": 1, "b": 2}), {"a": 1, "b": 2}),
        (Data(1), {"a": 1}),
        (Command(goto="x"), {}),
        (Command(update={"a": 1}), {"a": 1}),
        (Command(update=[("a", 1), ("b", 2)]), {"a": 1, "b": 2}),
        ([{"a": 1}, Command(update={"b": 2}), {"a": 3}], {"a": 3, "b": 2}),
    ],
)
def test_changed_keys_are_found_in_whatever_a_node_returns(
    outputs: object, update: dict[str, object]
) -> None:
    assert updates_of(outputs) == update


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (1 << 70, "<int>"),
        ("x" * 50, "x" * 40 + "…"),
        (b"bytes", "<bytes>"),
        (object(), "<object>"),
        (int, "<type>"),
        (Colour.RED, "red"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        (Data(Model(a=1)), {"a": {"a": 1}}),
        ({1: (2, {3})}, {"1": [2, [3]]}),
        (["0123456789" * 2, "0123456789", "x"], ["0123456789" * 2, "0123…"]),
        ([None] * 10, [None] * 5),
        (HumanMessage("hi"), {"role": "user", "content": "hi"}),
    ],
)
def test_value_becomes_bounded_json(value: object, shown: object) -> None:
    assert Values(max_chars=40).of({"k": value}) == {"k": shown}


def test_no_more_keys_than_the_bound_are_sent() -> None:
    update = {"k" * 200: 1, "b": 2, "c": 3}
    assert Values(max_keys=2).of(update) == {"k" * 100: 1, "b": 2}


def test_value_that_holds_itself_comes_to_an_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert Values().of({"k": endless}) == {"k": [[[[[["<list>"]]]]]]}


def test_names_are_redacted_at_any_depth_in_any_case() -> None:
    shown = Values({"api_key"}).of({"API_KEY": 1, "deep": [{"x": Data({"Api_Key": 1})}]})
    assert shown == {"API_KEY": REDACTED, "deep": [{"x": {"a": {"Api_Key": REDACTED}}}]}


def test_redacted_messages_hide_their_text_everywhere() -> None:
    values = Values({"messages"})
    assert values.of({"messages": [HumanMessage("x")]}) == {"messages": REDACTED}
    assert values.text("content", "x", 10) == REDACTED


def test_function_decides_what_is_sent_and_its_failure_sends_nothing() -> None:
    def shorten(name: str, value: object) -> object:
        assert isinstance(value, str)
        return value[:1] if name == "a" else value

    assert Values(shorten).of({"a": "xyz", "b": "xyz", "c": 1}) == {
        "a": "x",
        "b": "xyz",
        "c": REDACTED,
    }


def test_roles_are_the_ones_that_people_know() -> None:
    messages = [
        HumanMessage(""),
        AIMessage(""),
        AIMessageChunk(content=""),
        ToolMessage("", tool_call_id=""),
    ]
    assert [role_of(message) for message in messages] == ["user", "assistant", "assistant", "tool"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.builds(Data, inner),
    max_leaves=40,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), anything))
def test_anything_becomes_json_of_bounded_size(update: dict[str, object]) -> None:
    shown = Values(max_keys=3, max_chars=50).of(update)
    assert len(shown) <= 3
    for value in shown.values():
        text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode(errors="replace")
        assert len(text) < 3000

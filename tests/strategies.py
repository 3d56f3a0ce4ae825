"""Hypothesis strategies for the values of `tailrace.schemas`, and the settings to run them with."""

import json

from hypothesis import settings
from hypothesis import strategies as st

from tailrace.schemas import EVENT_TYPES, KINDS, RESERVED, Event, Position

PROPERTY = settings(deadline=None, derandomize=True, max_examples=150)
"""Decorator of property tests: the same examples in every run, however slow the machine is."""

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
INT32 = st.integers(min_value=0, max_value=2**31 - 1)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
"""Any text that UTF-8 can hold, separators, line breaks and NUL included."""

event_types = st.sampled_from(sorted(EVENT_TYPES)) | st.from_regex(
    r"[a-z0-9_]{1,8}(\.[a-z0-9_]{1,8}){0,3}", fullmatch=True
)

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
json_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(texts | st.sampled_from(RESERVED), json_values, max_size=5)
"""Members of a body, reserved ones among them."""


@st.composite
def body_texts(draw: st.DrawFn) -> str:
    """Draw the text of a JSON object, in any of the layouts that producers write."""
    return json.dumps(
        draw(bodies),
        indent=draw(st.sampled_from([None, 0, 2, "\t"])),
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([None, (",", ":"), (" ,\r\n", " :\r")])),
    )


@st.composite
def events(draw: st.DrawFn, data: st.SearchStrategy[str] | None = None) -> Event:
    """Draw any event that the record can hold, not only one that a producer of ours would emit."""
    optional = st.none() | texts
    return Event(
        event_id=draw(st.uuids().map(str)),
        type=draw(event_types),
        occurred_at=draw(INT64),
        project_id=draw(texts),
        kind=draw(st.sampled_from(KINDS)),
        run_id=draw(optional),
        entity_id=draw(optional),
        source=draw(texts),
        seq=draw(INT64),
        status=draw(optional),
        stage=draw(optional),
        progress=draw(st.none() | st.floats(allow_nan=False)),
        error_message=draw(optional),
        data=draw(texts if data is None else data),
    )


@st.composite
def positions(draw: st.DrawFn) -> Position:
    """Draw any position that can exist."""
    partitions = draw(st.integers(min_value=1, max_value=2**32 - 1))
    return Position(
        partition=draw(st.integers(min_value=0, max_value=partitions - 1)),
        offset=draw(st.integers(min_value=-1, max_value=2**63 - 1)),
        timestamp_ms=draw(st.integers(min_value=-1, max_value=2**63 - 1)),
        partitions=partitions,
        topic_id=draw(st.integers(min_value=0, max_value=2**32 - 1)),
    )

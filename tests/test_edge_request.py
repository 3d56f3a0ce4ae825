import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY, json_values, texts

from tailrace.edge.channel import ChannelKey
from tailrace.edge.protocol import Types
from tailrace.edge.request import (
    Page,
    StreamRequest,
    parse_page,
    parse_request,
    parse_subscribe,
)
from tailrace.schemas import ParameterError, Subject

JOB = Subject("ingest", "7")


def test_url_of_a_run_means_its_start_and_that_of_a_project_live() -> None:
    assert parse_request("p", JOB, {}) == StreamRequest(ChannelKey("p", JOB), None, start=True)
    assert parse_request("p", None, {}) == StreamRequest(ChannelKey("p", None), None, start=False)


def test_from_overrules_what_the_url_means() -> None:
    assert not parse_request("p", JOB, {"from": "live"}).start
    assert parse_request("p", None, {"from": "start"}).start


def test_every_parameter_is_read_and_unknown_ones_are_ignored() -> None:
    query = {
        "after": "cursor",
        "types": "b,a.*,b",
        "delivery": "every",
        "window": "100",
        "limit": "never read here",
        "utm_source": "mail",
    }

    assert parse_request("p", JOB, query) == StreamRequest(
        ChannelKey("p", JOB, Types(("b",), ("a.",)), every=True, window_ms=100),
        "cursor",
        start=True,
    )


def test_explicit_defaults_are_the_same_channel_as_none() -> None:
    explicit = {"types": "*", "delivery": "latest", "window": "40"}

    assert parse_request("p", JOB, explicit).key == parse_request("p", JOB, {}).key


@pytest.mark.parametrize("window", ["0", "20", "40", "100", "500"])
def test_window_is_one_of_five(window: str) -> None:
    assert parse_request("p", None, {"window": window}).key.window_ms == int(window)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("from", "end"),
        ("from", ""),
        ("from", "START"),
        ("delivery", "all"),
        ("delivery", ""),
        ("window", "41"),
        ("window", "-20"),
        ("window", "040"),
        ("window", ""),
        ("window", "40.0"),
        ("window", "٤٠"),
        ("types", ""),
        ("types", "a,"),
    ],
)
def test_bad_value_is_refused_by_name_in_a_short_line(name: str, value: str) -> None:
    for spoilt in (value, value + "X" * 10_000):
        with pytest.raises(ParameterError) as refused:
            parse_request("p", JOB, {name: spoilt})

        assert refused.value.name == name
        assert len(str(refused.value)) < 200


# JSON pages


def test_page_without_parameters_is_500_events_at_once() -> None:
    assert parse_page({}) == Page(500, 0.0)


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ({"limit": "1", "wait": "0"}, Page(1, 0.0)),
        ({"limit": "5000", "wait": "30"}, Page(5000, 30.0)),
        ({"limit": "7", "wait": "0.25"}, Page(7, 0.25)),
    ],
)
def test_page_is_read_up_to_its_bounds(query: Mapping[str, str], page: Page) -> None:
    assert parse_page(query) == page


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "5001"),
        ("limit", "-1"),
        ("limit", "1.5"),
        ("limit", ""),
        ("limit", "٣"),
        ("limit", "000000001" + "9" * 9),
        ("limit", "0" * 8 + "15001"),
        ("limit", "1" * 5000),
        ("wait", "-1"),
        ("wait", "30.1"),
        ("wait", "31"),
        ("wait", "nan"),
        ("wait", "inf"),
        ("wait", "1e1"),
        ("wait", ""),
        ("wait", "9" * 5000),
    ],
)
def test_page_beyond_its_bounds_is_refused(name: str, value: str) -> None:
    with pytest.raises(ParameterError) as refused:
        parse_page({name: value})

    assert refused.value.name == name
    assert len(str(refused.value)) < 200


@PROPERTY
@given(st.text("0123456789.", max_size=30))
def test_page_that_is_taken_is_within_its_bounds(text: str) -> None:
    try:
        page = parse_page({"limit": text, "wait": text})
    except ParameterError:
        return
    assert 1 <= page.limit <= 5000
    assert 0 <= page.wait <= 30


# Subscribe commands


def test_subscribe_means_what_the_url_means() -> None:
    command = {
        "t": "subscribe",
        "id": 1,
        "project": "p",
        "kind": "ingest",
        "run": "7",
        "types": ["b", "a.*"],
        "after": "cursor",
        "from": "live",
        "delivery": "every",
        "window": 100,
    }
    query = {
        "types": "b,a.*",
        "after": "cursor",
        "from": "live",
        "delivery": "every",
        "window": "100",
    }

    assert parse_subscribe(command) == parse_request("p", JOB, query)
    assert parse_subscribe({"project": "p"}) == parse_request("p", None, {})


def test_null_member_is_as_good_as_none() -> None:
    names = ("kind", "run", "types", "after", "from", "delivery", "window")

    assert parse_subscribe({"project": "p", **dict.fromkeys(names)}) == parse_subscribe(
        {"project": "p"}
    )


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("project", {"project": None}),
        ("project", {"project": ""}),
        ("project", {"project": 7}),
        ("kind", {"kind": "shop", "run": "7"}),
        ("kind", {"kind": ["ingest"], "run": "7"}),
        ("kind", {"run": "7"}),
        ("run", {"kind": "ingest"}),
        ("run", {"kind": "ingest", "run": ""}),
        ("run", {"kind": "ingest", "run": 7}),
        ("types", {"types": "ingest.*"}),
        ("types", {"types": [1]}),
        ("types", {"types": []}),
        ("types", {"types": ["a", ""]}),
        ("after", {"after": 5}),
        ("from", {"from": "end"}),
        ("delivery", {"delivery": True}),
        ("window", {"window": "40"}),
        ("window", {"window": 41}),
        ("window", {"window": True}),
        ("window", {"window": 40.0}),
    ],
)
def test_bad_member_is_refused_by_name(name: str, members: Mapping[str, object]) -> None:
    with pytest.raises(ParameterError) as refused:
        parse_subscribe({"project": "p", **members})

    assert refused.value.name == name


_NAMES = ("project", "kind", "run", "types", "after", "from", "delivery", "window")


@PROPERTY
@given(st.dictionaries(st.sampled_from(_NAMES) | texts, json_values))
def test_any_command_is_read_or_refused(command: dict[str, object]) -> None:
    sent = json.loads(json.dumps(command))
    try:
        request = parse_subscribe({"project": "p", **sent})
    except ParameterError:
        return
    assert request.key.project_id

from collections import Counter
from typing import Any

import pytest
from structlog.testing import capture_logs

from tailrace.edge.skips import Skips
from tailrace.schemas import RecordError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def skips(clock: Clock, counts: Counter[str]) -> Skips:
    return Skips(topic="t", counts=counts, clock=clock, lines=2, seconds=10.0)


def _offsets(lines: list[Any]) -> list[int]:
    return [line["offset"] for line in lines]


def test_line_names_the_record_and_the_reason(skips: Skips) -> None:
    with capture_logs() as lines:
        skips(3, 17, RecordError("no_key", "it names no project"))

    assert lines == [
        {
            "event": "record skipped",
            "log_level": "warning",
            "topic": "t",
            "partition": 3,
            "offset": 17,
            "error": "no_key: it names no project",
            "unlogged": 0,
        }
    ]


def test_every_record_is_counted_by_its_reason(skips: Skips, counts: Counter[str]) -> None:
    for offset in range(5):
        skips(0, offset, RecordError("no_key", ""))
    skips(0, 5, RecordError("undecodable", ""))

    assert counts == {"no_key": 5, "undecodable": 1}


def test_lines_past_the_limit_are_left_out(skips: Skips, clock: Clock) -> None:
    with capture_logs() as lines:
        for offset in range(5):
            skips(0, offset, RecordError("no_key", ""))
        clock.now += 9.9
        skips(0, 5, RecordError("no_key", ""))

    assert _offsets(lines) == [0, 1]


def test_next_window_logs_again_and_says_how_many_were_left_out(skips: Skips, clock: Clock) -> None:
    for offset in range(5):
        skips(0, offset, RecordError("no_key", ""))

    with capture_logs() as lines:
        clock.now += 10.0
        skips(0, 5, RecordError("no_key", ""))
        skips(0, 6, RecordError("no_key", ""))
        skips(0, 7, RecordError("no_key", ""))

    assert _offsets(lines) == [5, 6]
    assert [line["unlogged"] for line in lines] == [3, 0]


def test_nothing_left_out_is_reported_as_none(skips: Skips, clock: Clock) -> None:
    skips(0, 0, RecordError("no_key", ""))

    with capture_logs() as lines:
        clock.now += 10.0
        skips(0, 1, RecordError("no_key", ""))

    assert [line["unlogged"] for line in lines] == [0]


def test_one_reason_never_uses_up_the_lines_of_another(skips: Skips) -> None:
    with capture_logs() as lines:
        for offset in range(3):
            skips(0, offset, RecordError("no_key", ""))
        skips(0, 3, RecordError("undecodable", ""))

    assert _offsets(lines) == [0, 1, 3]

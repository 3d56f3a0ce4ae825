from typing import Any

import pytest

from tailrace.cli.tail_line import gap_line, tail_line
from tailrace.client import Gap

TIME = "2026-11-23T10:15:30.123456+00:00"


def line(type: str, *, colour: bool = False, **body: object) -> str:  # noqa: A002
    return tail_line({"type": type, "timestamp": TIME, **body}, colour=colour)


@pytest.mark.parametrize(
    ("event_type", "body", "rest"),
    [
        (
            "ingest.job.updated",
            {"job": {"id": "j1", "status": "running", "stage": "chunk", "progress": 0.425}},
            "j1  running/chunk/42%",
        ),
        ("ingest.job.created", {"job": {"id": "j1"}}, "j1"),
        (
            "ingest.job.failed",
            {"job": {"id": "j1", "status": "failed"}, "errorMessage": "no\nroom"},
            "j1  failed  error: no room",
        ),
        (
            "agent.message.appended",
            {"message": {"id": "m", "run_id": "r1", "role": "user", "content": "hello\nyou"}},
            "r1  hello you",
        ),
        (
            "agent.step.updated",
            {"step": {"id": "s", "run_id": "r1", "name": "search", "status": "running"}},
            "r1  running/search",
        ),
        (
            "workflow.node.failed",
            {"nodeState": {"run_id": "w1", "node": "fetch", "error_message": "timeout"}},
            "w1  fetch  error: timeout",
        ),
        ("my.own.type", {"runId": "x", "message": "done", "progress": 1}, "x  100%  done"),
        ("my.own.type", {"message": 5}, "-"),
    ],
)
def test_line_says_when_what_whose_how_far_and_why(
    event_type: str, body: dict[str, Any], rest: str
) -> None:
    expected = f"2026-11-23 10:15:30.123  {event_type.ljust(27)}  {rest}"
    assert line(event_type, **body) == expected


@pytest.mark.parametrize(
    ("last", "code"), [("failed", 31), ("completed", 32), ("cancelled", 33), ("created", 36)]
)
def test_colour_tells_how_it_ended(last: str, code: int) -> None:
    assert f"\x1b[{code}mingest.job.{last}" in line(f"ingest.job.{last}", colour=True)
    assert "\x1b" not in line(f"ingest.job.{last}", colour=False)


def test_what_others_wrote_cannot_move_the_cursor_or_fill_the_screen() -> None:
    evil = "\x1b[2J\n" + "x" * 10_000
    job = {"id": evil, "status": evil, "stage": evil, "message": evil}
    shown = line("ingest.job.updated", job=job)
    assert shown.isprintable()
    assert len(shown) < 1000


def test_event_without_its_members_is_a_line_too() -> None:
    assert tail_line({}, colour=True).strip() == "-"
    assert tail_line({"type": 1, "timestamp": None}, colour=True).startswith("None  1")


def test_gap_is_one_line_with_the_range() -> None:
    text = gap_line(Gap("c1", "c8", "retention"))
    assert text == "tailrace: gap (retention): nothing from c1 to c8"

import asyncio
from concurrent.futures import CancelledError

import pytest
from langgraph.errors import GraphDrained, GraphInterrupt, ParentCommand
from langgraph.types import Command, Interrupt
from recording_events import RecordingEvents

from tailrace.producers.graph_run import GraphRun, Kind, Status, path_of, status_after
from tailrace.producers.graph_values import Values


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run_of(events: RecordingEvents, clock: Clock, kind: Kind = "workflow") -> GraphRun:
    return GraphRun(
        "r", "p", "mine", kind=kind, events=events, values=Values(), own=True, clock=clock
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError(), Status.FAILED),
        (asyncio.CancelledError(), Status.CANCELLED),
        (CancelledError(), Status.CANCELLED),
        (GeneratorExit(), Status.CANCELLED),
        (KeyboardInterrupt(), Status.CANCELLED),
        (GraphInterrupt([Interrupt("?")]), Status.INTERRUPTED),
        (GraphDrained(), Status.INTERRUPTED),
        (ParentCommand(Command()), Status.COMPLETED),
    ],
)
def test_exceptions_mean_what_langgraph_means(error: BaseException, status: Status) -> None:
    assert status_after(error) is status


def test_path_is_read_from_the_checkpoint_namespace() -> None:
    assert path_of("outer:1|in:ner:2") == (["outer", "in:ner"], "2")
    assert path_of("plain") == (["plain"], "plain")


def test_node_that_ended_ends_once(events: RecordingEvents, clock: Clock) -> None:
    run = run_of(events, clock)
    node = run.start_node("t", ["one"])
    run.end_node(node, {"a": 1})
    told = len(events.emitted)
    run.end_node(node, error=ValueError())
    run.interrupt_node(node, [])
    assert len(events.emitted) == told


def test_attempts_are_counted_until_one_completes(events: RecordingEvents, clock: Clock) -> None:
    run = run_of(events, clock)
    for error in (ValueError(), None, None):
        run.end_node(run.start_node("t", ["one"]), error=error)
    attempts = [state["attempt"] for state in events.bodies("workflow.node.started")]
    assert attempts == [1, 2, 1]


def test_open_nodes_end_before_their_run(events: RecordingEvents, clock: Clock) -> None:
    run = run_of(events, clock)
    run.start()
    run.start_node("t", ["one"])
    run.end(ValueError("boom"))
    assert [(e.type, e.body["status"], e.error) for e in events.emitted[-2:]] == [
        ("workflow.node_state.updated", "cancelled", None),
        ("workflow.run.failed", "failed", "boom"),
    ]
    assert repr(run) == "<GraphRun r open=0>"


def test_error_without_a_message_is_called_by_its_class(
    events: RecordingEvents, clock: Clock
) -> None:
    run_of(events, clock).end(ZeroDivisionError())
    assert events.emitted[-1].error == "ZeroDivisionError"


def test_text_waits_for_its_time_and_the_last_does_not(
    events: RecordingEvents, clock: Clock
) -> None:
    run = run_of(events, clock, "agent")
    node = run.start_node("t", ["one"])
    for now, text in ((1.0, "a"), (1.05, "ab"), (1.11, "abc"), (1.12, "abcd")):
        clock.now = now
        run.text(node, lambda text=text: text)  # type: ignore[misc]  # bound here
    run.text(node, lambda: "abcde", last=True)
    run.text(node, lambda: "abcde", last=True)
    texts = [step["text"] for step in events.bodies("agent.step.updated")]
    assert texts == ["", "a", "abc", "abcde"]


@pytest.mark.parametrize("kind", ["agent", "workflow"])
def test_text_of_a_model_that_never_ends_is_complete_at_the_end_of_its_node(
    events: RecordingEvents, clock: Clock, kind: Kind
) -> None:
    run = run_of(events, clock, kind)
    node = run.start_node("t", ["one"])
    for text in ("a", "ab", "abc"):
        run.text(node, lambda text=text: text)  # type: ignore[misc]  # bound here
    run.end(ValueError())
    texts = [(s["text"], s["status"]) for s in events.bodies("agent.step.updated") if s["text"]]
    assert texts[:2] == [("a", "running"), ("abc", "running")]
    assert texts[2:] == ([("abc", "cancelled")] if kind == "agent" else [])


def test_text_after_the_end_of_its_node_is_nobodys(events: RecordingEvents, clock: Clock) -> None:
    run = run_of(events, clock, "agent")
    node = run.start_node("t", ["one"])
    run.end_node(node)
    run.text(node, lambda: "late", last=True)
    assert "late" not in repr(events.emitted)


def test_stage_is_the_node_at_the_top(events: RecordingEvents, clock: Clock) -> None:
    run = run_of(events, clock)
    for path in (["one"], ["one", "inner"], ["one"], ["two"]):
        run.start_node("/".join(path), path)
    assert [r["stage"] for r in events.bodies("workflow.run.updated")] == ["one", "two"]

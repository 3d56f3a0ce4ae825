from uuid import UUID, uuid4

import pytest
from recording_events import RecordingEvents

from tailrace.producers.graph_run import TEXT_MAX_CHARS, GraphRun
from tailrace.producers.graph_spans import Span, Spans
from tailrace.producers.graph_values import Values


@pytest.fixture
def run() -> GraphRun:
    return GraphRun(
        "r",
        "p",
        "mine",
        kind="workflow",
        events=RecordingEvents(),
        values=Values(),
        own=True,
        clock=lambda: 0.0,
    )


def opened(spans: Spans, run: GraphRun) -> tuple[UUID, Span]:
    root = uuid4()
    spans.open_run(root, run)
    span = spans.get(root)
    assert span is not None
    return root, span


def test_what_is_in_a_node_is_found_by_the_node(run: GraphRun) -> None:
    spans = Spans()
    _, root = opened(spans, run)
    node_id, inner_id = uuid4(), uuid4()
    node = run.start_node("t", ["one"])
    spans.open(node_id, root, node)
    own = spans.get(node_id)
    assert own is not None
    spans.open(inner_id, own)
    inner = spans.close(inner_id)
    assert inner is not None
    assert (own.node, own.owner) == (node, True)
    assert (inner.node, inner.owner, inner.run) == (node, False, run)
    assert spans.get(inner_id) is None
    assert spans.close(inner_id) is None


def test_closing_a_run_closes_all_inside(run: GraphRun) -> None:
    spans = Spans()
    root_id, root = opened(spans, run)
    spans.open(uuid4(), root)
    other_id, _ = opened(spans, run)
    spans.close_run(root_id)
    assert (spans.runs, len(spans)) == (1, 1)
    assert spans.get(other_id) is not None


def test_oldest_run_makes_room(run: GraphRun) -> None:
    spans = Spans(max_runs=2)
    ids = [uuid4() for _ in range(3)]
    assert [spans.open_run(root, run) for root in ids] == [True, True, False]
    assert spans.get(ids[0]) is None
    assert spans.runs == 2


def test_run_has_room_up_to_its_bound(run: GraphRun) -> None:
    spans = Spans(max_spans=2)
    _, root = opened(spans, run)
    assert spans.has_room(root)
    spans.open(uuid4(), root)
    assert not spans.has_room(root)


def test_text_is_kept_up_to_one_token_past_its_bound(run: GraphRun) -> None:
    span = Span(run, uuid4(), None, owner=True)
    for _ in range(3):
        span.add("x" * TEXT_MAX_CHARS)
    assert len(span.text()) == 2 * TEXT_MAX_CHARS

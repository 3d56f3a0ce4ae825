from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from indexed import put
from recording_events import RecordingEvents

from tailrace.producers.langgraph import tailrace_handler
from tailrace.services.digest import DeliveryError, digest
from tailrace.services.errors import RunFailedError
from tailrace.services.index import SearchIndex

RIVER = "The river feeds the dam. The dam holds the river."


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SearchIndex]:
    with SearchIndex(tmp_path / "index.db", max_bytes=1 << 22) as index:
        put(index, "p", "a.md", RIVER)
        put(index, "p", "b.md", "Turbines make power.")
        yield index


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


async def digested(index: SearchIndex, events: RecordingEvents, **given: Any) -> dict[str, Any]:
    handler = tailrace_handler("p", "r", events=events)
    last = await digest(index, "p").ainvoke({"input": given}, {"callbacks": [handler]})
    output: dict[str, Any] = last["output"]
    return output


def paths(events: RecordingEvents, event_type: str) -> list[str]:
    return ["/".join(body["path"]) for body in events.bodies(event_type)]


async def test_every_document_is_condensed_and_put_together(
    index: SearchIndex, events: RecordingEvents
) -> None:
    output = await digested(index, events)
    assert output["digest"] == f"a.md: {RIVER}\n\nb.md: Turbines make power."
    assert output["documents"] == 2
    assert output["keywords"][:2] == ["dam", "river"]
    done = paths(events, "workflow.node.completed")
    assert done.count("summarise") == done.count("summarise/read") == 2
    assert "revise" not in done


async def test_flaky_node_is_tried_again(index: SearchIndex, events: RecordingEvents) -> None:
    await digested(index, events, failures=2)
    tried = [n for n in events.bodies("workflow.node.started") if n["node"] == "deliver"]
    assert [n["attempt"] for n in tried] == [1, 2, 3]
    assert paths(events, "workflow.node.failed") == ["deliver", "deliver"]


async def test_node_that_keeps_failing_fails_the_run(
    index: SearchIndex, events: RecordingEvents
) -> None:
    with pytest.raises(DeliveryError, match="attempt 3"):
        await digested(index, events, failures=3)
    assert events.types()[-1] == "workflow.run.failed"


async def test_digest_that_says_too_little_is_revised_once(
    index: SearchIndex, events: RecordingEvents
) -> None:
    put(index, "p", "c.md", " ".join(f"Word{n} alpha{n} beta{n}." for n in "abcdefghijkl"))
    put(index, "p", "b.md", " ".join(f"Gamma{n} delta{n} omega{n}." for n in "abcdefghijkl"))
    put(index, "p", "a.md", " ".join(f"Kappa{n} sigma{n} theta{n}." for n in "abcdefghijkl"))
    output = await digested(index, events, sentences=1, failures=0)
    assert paths(events, "workflow.node.completed").count("revise") == 1
    assert output["digest"].count(".") == 3 + 3 * 3


@pytest.mark.parametrize(
    ("project", "given", "message"),
    [
        ("p", {"sentences": 0}, r"^input\.sentences: "),
        ("p", {"unknown": 1}, r"^input\.unknown: "),
        ("empty", {}, "no documents"),
    ],
)
async def test_what_cannot_be_worked_on_fails_in_the_first_node(
    index: SearchIndex, project: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunFailedError, match=message):
        await digest(index, project).ainvoke({"input": given})

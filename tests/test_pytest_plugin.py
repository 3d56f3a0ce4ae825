from tailrace.producers import aemit, emit_ingest_event
from tailrace.producers.pytest_plugin import CapturedEvents


def test_events_of_the_test_are_seen_in_order(
    captured_events: CapturedEvents,
) -> None:
    emit_ingest_event("p", "ingest.job.created", {"id": "j"})
    emit_ingest_event("p", "ingest.job.completed", {"id": "j"})
    assert captured_events.types() == ["ingest.job.created", "ingest.job.completed"]
    assert captured_events.all()[0].run_id == "j"


async def test_each_test_begins_empty(
    captured_events: CapturedEvents,
) -> None:
    assert captured_events.all() == []
    assert await aemit("custom", "p", "my.type", {"n": 1})
    assert captured_events.types() == ["my.type"]

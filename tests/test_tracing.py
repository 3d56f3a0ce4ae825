import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider

from tailrace.producers import tracing
from tailrace.producers.tracing import current_traceparent


def test_there_is_none_outside_of_a_span() -> None:
    assert current_traceparent() is None


def test_it_names_the_current_span() -> None:
    with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        context = span.get_span_context()
        told = (current_traceparent() or "").split("-")
        assert told[:3] == ["00", f"{context.trace_id:032x}", f"{context.span_id:016x}"]
        assert int(told[3], 16) & 1


def test_opentelemetry_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert tracing._of_opentelemetry()() is None

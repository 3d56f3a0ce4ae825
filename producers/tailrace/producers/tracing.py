"""The caller's trace, where OpenTelemetry is there to tell (W3C Trace Context §3.2)."""

from collections.abc import Callable

__all__ = ["current_traceparent"]


def _nothing() -> str | None:
    return None


def _of_opentelemetry() -> Callable[[], str | None]:
    try:
        from opentelemetry.trace import get_current_span  # noqa: PLC0415 - an extra
    except ImportError:
        return _nothing

    def traceparent() -> str | None:
        context = get_current_span().get_span_context()
        if not context.is_valid:
            return None
        flags = int(context.trace_flags)
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    return traceparent


current_traceparent: Callable[[], str | None] = _of_opentelemetry()
"""Return the ``traceparent`` of the current span; None without one or without OpenTelemetry."""

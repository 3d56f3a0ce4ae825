"""The run that the surrounding code works on, for payloads that do not name theirs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import NamedTuple

import structlog

from tailrace.schemas import KINDS

__all__ = ["RunScope", "current_scope", "run_scope"]

_log = structlog.get_logger("tailrace.producers")


class RunScope(NamedTuple):
    """A run, and which family it belongs to where that is not the emitting function's own."""

    run_id: str
    kind: str | None


_scope: ContextVar[RunScope | None] = ContextVar("tailrace_run_scope", default=None)


def current_scope() -> RunScope | None:
    """Return the innermost scope of the calling task or thread."""
    return _scope.get()


@contextmanager
def run_scope(run_id: str, *, kind: str | None = None) -> Iterator[None]:
    """Give events inside of the block a run, unless their payload names one.

    The scope follows asyncio tasks and `asyncio.to_thread`; a thread that is started by hand
    begins without one. Scopes nest; the innermost counts.

    Args:
        run_id: The job or run that payloads without a run id belong to.
        kind: ``ingest``, ``agent``, ``workflow`` or ``custom``: the family of that run, where it
            is another one than the emitting function's. An unknown kind is logged and ignored.
    """
    if kind is not None and kind not in KINDS:
        _log.warning("run_scope_kind_unknown", kind=str(kind)[:64], known=KINDS)
        kind = None
    token = _scope.set(RunScope(str(run_id), kind))
    try:
        yield
    finally:
        # A generator that is closed from another context cannot reset; that context ends anyway.
        with suppress(ValueError):
            _scope.reset(token)

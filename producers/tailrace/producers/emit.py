"""The functions that services call, and the emitter of this process behind them.

Which function is called decides the kind of run that an event belongs to, not its type: an agent's
service that emits ``workflow.node_state.updated`` by `emit_agent_event` speaks of its agent run.
"""

import threading
import time
from difflib import get_close_matches
from typing import Any

import structlog
from pydantic import ValidationError

from tailrace.logs import RateLimit
from tailrace.producers.emitter import Emitter, EmitterStats
from tailrace.producers.settings import ProducerSettings
from tailrace.schemas import ParameterError

__all__ = [
    "StreamingService",
    "aemit",
    "configure",
    "emit_agent_event",
    "emit_ingest_event",
    "emit_workflow_event",
    "flush",
    "stats",
    "substitute",
]

_log = structlog.get_logger("tailrace.producers")


class StreamingService:
    """The three emit functions as methods, for services that are given their dependencies.

    Args:
        emitter: Where events go; by default the one of this process, whichever that is at the
            time of the call.
    """

    def __init__(self, emitter: Emitter | None = None) -> None:
        self._emitter = emitter

    def emit_ingest_event(
        self, project_id: str, event_type: str, job: object, error: object = None
    ) -> None:
        """Emit an event of an ingest job; see the function of this name."""
        self._emit("ingest", project_id, event_type, job, error)

    def emit_agent_event(
        self, project_id: str, event_type: str, data: object, error: object = None
    ) -> None:
        """Emit an event of an agent run; see the function of this name."""
        self._emit("agent", project_id, event_type, data, error)

    def emit_workflow_event(
        self, project_id: str, event_type: str, data: object, error: object = None
    ) -> None:
        """Emit an event of a workflow run; see the function of this name."""
        self._emit("workflow", project_id, event_type, data, error)

    def _emit(
        self, kind: str, project_id: str, event_type: str, payload: object, error: object
    ) -> None:
        emitter = self._emitter or _process.emitter()
        if emitter is not None:
            emitter.emit(kind, project_id, event_type, payload, error)


class _Process:
    """The emitter of this process: made by the first event, replaced by `configure`."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may emit while its own thread makes the emitter.
        self._lock = threading.RLock()
        self._emitter: Emitter | None = None
        self._limit = RateLimit(60.0)

    def emitter(self) -> Emitter | None:
        """Return the emitter; None, which is logged, where the environment is not usable."""
        if self._emitter is None:
            with self._lock:
                if self._emitter is None:
                    self._emitter = self._made()
        return self._emitter

    def current(self) -> Emitter | None:
        """Return the emitter if there was an event."""
        return self._emitter

    def replace(self, emitter: Emitter) -> None:
        """Send further events to `emitter`; the one before sends what it has and closes."""
        with self._lock:
            before, self._emitter = self._emitter, emitter
        if before is not None:
            before.close()

    def substitute(self, emitter: Emitter | None) -> Emitter | None:
        """Send further events to `emitter` and return the one before, which stays open."""
        with self._lock:
            before, self._emitter = self._emitter, emitter
        return before

    def _made(self) -> Emitter | None:
        try:
            return Emitter()
        except Exception as exc:  # noqa: BLE001 - emitting must never make its caller fail
            if self._limit.allow("settings", time.monotonic()) is not None:
                _log.error("emitter_settings_invalid", detail=str(exc)[:500])
            return None


_process = _Process()
_service = StreamingService()


def emit_ingest_event(project_id: str, event_type: str, job: object, error: object = None) -> None:
    """Emit an event of an ingest job.

    Callable from any thread, inside or outside a running loop. Takes microseconds, never blocks
    and never raises: wrong arguments are counted and logged. Order is kept per project. The payload
    is snapshotted at the call.

    Args:
        project_id: Who may see it, and the unit of order.
        event_type: E.g. ``ingest.job.updated``.
        job: A pydantic model, a dataclass or a dict. A dict goes under the type's member.
        error: The error message, or the exception whose message it is.
    """
    _service.emit_ingest_event(project_id, event_type, job, error)


def emit_agent_event(project_id: str, event_type: str, data: object, error: object = None) -> None:
    """Emit an event of an agent run: the run, a step, a node state or a message.

    As `emit_ingest_event` in all else.
    """
    _service.emit_agent_event(project_id, event_type, data, error)


def emit_workflow_event(
    project_id: str, event_type: str, data: object, error: object = None
) -> None:
    """Emit an event of a workflow run or of one of its nodes.

    A dict puts its own members at the top level of the event. As `emit_ingest_event` in all else.
    """
    _service.emit_workflow_event(project_id, event_type, data, error)


def configure(**settings: Any) -> None:
    """Set how this process emits, before its first event; later is possible.

    It connects at once, in the background, so that the first event need not wait for that.

    An emitter that exists already sends what it has and is closed first, which may take `exit_ms`.

    Args:
        settings: Fields of `ProducerSettings`; what is left out comes from the environment.

    Raises:
        ParameterError: A setting is unknown or has an impossible value.
    """
    try:
        made = ProducerSettings(**settings)
    except ValidationError as exc:
        first = exc.errors()[0]
        name, reason = ".".join(map(str, first["loc"])) or "settings", first["msg"]
        if first["type"] == "extra_forbidden":
            nearest = get_close_matches(name, ProducerSettings.model_fields, n=1)
            reason = (
                f"unknown setting: did you mean {nearest[0]}?" if nearest else "unknown setting"
            )
        raise ParameterError(name, reason) from exc
    emitter = Emitter(made)
    _process.replace(emitter)
    emitter.start()  # Now it adopts what the one before left as well.


def flush(timeout: float | None = None) -> bool:
    """Wait until everything this process has emitted so far is acknowledged.

    Blocks the calling thread: from async code use ``await asyncio.to_thread(flush, 5)``.

    Args:
        timeout: Seconds to wait at most; None waits for as long as it takes.

    Returns:
        True when nothing is waiting any more; what was dropped or refused is not waited for.
    """
    emitter = _process.current()
    return True if emitter is None else emitter.flush(timeout)


async def aemit(
    kind: str,
    project_id: str,
    event_type: str,
    payload: object,
    error: object = None,
    *,
    durable: bool = True,
    timeout: float | None = None,  # noqa: ASYNC109 - the same as `flush`
) -> bool:
    """Emit an event and wait until all in-sync replicas have it; see `Emitter.aemit`."""
    emitter = _process.emitter()
    if emitter is None:
        return False
    return await emitter.aemit(
        kind, project_id, event_type, payload, error, durable=durable, timeout=timeout
    )


def substitute(emitter: Emitter | None) -> Emitter | None:
    """Send this process's events to `emitter` and return the one before, which stays open."""
    return _process.substitute(emitter)


def stats() -> EmitterStats | None:
    """Return the counts of this process's emitter; None before the first event."""
    emitter = _process.current()
    return None if emitter is None else emitter.stats()

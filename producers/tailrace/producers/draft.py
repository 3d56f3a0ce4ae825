"""Draft: an event as the caller left it, and its completion in the background."""

from typing import NamedTuple
from uuid import UUID

import orjson

from tailrace.producers.found import Found
from tailrace.producers.payload import Body, body_of
from tailrace.producers.scope import RunScope
from tailrace.producers.sequence import RunKey
from tailrace.producers.text import error_text
from tailrace.schemas import EVENT_TYPES, KINDS, Delivery, Event, ParameterError, is_event_type

__all__ = ["DROPPED_TYPE", "Draft", "complete", "draft_of", "dropped_draft", "run_of"]

DROPPED_TYPE = "tailrace.events.dropped"
"""Tells a project how many of its events a full buffer could not keep."""

_PROJECT_MAX_CHARS = 1024
_OVERHEAD_BYTES = 512
_STATES = frozenset(name for name, known in EVENT_TYPES.items() if known is Delivery.STATE)
_SPREADING = frozenset({"workflow", "custom"})
"""Functions whose dicts put their own members at the top level."""


class Draft(NamedTuple):
    """All that must be taken at the moment of the call; the rest can wait for the background."""

    kind: str
    type: str
    project_id: str
    occurred_at: int
    """Microseconds since the epoch, UTC."""
    body: Body
    error: str | None
    scope: RunScope | None
    traceparent: str | None = None

    @property
    def size(self) -> int:
        """What the draft takes of a buffer, in bytes."""
        return len(self.body.json) + len(self.error or "") + _OVERHEAD_BYTES

    @property
    def is_state(self) -> bool:
        """Whether a newer event may replace this one."""
        return self.type in _STATES


def draft_of(
    kind: str,
    project_id: object,
    event_type: object,
    payload: object,
    error: object,
    *,
    occurred_at: int,
    scope: RunScope | None,
    max_bytes: int,
    spread: bool | None = None,
) -> Draft:
    """Snapshot one event. Later changes to `payload` do not show in it.

    A dict puts its own members at the top level where `spread`; by default the kind decides.

    Raises:
        ParameterError: The project, the type or the kind cannot be sent; no payload is refused.
    """
    if not isinstance(event_type, str) or not is_event_type(event_type):
        raise ParameterError("event_type", f"not a dotted lower-case name: {event_type!r:.80}")
    if kind not in KINDS:
        raise ParameterError("kind", f"not one of {', '.join(KINDS)}: {kind!r:.80}")
    project = _project(project_id)
    spread = kind in _SPREADING if spread is None else spread
    body = body_of(event_type, payload, spread=spread, max_bytes=max_bytes)
    return Draft(kind, event_type, project, occurred_at, body, error_text(error), scope)


def dropped_draft(project_id: str, dropped: dict[str, int], *, occurred_at: int) -> Draft:
    """Return the event that tells a project what it has lost: type -> events dropped."""
    told = {"dropped": dropped, "total": sum(dropped.values())}
    body = Body(None, orjson.dumps(told))
    return Draft("custom", DROPPED_TYPE, project_id, occurred_at, body, None, None)


def _project(project_id: object) -> str:
    """Return the project's id. One that had to be repaired would name another project: refused."""
    if isinstance(project_id, int | UUID) and not isinstance(project_id, bool):
        return str(project_id)
    if not isinstance(project_id, str) or not project_id:
        raise ParameterError("project_id", f"not an id: {project_id!r:.80}")
    if len(project_id) > _PROJECT_MAX_CHARS:
        raise ParameterError("project_id", f"longer than {_PROJECT_MAX_CHARS} characters")
    if not project_id.isascii():
        try:
            project_id.encode()
        except UnicodeEncodeError as exc:
            raise ParameterError("project_id", "holds a lone surrogate") from exc
    return project_id


def run_of(draft: Draft, found: Found) -> RunKey:
    """Return the run of an event: the one its body names, else the surrounding scope's.

    The scope's kind goes with the scope's run only.
    """
    scope = draft.scope
    if scope is None or (found.run_id is not None and found.run_id != scope.run_id):
        return draft.project_id, draft.kind, found.run_id
    return draft.project_id, scope.kind or draft.kind, scope.run_id


def complete(
    draft: Draft, found: Found, run: RunKey, *, event_id: str, source: str, seq: int
) -> Event:
    """Return the event of a draft."""
    _, kind, run_id = run
    return Event(
        event_id=event_id,
        type=draft.type,
        occurred_at=draft.occurred_at,
        project_id=draft.project_id,
        kind=kind,
        run_id=run_id,
        entity_id=found.entity_id or run_id,
        source=source,
        seq=seq,
        status=found.status,
        stage=found.stage,
        progress=found.progress,
        error_message=draft.error or found.error_message,
        data=found.data,
    )

"""The 21 event types: delivery class, coalesce key and body member of each.

Any other dotted lower-case name is a legal type too. It is a fact, unless its record carries a
coalesce key.
"""

import re
from enum import Enum
from functools import lru_cache
from urllib.parse import quote

__all__ = [
    "EVENT_TYPES",
    "KINDS",
    "Delivery",
    "body_member",
    "coalesce_key",
    "delivery",
    "is_event_type",
    "percent",
]

KINDS = ("ingest", "agent", "workflow", "custom")
"""The families of runs; the function that emitted an event decides which one it belongs to."""


class Delivery(Enum):
    """What a subscriber is promised of an event."""

    FACT = "fact"
    """Delivered to every subscriber, exactly once, in order."""
    STATE = "state"
    """Latest wins: a newer value of the same entity, status and stage may replace it."""


def _types(prefix: str, delivery: Delivery, *names: str) -> dict[str, Delivery]:
    return {f"{prefix}.{name}": delivery for name in names}


_ENDED = ("created", "completed", "failed", "cancelled")

EVENT_TYPES: dict[str, Delivery] = {
    **_types("ingest.job", Delivery.FACT, *_ENDED),
    **_types("ingest.job", Delivery.STATE, "updated"),
    **_types("agent.run", Delivery.FACT, *_ENDED),
    **_types("agent.run", Delivery.STATE, "updated"),
    **_types("agent.step", Delivery.STATE, "updated"),
    **_types("agent.message", Delivery.FACT, "appended"),
    **_types("workflow.run", Delivery.FACT, *_ENDED),
    **_types("workflow.run", Delivery.STATE, "updated"),
    **_types("workflow.node", Delivery.FACT, "started", "completed", "failed"),
    **_types("workflow.node_state", Delivery.STATE, "updated"),
}
"""Type name -> delivery class, for the types that Tailrace defines."""

_MEMBERS = {
    "ingest.job": "job",
    "agent.run": "run",
    "agent.step": "step",
    "agent.message": "message",
    "workflow.run": "run",
    "workflow.node": "nodeState",
    "workflow.node_state": "nodeState",
}

_TYPE_NAME = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*")


@lru_cache(maxsize=1024)
def is_event_type(name: str) -> bool:
    """Tell whether `name` may be an event type: dotted lower-case words, at most 128 characters."""
    return len(name) <= 128 and _TYPE_NAME.fullmatch(name) is not None  # noqa: PLR2004


@lru_cache(maxsize=1024)
def body_member(event_type: str) -> str | None:
    """Return the member of the event JSON that holds the body; None for a type of one's own."""
    return _MEMBERS.get(event_type.rpartition(".")[0])


def delivery(event_type: str, *, keyed: bool) -> Delivery:
    """Return the delivery class of a type.

    Args:
        event_type: Any type name.
        keyed: Whether the record carries a coalesce key, which is what decides for types that
            Tailrace does not define.
    """
    known = EVENT_TYPES.get(event_type)
    if known is not None:
        return known
    return Delivery.STATE if keyed else Delivery.FACT


@lru_cache(maxsize=4096)
def percent(text: str) -> str:
    """Percent-encode one part of a composed name, so that separators in ids stay unambiguous."""
    return quote(text, safe="")


def coalesce_key(entity_id: str | None, status: str | None, stage: str | None) -> str:
    """Return ``entity|status|stage``: consecutive states with equal keys replace each other."""
    return f"{percent(entity_id or '')}|{percent(status or '')}|{percent(stage or '')}"

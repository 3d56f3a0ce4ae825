"""Who watches what, and how badly behaved: the file that a recorder process is told by."""

from pathlib import Path
from typing import Final, Literal, NamedTuple

import orjson

from verifier.dialects import Dialect
from verifier.expectation import Watch

__all__ = ["MOODS", "Mood", "Plan", "ViewerPlan", "read_plan", "write_plan"]

Mood = Literal["steady", "dropping", "stalling", "trickling", "storming"]
MOODS: Final[tuple[Mood, ...]] = ("steady", "dropping", "stalling", "trickling", "storming")
"""``steady`` stays as long as it is served; ``dropping`` leaves after a while, ``storming`` with
all others of its kind at once; ``stalling`` stops to read for a while, ``trickling`` reads slowly.
All come back with their last cursor, to any of the edges."""


class ViewerPlan(NamedTuple):
    """One viewer."""

    id: str
    watch: Watch
    dialect: Dialect
    mood: Mood
    ends_with: str
    """Type of the event that ends it."""
    window: int = 40
    """How long states may wait for newer ones, in milliseconds (§2)."""
    bundle: str | None = None
    """v1: viewers of the same one share a connection to /api/stream, and its mood."""
    joins_s: float = 0.0
    """When it connects first, in seconds after the others."""


class Plan(NamedTuple):
    """What the process does."""

    edges: list[str]
    """URLs without a path."""
    seed: int
    deadline_s: float
    viewers: list[ViewerPlan]


def write_plan(plan: Plan, file: Path) -> None:
    """Write a plan for a recorder process."""
    viewers = [v._asdict() | {"watch": v.watch._asdict()} for v in plan.viewers]
    file.write_bytes(orjson.dumps(plan._asdict() | {"viewers": viewers}))


def read_plan(file: Path) -> Plan:
    """Return what `write_plan` wrote."""
    members = orjson.loads(file.read_bytes())
    viewers = [ViewerPlan(**v | {"watch": Watch(**v["watch"])}) for v in members["viewers"]]
    return Plan(**members | {"viewers": viewers})

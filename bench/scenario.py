"""What a scenario is: rows that are run in turn, and what is shown of them."""

import argparse
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from bench.trial import Bench, Outcome

__all__ = ["Row", "Scenario"]


class Row(NamedTuple):
    """One server in one situation."""

    name: str
    run: Callable[[Bench], Coroutine[Any, Any, Outcome]]
    ours: bool = False
    """Then every fault makes the command fail; a peer's are only told."""
    kafka: bool = False
    floor: str | None = None
    """The row that this one's CPU per delivery is compared with."""


class Scenario(NamedTuple):
    """A benchmark."""

    about: str
    arguments: Callable[[argparse.ArgumentParser], None]
    rows: Callable[[argparse.Namespace], Sequence[Row]]
    shown: Sequence[str]
    """Which figures the table shows."""
    aims: Sequence[str] = ()
    summary: Callable[[Mapping[str, Mapping[str, float]]], Sequence[str]] = lambda _: ()
    """Medians by row -> lines that compare rows."""
    seconds: float = 10.0
    """Of feeding, unless the command says otherwise."""

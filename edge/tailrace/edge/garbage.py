"""What the garbage collector need not look at, and when it looks at the rest."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["passing", "settle", "take_over"]

_MOST_HELD = 5
"""Settlings in which nothing is frozen: what has piled up then is looked at once more."""
_held = 0
_running = 0


def take_over() -> None:
    """Let only this module collect in this process: at moments and in steps of its choice."""
    gc.disable()


def settle() -> None:
    """Collect the young garbage, and take all that lives out of the collector's sight for good.

    Ten thousand connections and a full journal are a million objects that stay, and one look at
    them all stalls the loop (`python -m bench stalls`). None of them is part of a cycle when it
    ends, so that references alone free it; the tests of the connections hold that. Called often
    enough each object is looked at once in its life, a few thousand at a time.
    """
    global _held  # noqa: PLW0603 -- there is one collector in a process
    gc.collect(1)
    _held = _held + 1 if _running and _held < _MOST_HELD else 0
    if not _held:
        gc.freeze()


@contextmanager
def passing() -> Iterator[None]:
    """Collect what the block leaves: it has cycles, as a Kafka client does, which `settle` keeps.

    While it runs nothing is frozen, up to a bound: a client that reads for longer than that leaves
    some 20 KB.
    """
    global _running  # noqa: PLW0603
    _running += 1
    try:
        yield
    finally:
        _running -= 1
        if not _running:
            gc.collect()

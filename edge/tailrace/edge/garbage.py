"""What the garbage collector need not look at, and when it looks at the rest."""

import gc

__all__ = ["settle", "take_over"]


def take_over() -> None:
    """Let nothing but `settle` collect in this process: at moments and in steps of our choice."""
    gc.disable()


def settle() -> None:
    """Collect the young garbage, and take all that lives out of the collector's sight for good.

    Ten thousand connections and a full journal are a million objects that stay, and one look at
    them all stalls the loop (`python -m bench stalls`). None of them is part of a cycle when it
    ends, so that references alone free it; the tests of the connections hold that. Called often
    enough each object is looked at once in its life, a few thousand at a time.
    """
    gc.collect(1)
    gc.freeze()

"""What the garbage collector need not look at."""

import gc

__all__ = ["settle"]


def settle() -> None:
    """Take everything that lives now out of the collector's sight, once the young garbage is gone.

    Ten thousand connections and a full journal are a million objects that stay, and one look at
    them all stalls the loop (`python -m bench stalls`). None of them is part of a cycle when it
    ends, so that references alone free it; the tests of the connections hold that.
    """
    gc.collect(1)
    gc.freeze()

"""Calls something when this process ends, a child of multiprocessing included."""

import atexit
import sys
from collections.abc import Callable

__all__ = ["register", "unregister"]

_finalizers: dict[Callable[[], object], Callable[[], object]] = {}


def register(callback: Callable[[], object]) -> None:
    """Call `callback` when the process ends of itself.

    A forked child of multiprocessing ends by ``os._exit`` after its finalizers: no function that
    atexit knows is called there, so that one is made as well.
    """
    atexit.register(callback)
    if "multiprocessing.process" not in sys.modules:
        return
    from multiprocessing import parent_process, util  # noqa: PLC0415 - it is loaded, or not needed

    if parent_process() is not None:
        _finalizers[callback] = util.Finalize(None, callback, exitpriority=0)


def unregister(callback: Callable[[], object]) -> None:
    """Undo `register`."""
    atexit.unregister(callback)
    finalizer = _finalizers.pop(callback, None)
    if finalizer is not None:
        finalizer.cancel()  # type: ignore[attr-defined]

"""An edge that does one thing wrong, so that the verifier can show that it sees it.

    python -m verifier.sabotage [NAME …]

Everything else is the edge as it is; its settings are the usual environment.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final
from unittest import mock

from tailrace.batching import coalesce
from tailrace.edge import chunk, hub, session
from tailrace.edge.app import run
from tailrace.edge.settings import EdgeSettings

__all__ = ["SABOTAGES"]

_EVERY: Final = 23


def _record_skipped(target: type[hub.Hub]) -> Callable[..., None]:
    """Route all but a record now and then, and all that ends a viewer."""
    route, count = target._route, [0]

    def wrong(self: hub.Hub, project: Any, record: chunk.Record, now: float) -> None:
        count[0] += 1
        if count[0] % _EVERY or b".ended" in (record.value or b""):
            route(self, project, record, now)

    return wrong


def _frame_twice(target: type[session.Session]) -> Callable[..., bool]:
    """Write a frame with an event once more, now and then."""
    write, count = target.write, [0]

    def wrong(self: session.Session, frame: bytes) -> bool:
        if b'"timestamp"' in frame:
            count[0] += 1
            if count[0] % _EVERY == 0:
                write(self, frame)
        return write(self, frame)

    return wrong


def _barrier_ignored(target: type[coalesce.Coalescer[Any]]) -> Callable[..., None]:
    """Let a fact seal nothing."""
    fold = target._fold

    def wrong(self: Any, offset: int, envelope: Any) -> None:
        if envelope.coalesce_key is not None:
            fold(self, offset, envelope)

    return wrong


def _chain_not_extended(target: type[hub.Hub]) -> Callable[..., Any]:
    """Begin each frame where the one before it began."""
    make = target.chunk

    def wrong(self: hub.Hub, channel: Any, folded: Any, prev: Any, cursor: Any) -> Any:
        made = make(self, channel, folded, prev, cursor)
        if made is not None and made.prev.offset > 0:
            made.prev = made.prev._replace(offset=made.prev.offset - 1)
        return made

    return wrong


SABOTAGES: Final[dict[str, tuple[type, str, Callable[[Any], Callable[..., Any]]]]] = {
    "record-skipped": (hub.Hub, "_route", _record_skipped),
    "frame-twice": (session.Session, "write", _frame_twice),
    "barrier-ignored": (coalesce.Coalescer, "_fold", _barrier_ignored),
    "chain-not-extended": (hub.Hub, "chunk", _chain_not_extended),
}
"""Name -> what is replaced, and by what."""


def main() -> None:
    """Run the edge with the sabotages that the command line names: none, or more."""
    with ExitStack() as stack:
        for name in sys.argv[1:]:
            target, attribute, wrong = SABOTAGES[name]
            stack.enter_context(mock.patch.object(target, attribute, wrong(target)))
        run(EdgeSettings())


if __name__ == "__main__":
    main()

"""What one viewer recorded in its life, through all its connections: lines of a file. Pure.

The lines hold the messages as they came; what they mean is `dialects`' business.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import orjson

from verifier.dialects import Dialect, Frame, parse
from verifier.expectation import Watch

__all__ = ["Connection", "End", "Line", "Recording", "read_recording", "write_line"]

Line = tuple[Literal["viewer", "open", "got", "close", "end"], Any]
"""The viewer's own description first; then for each connection what it resumed after, each
message, and how it was closed; how the life ended last."""

End = Literal["marker", "deadline", "refused", "cut"]
"""``marker``: it saw what was written last. ``cut``: the recording ends without an end."""


class Connection(NamedTuple):
    """One connection, one answer of the JSON catch-up, or one subscription of a multiplexed one."""

    after: str | None
    frames: tuple[Frame, ...]


class Recording(NamedTuple):
    """A viewer's life."""

    viewer: str
    watch: Watch
    dialect: Dialect
    connections: tuple[Connection, ...]
    end: End


def write_line(line: Line) -> bytes:
    """Return a line of the file."""
    return orjson.dumps(line) + b"\n"


def read_recording(lines: Iterable[bytes]) -> Recording:
    """Return what the lines of one viewer say.

    Raises:
        ValueError: They do not begin with a viewer.
    """
    viewer: dict[str, Any] = {}
    connections: list[tuple[str | None, list[Frame]]] = []
    end: End = "cut"
    for line in lines:
        what, value = orjson.loads(line)
        match what:
            case "viewer":
                viewer = value
            case "open":
                connections.append((value, []))
            case "got":
                connections[-1][1].extend(parse(viewer["dialect"], value))
            case "close":
                connections[-1][1].extend(parse("close", value))
            case _:
                end = value
    if not viewer:
        raise ValueError("a recording begins with its viewer")
    watch = Watch(**viewer["watch"])
    lived = tuple(Connection(after, tuple(frames)) for after, frames in connections)
    return Recording(viewer["id"], watch, viewer["dialect"], lived, end)

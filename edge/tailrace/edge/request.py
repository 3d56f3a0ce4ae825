"""What a viewer asks for: the parameters of a URL or of a subscribe command. Pure."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from tailrace.edge.channel import DEFAULT_WINDOW_MS, ChannelKey
from tailrace.edge.protocol import parse_types
from tailrace.schemas import KINDS, ParameterError, Subject

__all__ = ["Page", "StreamRequest", "parse_page", "parse_request", "parse_subscribe"]

_WINDOWS_MS = frozenset({0, 20, 40, 100, 500})
_MAX_LIMIT = 5000
_MAX_WAIT = 30.0
_WHOLE = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class StreamRequest(NamedTuple):
    """A channel, and where in the log its viewer begins."""

    key: ChannelKey
    after: str | None
    """The cursor to resume after, unchecked."""
    start: bool
    """Without a cursor: from the start of what there is, not live."""


class Page(NamedTuple):
    """How much a JSON catch-up answers, and how long it may wait for the first event."""

    limit: int
    wait: float
    """Seconds."""


def parse_request(project: str, subject: Subject | None, query: Mapping[str, str]) -> StreamRequest:
    """Return what a channel URL and its query ask for; unknown parameters are ignored.

    Raises:
        ParameterError: A value is refused.
    """
    key = ChannelKey(
        project,
        subject,
        parse_types(query.get("types", "*")),
        every=_one_of("delivery", query.get("delivery", "latest"), ("latest", "every")) == "every",
        window_ms=_window(query.get("window", str(DEFAULT_WINDOW_MS))),
    )
    default = "live" if subject is None else "start"
    origin = _one_of("from", query.get("from", default), ("start", "live"))
    return StreamRequest(key, query.get("after"), origin == "start")


def parse_page(query: Mapping[str, str]) -> Page:
    """Return the `limit` and `wait` of a JSON catch-up.

    Raises:
        ParameterError: A value is refused.
    """
    limit, wait = query.get("limit", "500"), query.get("wait", "0")
    if _WHOLE.fullmatch(limit) is None or not 1 <= int(limit) <= _MAX_LIMIT:
        raise ParameterError("limit", f"{limit[:16]!r} is not a number of 1 to {_MAX_LIMIT}")
    if _NUMBER.fullmatch(wait) is None or float(wait) > _MAX_WAIT:
        raise ParameterError("wait", f"{wait[:16]!r} is not a number of 0 to {_MAX_WAIT:g} seconds")
    return Page(int(limit), float(wait))


def parse_subscribe(command: Mapping[str, object]) -> StreamRequest:
    """Return what a `subscribe` command asks for; members mean what the URL's parameters mean.

    Raises:
        ParameterError: A member is missing or its value is refused.
    """
    project = _text(command, "project")
    if not project:
        raise ParameterError("project", "name one")
    kind, run = _text(command, "kind"), _text(command, "run")
    if (kind is None) != (run is None) or run == "":
        raise ParameterError("run" if kind else "kind", "name both kind and run, or neither")
    subject = None if kind is None else Subject(_one_of("kind", kind, KINDS), run)
    return parse_request(project, subject, _parameters(command))


def _parameters(command: Mapping[str, object]) -> dict[str, str]:
    """Return the members that a URL has as parameters, in the form that they have there."""
    found = {name: _text(command, name) for name in ("after", "from", "delivery")}
    types, window = command.get("types"), command.get("window")
    if types is not None:
        if not isinstance(types, list) or not all(isinstance(item, str) for item in types):
            raise ParameterError("types", "a list of strings")
        found["types"] = ",".join(types)
    if window is not None:
        if not isinstance(window, int):
            raise ParameterError("window", "a number")
        found["window"] = str(window)
    return {name: text for name, text in found.items() if text is not None}


def _text(command: Mapping[str, object], name: str) -> str | None:
    value = command.get(name)
    if value is not None and not isinstance(value, str):
        raise ParameterError(name, "a string")
    return value


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ParameterError(name, f"{value[:64]!r} is none of {', '.join(allowed)}")
    return value


def _window(text: str) -> int:
    if text not in map(str, _WINDOWS_MS):
        allowed = ", ".join(map(str, sorted(_WINDOWS_MS)))
        raise ParameterError("window", f"{text[:16]!r} is none of {allowed} (milliseconds)")
    return int(text)

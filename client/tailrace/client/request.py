"""Which stream is asked for: parameters in, checked; the URL of its channel out. Pure."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple
from urllib.parse import quote, urlsplit

from tailrace.schemas import ParameterError

__all__ = [
    "CURSOR",
    "Delivery",
    "Kind",
    "Request",
    "Start",
    "Window",
    "edge_urls",
    "stream_request",
]

Kind = Literal["ingest", "agent", "workflow"]
"""The families of runs that have channels of their own."""
Delivery = Literal["latest", "every"]
Start = Literal["start", "live"]
Window = Literal[0, 20, 40, 100, 500]
"""Milliseconds that a state may wait."""

CURSOR: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

_PATHS: Final = {"ingest": "ingest", "agent": "agent-runs", "workflow": "workflows/runs"}
_DELIVERIES: Final = ("latest", "every")
_STARTS: Final = ("start", "live")
_WINDOWS: Final = (0, 20, 40, 100, 500)
_TYPE: Final = re.compile(r"[a-z0-9_.]+\*?|\*")
_MAX_TYPES: Final = 64
_MAX_URLS: Final = 64
_SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})


class Request(NamedTuple):
    """A channel and how to be served from it; of every edge the same."""

    path: str
    """Of the channel, percent-encoded."""
    query: tuple[str, ...]
    """``name=value`` of what is not the edge's default, ready for a URL."""
    start: str | None
    """``start`` or ``live``, for a connection that has no cursor yet."""

    def url(self, edge: str, after: str | None) -> str:
        """Return the channel's URL on one edge, resuming after a cursor if there is one."""
        query = self.query
        if after is not None:
            query = (*query, f"after={after}")
        elif self.start is not None:
            query = (*query, f"from={self.start}")
        tail = f"?{'&'.join(query)}" if query else ""
        return f"{edge}{self.path}{tail}"


def stream_request(
    project: str,
    kind: str | None,
    run: str | None,
    *,
    types: Iterable[str],
    delivery: str,
    window: int,
    from_: str | None,
    after: str | None,
) -> Request:
    """Return what to ask an edge for.

    Raises:
        ParameterError: A value is refused; its `name` is that of the parameter.
    """
    if after is not None and CURSOR.fullmatch(after) is None:
        raise ParameterError("after", f"not a cursor: {after[:64]!r}")
    if after is not None and from_ is not None:
        raise ParameterError("from", "a stream that resumes after a cursor begins there")
    _one_of("delivery", delivery, _DELIVERIES)
    _one_of("window", window, _WINDOWS)
    if from_ is not None:
        _one_of("from", from_, _STARTS)
    query = [f"types={','.join(chosen)}"] if (chosen := _types(types)) else []
    if delivery != "latest":
        query.append(f"delivery={delivery}")
    if window != 40:  # noqa: PLR2004 - the edge's default
        query.append(f"window={window}")
    return Request(_path(project, kind, run), tuple(query), from_)


def edge_urls(urls: str | Sequence[str]) -> tuple[str, ...]:
    """Return the base URLs of the edges, in the order in which they are tried.

    Raises:
        ParameterError: There is none, there are more than 64, or one is no HTTP address.
    """
    given = (urls,) if isinstance(urls, str) else tuple(urls)
    if not 0 < len(given) <= _MAX_URLS:
        raise ParameterError("urls", f"1 to {_MAX_URLS} are needed, not {len(given)}")
    return tuple(_edge(url) for url in given)


def _edge(text: str) -> str:
    try:
        url = urlsplit(text)
        usable = url.scheme in _SCHEMES and bool(url.hostname) and url.port != 0
        usable = usable and url.username is None  # a token is how to show who one is
        (url.hostname or "").encode("idna")
    except ValueError:  # brackets that do not match, a port that is no port, a label too long
        usable = False
    if not usable or set(text) & set("?# ") or not text.isprintable():
        shown = "a URL with a user in it" if "@" in text else repr(text[:200])
        raise ParameterError("urls", f"not like http://host:port: {shown}")
    return text.rstrip("/")


def _path(project: str, kind: str | None, run: str | None) -> str:
    path = f"/api/stream/projects/{_id('project', project)}"
    if kind is None and run is None:
        return path
    if kind is None or run is None:
        missing = "kind" if kind is None else "run"
        raise ParameterError(missing, "a run is named by its kind and its id, both")
    _one_of("kind", kind, tuple(_PATHS))
    return f"{path}/{_PATHS[kind]}/{_id('run', run)}"


def _id(name: str, text: str) -> str:
    if not text:
        raise ParameterError(name, "must not be empty")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as exc:
        raise ParameterError(name, "not Unicode text") from exc


def _types(types: Iterable[str]) -> list[str]:
    if isinstance(types, str):
        raise ParameterError("types", "several texts are needed, not one")
    chosen = list(types)
    if len(chosen) > _MAX_TYPES:
        raise ParameterError("types", f"more than {_MAX_TYPES}")
    for item in chosen:
        if _TYPE.fullmatch(item) is None:
            raise ParameterError("types", f"{item[:64]!r} is not an event type or a prefix.*")
    return chosen


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ParameterError(name, f"not one of {', '.join(map(str, allowed))}: {value!r:.80}")

"""The client's branch of the error tree.

::

    TailraceError
    ├── UnavailableError
    │   └── EdgeUnreachableError    nothing answers at any of the URLs when a stream begins
    ├── RefusedError                the edge refuses this stream, and would again
    └── DialectError                what answers does not speak ``tailrace.v1.json`` as promised

A bad parameter is a `tailrace.schemas.ParameterError`, raised before anything is connected.
"""

from collections.abc import Sequence

from tailrace.schemas import TailraceError, UnavailableError

__all__ = ["DialectError", "EdgeUnreachableError", "RefusedError", "one_line"]

_SHOWN_CHARS = 200
_REMEDIES = {
    401: "give a valid token",
    403: "ask for access to the project, or for another project",
    404: "correct the URL of the edge",
    4001: "give a new token",
    4501: "give a valid token",
    4503: "ask for access to the project, or for another project",
    4506: "use an edge that speaks tailrace.v1.json",
}


class EdgeUnreachableError(UnavailableError):
    """Nothing answers as an edge at any of the URLs; `detail` tells of the last one."""

    def __init__(self, urls: Sequence[str], detail: str) -> None:
        super().__init__(
            f"No edge answers at {', '.join(urls)} ({one_line(detail)}): "
            "start one with `tailrace edge`, or correct the URL"
        )
        self.urls = tuple(urls)


class RefusedError(TailraceError):
    """The edge refuses this stream and would refuse it again: the request has to change.

    Args:
        code: Of the close (`docs/protocol.md` §5), or the HTTP status of the handshake.
        reason: The edge's own words; shown on one line, cut at 200 characters.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = one_line(reason)
        told = f": {self.reason}" if self.reason else ""
        remedy = _REMEDIES.get(code, "correct the request")
        super().__init__(f"The edge refuses the stream ({code}{told}): {remedy}")


class DialectError(TailraceError):
    """A message breaks the contract: the server is no Tailrace edge, or one with a bug."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"What answers is no edge that speaks tailrace.v1.json ({one_line(detail)}): "
            "correct the URL, or update the edge"
        )


def one_line(text: str) -> str:
    """Return foreign text as one printable line of at most 200 characters."""
    line = " ".join(text[: 4 * _SHOWN_CHARS].split())[:_SHOWN_CHARS]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)

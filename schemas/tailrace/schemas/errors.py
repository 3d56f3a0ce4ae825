"""The error tree of Tailrace.

::

    TailraceError
    ├── RecordError              a Kafka record that cannot be delivered; ``reason`` names why
    ├── CursorError              text that is not a cursor
    ├── ParameterError           a bad value from a client or a user; ``name`` says which
    └── UnavailableError         something outside is missing or does not answer (retriable)

Components add leaves of their own below these. What a *client* sees is a close code, an HTTP
status or an ``error`` message (``docs/protocol.md``), never one of these.
"""

from typing import ClassVar

__all__ = [
    "CursorError",
    "ParameterError",
    "RecordError",
    "TailraceError",
    "UnavailableError",
]


class TailraceError(Exception):
    """The root: everything that Tailrace raises on purpose.

    ``str()`` of one is a single line that says what to do, fit to show to a user.
    """

    retriable: ClassVar[bool] = False
    """Whether the same call may succeed later without a change by the caller."""


class RecordError(TailraceError):
    """A Kafka record that cannot be delivered: counted by ``reason``, logged and skipped."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """``no_key``, ``undecodable``, ``project_mismatch`` or ``data_not_object``."""


class CursorError(TailraceError):
    """Text that no Tailrace edge has handed out as a cursor."""

    def __init__(self, text: str) -> None:
        super().__init__(f"not a cursor: {text[:64]!r}")


class ParameterError(TailraceError):
    """A parameter whose value is refused; ``name`` and ``reason`` are fit to show to its sender."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class UnavailableError(TailraceError):
    """Something outside of Tailrace is missing or does not answer."""

    retriable = True

"""The services' leaves of the error tree.

::

    TailraceError
    ├── PathForbiddenError        a path outside of the folder whose files may be read
    ├── NotFoundError             no such run, workflow or file
    ├── RunEndedError             too late: the run has ended already
    ├── RunStoppedError           a run that is to stop leaves its work; it never leaves the service
    ├── RunFailedError            a run cannot go on; its message is the run's error
    ├── TooLargeError             more bytes than the bound allows
    ├── UnsupportedTypeError      a file or a request body of a kind that is not read
    ├── DocumentError             a document's content cannot be ingested
    └── UnavailableError
        ├── QueueFullError        as many runs as may wait are waiting already
        ├── DrainingError         the service is shutting down
        └── StorageError          SQLite or the disk under it failed
"""

from tailrace.schemas import TailraceError, UnavailableError

__all__ = [
    "DocumentError",
    "DrainingError",
    "NotFoundError",
    "PathForbiddenError",
    "QueueFullError",
    "RunEndedError",
    "RunFailedError",
    "RunStoppedError",
    "StorageError",
    "TooLargeError",
    "UnsupportedTypeError",
]


class PathForbiddenError(TailraceError):
    """A path outside of the ingest root. It does not tell whether anything exists there."""

    def __init__(self, path: str) -> None:
        super().__init__(f"path: {path!r} is outside of the folder whose files may be ingested")
        self.path = path


class NotFoundError(TailraceError):
    """Something that a client named and that does not exist, or not for its project."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"there is no {what} {name!r}")
        self.what = what
        self.name = name


class RunEndedError(TailraceError):
    """A run that can no longer be cancelled."""

    def __init__(self, noun: str, run_id: str, status: str) -> None:
        super().__init__(f"{noun} {run_id} has already ended: {status}")
        self.run_id = run_id
        self.status = status


class RunFailedError(TailraceError):
    """A run that cannot go on: the reason goes into it."""


class RunStoppedError(TailraceError):
    """Leaves the work of a run that was asked to stop: control flow."""

    def __init__(self) -> None:
        super().__init__("the run was asked to stop")


class TooLargeError(TailraceError):
    """More bytes than allowed."""

    def __init__(self, what: str, max_bytes: int) -> None:
        super().__init__(f"{what} is larger than {max_bytes} bytes")
        self.max_bytes = max_bytes


class UnsupportedTypeError(TailraceError):
    """A file or a request body whose declared type is not one that is read here."""

    def __init__(self, what: str, supported: str) -> None:
        super().__init__(f"{what} is not supported, only {supported}")
        self.supported = supported


class DocumentError(TailraceError):
    """A document without usable content: the reason goes into its job."""


class QueueFullError(UnavailableError):
    """As many runs as the service takes on are waiting or running."""

    def __init__(self, max_runs: int, noun: str = "run") -> None:
        super().__init__(f"{max_runs} {noun}s are waiting or running, ask again later")
        self.max_runs = max_runs


class DrainingError(UnavailableError):
    """The service is shutting down and takes on nothing more."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class StorageError(UnavailableError):
    """A database file cannot be opened, read or written."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

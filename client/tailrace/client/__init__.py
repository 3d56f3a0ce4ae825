"""Follow Tailrace streams from Python: an async iterator that resumes and proves it."""

from tailrace.client.errors import DialectError, EdgeUnreachableError, RefusedError
from tailrace.client.follower import Batch, Counters, Event, Gap
from tailrace.client.stream import Stream

__all__ = [
    "Batch",
    "Counters",
    "DialectError",
    "EdgeUnreachableError",
    "Event",
    "Gap",
    "RefusedError",
    "Stream",
]

"""Records that cannot be delivered: counted by reason, logged within a limit."""

from collections import Counter
from collections.abc import Callable

import structlog

from tailrace.schemas import RecordError

__all__ = ["Skips"]

_log = structlog.get_logger(__name__)


class Skips:
    """Counts skipped records; logs at most `lines` of each reason per `seconds`.

    Lines past the limit are counted and the number stands in the next line of that reason.

    Args:
        topic: Named in the log line.
        counts: Reason -> records skipped; counted into.
        clock: Seconds on any clock that only goes forward.
    """

    def __init__(
        self,
        *,
        topic: str,
        counts: Counter[str],
        clock: Callable[[], float],
        lines: int = 10,
        seconds: float = 10.0,
    ) -> None:
        self._topic = topic
        self._counts = counts
        self._clock = clock
        self._lines = lines
        self._seconds = seconds
        self._windows: dict[str, tuple[float, int]] = {}

    def __call__(self, partition: int, offset: int, error: RecordError) -> None:
        """Count one record and log it unless its reason has had its lines."""
        self._counts[error.reason] += 1
        now = self._clock()
        start, used = self._windows.get(error.reason, (now, 0))
        unlogged = 0
        if now - start >= self._seconds:
            unlogged = max(0, used - self._lines)
            start, used = now, 0
        self._windows[error.reason] = (start, used + 1)
        if used < self._lines:
            _log.warning(
                "record skipped",
                topic=self._topic,
                partition=partition,
                offset=offset,
                error=str(error),
                unlogged=unlogged,
            )

"""Which channel is due: the first state after silence at once, then one deadline queue for all."""

import heapq
from typing import Generic, Protocol, TypeVar

__all__ = ["Paced", "Windows"]


class Paced(Protocol):
    """What is paced: it remembers its last flush and whether it waits for its next one."""

    window: float
    """Seconds that a state may wait."""
    flushed_at: float
    """When it was flushed last, seconds on the caller's clock."""
    deadline: float | None
    """When it is due; None while nothing waits."""


T = TypeVar("T", bound=Paced)


class Windows(Generic[T]):
    """The deadlines of all channels that hold something.

    Holds at most one live entry per channel, and what `touch` moved forward until it comes up.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0

    def touch(self, channel: T, now: float, *, urgent: bool) -> None:
        """Note that `channel` holds something since `now`.

        Args:
            channel: What is to be flushed.
            now: Seconds.
            urgent: A fact: it does not wait, and so neither do the states before it.
        """
        due = now if urgent else max(now, channel.flushed_at + channel.window)
        if channel.deadline is None or due < channel.deadline:
            channel.deadline = due
            self._count += 1
            heapq.heappush(self._heap, (due, self._count, channel))

    def due(self, now: float) -> list[T]:
        """Return the channels to flush, earliest deadline first; they count as flushed `now`."""
        ready: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            deadline, _, channel = heapq.heappop(self._heap)
            if channel.deadline == deadline:
                channel.deadline = None
                channel.flushed_at = now
                ready.append(channel)
        return ready

    def next(self) -> float | None:
        """Return when the next channel is due; None while nothing waits."""
        while self._heap and self._heap[0][2].deadline != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def drop(self, channel: T) -> None:
        """Forget a channel that nobody watches any more."""
        channel.deadline = None

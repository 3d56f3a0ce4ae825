"""How long to wait before the next connection: exponential, jittered, bounded. Pure."""

from collections.abc import Callable
from typing import Final

__all__ = ["Backoff"]

_FIRST_S: Final = 0.5
_LONGEST_S: Final = 30.0
_ASKED_MAX_S: Final = 60.0


class Backoff:
    """The waits between attempts: up to 0.5 s, then twice as long each time, 30 s at most.

    Each wait is shortened by a random part of up to a half, so that the viewers of a node that
    died do not come back together.

    Args:
        random: Gives a number in [0, 1).
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._longest = _FIRST_S

    def next(self, asked: float = 0.0) -> float:
        """Return the seconds to wait now, which is never less than the server asked for.

        Args:
            asked: Seconds by a server; 60 is the most that is believed.
        """
        own = self._longest * (1 - self._random() / 2)
        self._longest = min(self._longest * 2, _LONGEST_S)
        return min(asked, _ASKED_MAX_S) + own

    def reset(self) -> None:
        """Begin anew: a connection has proved good."""
        self._longest = _FIRST_S

"""Lets one log line of each kind through per period. Pure."""

__all__ = ["RateLimit"]


class RateLimit:
    """Counts what it holds back, so that the next line can say so.

    Args:
        period: Seconds between two lines of one key.
        max_keys: Keys remembered; at the bound all are forgotten, which lets each through once.
    """

    def __init__(self, period: float, *, max_keys: int = 1000) -> None:
        self._period = period
        self._max_keys = max_keys
        self._seen: dict[object, tuple[float, int]] = {}

    def allow(self, key: object, now: float) -> int | None:
        """Return how many lines of `key` were held back since the last one; None: hold this one."""
        last = self._seen.get(key)
        if last is not None and now - last[0] < self._period:
            self._seen[key] = (last[0], last[1] + 1)
            return None
        if last is None and len(self._seen) >= self._max_keys:
            self._seen.clear()
        self._seen[key] = (now, 0)
        return last[1] if last is not None else 0

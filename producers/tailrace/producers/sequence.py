"""Numbers the events of each run, so that a reader can prove that none is missing."""

from collections import OrderedDict

__all__ = ["RunKey", "Sequence"]

RunKey = tuple[str, str, str | None]
"""Project, kind, run."""

_EVICTED_SHARE = 10


class Sequence:
    """Dense numbers from 1 per source and run.

    At most `max_runs` counters are kept. Past that the tenth of the runs that were quiet for
    longest is forgotten, and runs counted from then on, a forgotten one that comes back included,
    belong to a new *epoch*: their source gets a suffix. So numbers stay dense per source and run
    without a memory of every run there ever was.
    """

    def __init__(self, source: str, *, max_runs: int = 100_000) -> None:
        self._source = source
        self._max_runs = max_runs
        self._epoch = 0
        self._counters: OrderedDict[RunKey, tuple[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counters)

    def next(self, run: RunKey) -> tuple[str, int]:
        """Return the source and the number of the next event of a run."""
        counter = self._counters.get(run)
        if counter is None:
            if len(self._counters) >= self._max_runs:
                self._evict()
            source, seq = self._epoch_source(), 1
        else:
            source, seq = counter[0], counter[1] + 1
        self._counters[run] = (source, seq)
        self._counters.move_to_end(run)
        return source, seq

    def take_back(self, run: RunKey) -> None:
        """Undo the last `next` of a run: its event could not be written."""
        source, seq = self._counters[run]
        self._counters[run] = (source, seq - 1)

    def _epoch_source(self) -> str:
        return f"{self._source}.{self._epoch}" if self._epoch else self._source

    def _evict(self) -> None:
        for _ in range(max(1, self._max_runs // _EVICTED_SHARE)):
            self._counters.popitem(last=False)
        self._epoch += 1

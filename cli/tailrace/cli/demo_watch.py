"""What the demo sees of itself: a viewer that counts, times and follows runs."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import aiohttp
import orjson

from tailrace.cli.errors import DemoError

__all__ = ["ENDED", "Outcome", "Watcher", "percentile", "summary"]

ENDED: Final = 1.0
"""How far a run has come at its end, whatever the end."""

_SETTLE_S: Final = 15.0
_ENDS: Final = ("completed", "failed", "cancelled")
_FAMILIES: Final = {"ingest": "ingest jobs", "agent": "agent runs", "workflow": "workflow runs"}
_MAX_SAMPLES: Final = 1_000_000
_MAX_RUNS: Final = 1000


class Outcome(NamedTuple):
    """What came of a demo."""

    emitted: int
    delivered: int
    latencies_ms: Sequence[float]
    ends: Mapping[str, int]
    """How many runs ended so, by the type of their last event."""

    @property
    def lost(self) -> int:
        """Events that were emitted and not delivered."""
        return self.emitted - self.delivered


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(outcome: Outcome) -> str:
    """Return the two lines that the demo ends with: its runs, and its events."""
    p50, p99 = (percentile(outcome.latencies_ms, share) for share in (0.5, 0.99))
    runs = (_ends_of(family, name, outcome.ends) for family, name in _FAMILIES.items())
    return (
        f"{' · '.join(runs)}\n"
        f"emitted {outcome.emitted} · delivered {outcome.delivered} · lost {outcome.lost} · "
        f"p50 {p50:.1f} ms · p99 {p99:.1f} ms"
    )


def _ends_of(family: str, name: str, ends: Mapping[str, int]) -> str:
    counts = Counter[str]()
    for event_type, count in ends.items():
        if event_type.startswith(f"{family}."):
            counts[event_type.rpartition(".")[2]] += count
    told = ", ".join(f"{counts[end]} {end}" for end in _ENDS if counts[end])
    return f"{counts.total()} {name}" + (f" ({told})" if told else "")


class Watcher:
    """A viewer of a project that counts and times what it sees, and knows how far runs are.

    Keeps the latencies of the first million events, and the newest 1000 runs: the oldest of more
    is forgotten.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._moved = asyncio.Condition()
        self._progress: OrderedDict[str, float] = OrderedDict()
        self.delivered = 0
        self.ends = Counter[str]()
        self.latencies_ms: list[float] = []

    async def run(self) -> None:
        """Read until the connection ends.

        Raises:
            DemoError: It ended: an edge does not close a viewer that keeps up.
        """
        async for message in self._socket:
            event = orjson.loads(message.data)
            async with self._moved:
                self._see(event, time.time())
                self._moved.notify_all()
        raise DemoError(f"the edge closed the viewer: {self._socket.close_code}")

    async def until(self, run_id: str, progress: float) -> None:
        """Wait until a run has come so far, 0 … 1, or has ended."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._progress.get(run_id, -1.0) >= progress)

    async def until_delivered(self, events: int) -> None:
        """Wait until so many events were seen; give up when that takes too long."""
        try:
            async with asyncio.timeout(_SETTLE_S), self._moved:
                await self._moved.wait_for(lambda: self.delivered >= events)
        except TimeoutError:
            return  # the outcome says what is missing

    def _see(self, event: Mapping[str, Any], now: float) -> None:
        self.delivered += 1
        if len(self.latencies_ms) < _MAX_SAMPLES:
            emitted_at = datetime.fromisoformat(event["timestamp"]).timestamp()
            self.latencies_ms.append((now - emitted_at) * 1000)
        run = event.get("job") or event.get("run")
        if run is not None:
            self._follow(event["type"], run["id"], run["progress"])

    def _follow(self, event_type: str, run_id: str, progress: float) -> None:
        ended = event_type.endswith(_ENDS)
        if ended:
            self.ends[event_type] += 1
        # A run that is done with its work, but has not ended, is just short of its end.
        self._progress[run_id] = ENDED if ended else min(progress, 0.99)
        if len(self._progress) > _MAX_RUNS:
            self._progress.popitem(last=False)

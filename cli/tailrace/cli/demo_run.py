"""What the demo does and what it measures: documents go in, every event must come out."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import orjson

from tailrace.cli.errors import DemoError

__all__ = ["Outcome", "Watcher", "documents", "drive", "percentile", "summary"]

SUFFIXES: Final = (".md", ".txt", ".html")
MAX_DOCUMENTS: Final = 200
_AT_ONCE: Final = 4
_SETTLE_S: Final = 15.0
_ENDED: Final = ("completed", "failed", "cancelled")
_MAX_SAMPLES: Final = 1_000_000


def documents(root: Path) -> list[Path]:
    """Return the files below `root` that can be ingested, hidden folders left out.

    Raises:
        DemoError: There is none.
    """
    found = sorted(_visible(root))[:MAX_DOCUMENTS]
    if not found:
        raise DemoError(f"{root} holds no {', '.join(SUFFIXES)} file: choose a folder with --path")
    return found


def _visible(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.suffix in SUFFIXES and path.is_file():
            yield path


class Outcome(NamedTuple):
    """What came of a demo."""

    emitted: int
    delivered: int
    latencies_ms: Sequence[float]

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
    """Return the line that the demo ends with."""
    p50, p99 = (percentile(outcome.latencies_ms, share) for share in (0.5, 0.99))
    return (
        f"emitted {outcome.emitted} · delivered {outcome.delivered} · lost {outcome.lost} · "
        f"p50 {p50:.1f} ms · p99 {p99:.1f} ms"
    )


class Watcher:
    """A viewer of a project that counts and times what it sees.

    Keeps the latencies of the first million events.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._moved = asyncio.Condition()
        self.delivered = 0
        self.ended = 0
        self.latencies_ms: list[float] = []

    async def run(self) -> None:
        """Read until the connection ends.

        Raises:
            DemoError: It ended: an edge does not close a viewer that keeps up.
        """
        async for message in self._socket:
            event = orjson.loads(message.data)
            emitted_at = datetime.fromisoformat(event["timestamp"]).timestamp()
            if len(self.latencies_ms) < _MAX_SAMPLES:
                self.latencies_ms.append((time.time() - emitted_at) * 1000)
            async with self._moved:
                self.delivered += 1
                self.ended += event["type"].endswith(_ENDED)
                self._moved.notify_all()
        raise DemoError(f"the edge closed the viewer: {self._socket.close_code}")

    async def until_ended(self, jobs: int) -> None:
        """Wait until so many jobs have ended."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.ended >= jobs)

    async def until_delivered(self, events: int) -> None:
        """Wait until so many events were seen; give up when that takes too long."""
        try:
            async with asyncio.timeout(_SETTLE_S), self._moved:
                await self._moved.wait_for(lambda: self.delivered >= events)
        except TimeoutError:
            return  # the outcome says what is missing


async def drive(
    http: aiohttp.ClientSession,
    url: str,
    watcher: Watcher,
    files: Sequence[Path],
    stop: asyncio.Event,
) -> int:
    """Keep a few ingest jobs running until `stop`, then let them end; how many there were.

    Args:
        http: To post with.
        url: Of the project's ingest resource.
        watcher: Sees the jobs end.
        files: Ingested in turn, over and over.
        stop: Ends it.
    """
    started = 0
    stopped = asyncio.create_task(stop.wait())
    try:
        for path in cycle(files):
            room = asyncio.create_task(watcher.until_ended(started - _AT_ONCE + 1))
            await asyncio.wait({room, stopped}, return_when=asyncio.FIRST_COMPLETED)
            room.cancel()
            if stop.is_set():
                break
            await _post(http, url, path)
            started += 1
    finally:
        stopped.cancel()
    async with asyncio.timeout(_SETTLE_S * 4):
        await watcher.until_ended(started)
    return started


async def _post(http: aiohttp.ClientSession, url: str, path: Path) -> None:
    async with http.post(url, json={"path": str(path)}) as response:
        if response.status != 201:  # noqa: PLR2004
            raise DemoError(f"the service refused {path}: {await response.text()}")

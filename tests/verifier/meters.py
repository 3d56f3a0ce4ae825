"""What edges count of themselves, added up over all their incarnations."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiohttp
from edge_harness import EdgeProcess, client_of

__all__ = ["Meters", "metered"]

_PERIOD_S: Final = 0.25


class Meters:
    """Keeps the last value of each counter, of each process that an edge was."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], Mapping[str, float]] = {}

    def read(self, edge: EdgeProcess, samples: Mapping[str, float]) -> None:
        """Take what an edge shows now."""
        self._last[edge.url, edge.starts] = samples

    def total(self, prefix: str) -> int:
        """Return the sum of the counters whose names begin so.

        What an edge counted in the moment before it ended is not in it.
        """
        return int(
            sum(
                value
                for samples in self._last.values()
                for name, value in samples.items()
                if name.startswith(prefix)
            )
        )


@asynccontextmanager
async def metered(edges: Sequence[EdgeProcess]) -> AsyncIterator[Meters]:
    """Read the edges' counters again and again while the block runs, and once more at its end."""
    meters = Meters()
    reading = asyncio.create_task(_read_on(meters, edges))
    try:
        yield meters
        await _read(meters, edges)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_on(meters: Meters, edges: Sequence[EdgeProcess]) -> None:
    while True:
        await asyncio.sleep(_PERIOD_S)
        await _read(meters, edges)


async def _read(meters: Meters, edges: Sequence[EdgeProcess]) -> None:
    for edge in edges:
        with suppress(aiohttp.ClientError, TimeoutError):  # it is away, or frozen
            async with asyncio.timeout(1.0), client_of(edge.url) as client:
                meters.read(edge, await client.metrics())

"""The load generator, driven: thousands of viewers in one C process (see loadgen.c)."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.compile import compiled

__all__ = ["FAULTS", "Generator", "Group", "generator"]

_SOURCE = Path(__file__).parent / "loadgen.c"
_LINE_BYTES = 1 << 26
"""The report's line holds every bucket of every histogram."""
INFLIGHT = 1000
"""Handshakes under way at once: beyond a listener's backlog the kernel drops them for a second."""

FAULTS = (
    "lost",
    "missing",
    "duplicates",
    "disordered",
    "foreign",
    "broken",
    "broken_chain",
    "gaps",
    "errors",
)
"""What must be 0: facts lost between two others, and at the end; events twice, out of order, of
another project; unreadable frames; `prev` chains that do not fit; gaps and errors told."""


class Group(NamedTuple):
    """Viewers that do the same."""

    name: str
    urls: Sequence[tuple[int, int, str]]
    """Viewers, their project's number, where they connect."""
    dialect: str = "plain"
    flags: str = ""
    """Of ``resume``, ``stalled`` and ``idle``, separated by spaces."""


class Generator:
    """A running load generator."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def command(self, *words: object) -> None:
        """Tell it something."""
        assert self._process.stdin is not None, "piped"
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        await self._process.stdin.drain()

    async def heard(self, said: str, seconds: float) -> dict[str, Any] | None:
        """Return the next line of this kind; None when it does not come in time."""
        assert self._process.stdout is not None, "piped"
        try:
            async with asyncio.timeout(seconds):
                while line := await self._process.stdout.readline():
                    told: dict[str, Any] = json.loads(line)
                    if told["said"] == said:
                        return told
        except TimeoutError:
            return None
        raise SystemExit("the load generator ended early: its last words are above")

    async def add(self, group: Group) -> None:
        """Make a group, connected to nothing yet."""
        await self.command("group", group.name, group.dialect, group.flags)
        for count, project, url in group.urls:
            await self.command("viewers", group.name, count, project, url)

    async def open(self, name: str, *, rate: float = 0, seconds: float = 60) -> dict[str, Any]:
        """Connect a group and wait until it is served.

        Raises:
            SystemExit: Not all were, within `seconds`.
        """
        await self.command("open", name, rate, INFLIGHT)
        told = await self.heard("open", seconds)
        if told is None or told["refused"]:
            raise SystemExit(f"viewers were not served: {told or f'no answer in {seconds:g} s'}")
        return told

    async def end(self) -> dict[str, Any]:
        """End it and return its report."""
        await self.command("end")
        report = await self.heard("end", 60)
        assert report is not None, "it reports at once"
        return report


@asynccontextmanager
async def generator() -> AsyncIterator[Generator]:
    """Run a load generator for as long as the block runs."""
    process = await asyncio.create_subprocess_exec(
        str(compiled(_SOURCE)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    try:
        yield Generator(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()

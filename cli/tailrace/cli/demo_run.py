"""What the demo does: documents go in, the agent and the workflows work on them, all at once."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from tailrace.cli.demo_watch import ENDED, Watcher
from tailrace.cli.errors import DemoError
from tailrace.schemas import TailraceError
from tailrace.services.documents import extract
from tailrace.services.summary import keywords

__all__ = ["Order", "Runs", "agent_orders", "audits", "digests", "documents", "drive", "ingests"]

SUFFIXES: Final = (".md", ".txt", ".html")
MAX_DOCUMENTS: Final = 200
_TOPICS_FROM: Final = 20
_MAX_BYTES: Final = 100_000
_MAX_TOPICS: Final = 12
_CANCEL_AT: Final = 0.3
_BETWEEN_S: Final = 0.8
_END_S: Final = 60.0
_JOBS_AT_ONCE: Final = 3
_AGENTS_AT_ONCE: Final = 2


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


def topics(files: Sequence[Path]) -> list[str]:
    """Return up to 12 words that the first documents use most; never none."""
    texts = []
    for path in files[:_TOPICS_FROM]:
        with suppress(TailraceError, OSError):  # its ingest job tells what is wrong with it
            texts.append(extract(path.name, path.read_bytes()[:_MAX_BYTES]))
    return keywords(texts, _MAX_TOPICS) or ["documents"]


class Order(NamedTuple):
    """One run to ask the services for."""

    path: str
    """Below the project's URL."""
    body: dict[str, Any]
    cancel: bool = False
    """Whether it is cancelled on its way."""


def ingests(files: Sequence[Path]) -> Iterator[Order]:
    """Yield a job for each file in turn, over and over; each seventh is cancelled."""
    for number, path in enumerate(cycle(files), 1):
        yield Order("ingest", {"path": str(path)}, number % 7 == 0)


def agent_orders(words: Sequence[str]) -> Iterator[Order]:
    """Yield goals of three kinds about the words in turn; each fifth run is cancelled."""
    for number, word in enumerate(cycle(words), 1):
        goals = (
            f"What do the documents say about {word}?",
            f"How many documents are there, and what is ({number} + 4) * 12?",
            f"Count the documents, calculate {number} * 60 and tell me about {word}.",
        )
        yield Order("agent-runs", {"goal": goals[number % 3]}, number % 5 == 0)


def digests() -> Iterator[Order]:
    """Yield runs whose last node fails not at all, once, twice; each fourth is cancelled."""
    for number in count(1):
        given = {"documents": 8, "failures": number % 3}
        yield Order("workflows/digest/runs", {"input": given}, number % 4 == 0)


def audits(words: Sequence[str]) -> Iterator[Order]:
    """Yield runs that look for the words; the input of each third is bad, on purpose."""
    for number in count(1):
        require = words[0] if number % 3 == 0 else list(words)
        yield Order("workflows/audit/runs", {"input": {"require": require}})


class Runs:
    """Asks the services for runs and sees each through to its end.

    Args:
        http: To post with.
        services: Their address.
        project: Whose runs they are.
        watcher: Sees the runs move and end.
        stop: When set, what runs is cancelled and nothing new is asked for.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        services: str,
        project: str,
        watcher: Watcher,
        stop: asyncio.Event,
    ) -> None:
        self._http = http
        self._services = services
        self._project = project
        self._watcher = watcher
        self._stop = stop

    async def lane(self, orders: Iterator[Order]) -> None:
        """Have one run after the other until it is time to stop.

        Raises:
            DemoError: The services refused one.
        """
        while not self._stop.is_set():
            await self.one(next(orders))
            await self._unless_stopped(asyncio.sleep(_BETWEEN_S))

    async def one(self, order: Order) -> None:
        """Ask for a run and wait until it has ended.

        Raises:
            DemoError: The services refused it.
        """
        place = await self._post(f"/api/projects/{self._project}/{order.path}", order.body)
        run_id = place.rpartition("/")[2]
        enough = _CANCEL_AT if order.cancel else ENDED
        await self._unless_stopped(self._watcher.until(run_id, enough))
        if order.cancel or self._stop.is_set():
            await self._cancel(place)
        with suppress(TimeoutError):  # the outcome tells what was lost
            async with asyncio.timeout(_END_S):
                await self._watcher.until(run_id, ENDED)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        tasks = {asyncio.create_task(work), asyncio.create_task(self._stopped())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _stopped(self) -> None:
        await self._stop.wait()

    async def _post(self, path: str, body: dict[str, Any]) -> str:
        async with self._http.post(self._services + path, json=body) as response:
            if response.status != 201:  # noqa: PLR2004
                raise DemoError(f"the services refused {path}: {await response.text()}")
            return response.headers["Location"]

    async def _cancel(self, place: str) -> None:
        async with self._http.post(f"{self._services}{place}/cancel") as response:
            if response.status not in {200, 409}:  # 409: it had ended already
                raise DemoError(f"the services refused to cancel: {await response.text()}")


async def drive(runs: Runs, files: Sequence[Path]) -> None:
    """Keep runs of every kind going until it is time to stop, then let them end.

    The smallest document is ingested first: the others need one to work on.

    Raises:
        DemoError: The services refused something.
    """
    words = topics(files)
    jobs, goals = ingests(files), agent_orders(words)
    lanes = [jobs] * _JOBS_AT_ONCE + [goals] * _AGENTS_AT_ONCE + [digests(), audits(words)]
    await runs.one(Order("ingest", {"path": str(min(files, key=lambda f: f.stat().st_size))}))
    try:
        async with asyncio.TaskGroup() as group:
            for orders in lanes:
                group.create_task(runs.lane(orders))
    except* DemoError as errors:
        raise errors.exceptions[0] from None

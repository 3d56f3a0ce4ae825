"""Tailrace's own processes, started and ended by another: an edge, the services."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp

from tailrace.cli.errors import ChildError

__all__ = ["child", "ready"]

_READY_S: Final = 30.0
_ASK_AGAIN_S: Final = 0.05
_GRACE_S: Final = 15.0


@asynccontextmanager
async def child(
    arguments: Sequence[str], *, env: Mapping[str, str], log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``tailrace <arguments>`` for as long as the block runs; its output goes to `log`.

    It is in a session of its own, so that a Ctrl-C reaches only the parent, which ends it with
    SIGTERM and, after a grace, SIGKILL.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tailrace.cli",
            *arguments,
            env={**os.environ, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def ready(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    """Wait until `url` answers 200.

    Raises:
        ChildError: The process ended, or did not answer within 30 s; its log is named.
    """
    try:
        async with asyncio.timeout(_READY_S), aiohttp.ClientSession() as http:
            while not await _answers(http, url):
                if process.returncode is not None:
                    raise ChildError(url, log)
                await asyncio.sleep(_ASK_AGAIN_S)
    except TimeoutError as exc:
        raise ChildError(url, log) from exc


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200  # noqa: PLR2004
    except aiohttp.ClientError:
        return False

"""Keeps aiokafka patient: it asks for a leader that there is none of 1,500 times a second."""

import asyncio
from typing import Any

__all__ = ["patient"]

_PAUSE_SECONDS = 0.1
"""Between two questions for metadata; Kafka's own clients take the same (``retry.backoff.ms``)."""


def patient(client: Any) -> None:
    """Let an aiokafka client pause between two questions for metadata.

    Without that a consumer and a producer take a whole core for as long as a partition that they
    need has no leader.
    """
    ask = client._metadata_update  # noqa: SLF001 -- there is no setting for it
    next_at = 0.0

    async def ask_later(*what: Any) -> Any:
        nonlocal next_at
        loop = asyncio.get_running_loop()
        await asyncio.sleep(next_at - loop.time())
        next_at = loop.time() + _PAUSE_SECONDS
        return await ask(*what)

    client._metadata_update = ask_later  # noqa: SLF001

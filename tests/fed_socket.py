"""A WebSocket of aiohttp's client whose messages a test feeds."""

import asyncio
from typing import Any, NamedTuple, Self

import orjson


class Fed(NamedTuple):
    data: bytes


class FedSocket:
    """Gives what it was fed, in order, until it is closed."""

    close_code = 1012

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Fed | None] = asyncio.Queue()

    def feed(self, event_type: str, **body: Any) -> None:
        event = {"type": event_type, "timestamp": "2026-01-02T00:00:00.000000+00:00", **body}
        self._messages.put_nowait(Fed(orjson.dumps(event)))

    def close(self) -> None:
        self._messages.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Fed:
        message = await self._messages.get()
        if message is None:
            raise StopAsyncIteration
        return message

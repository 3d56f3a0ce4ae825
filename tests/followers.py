"""Viewers of a channel in each dialect, who check the chain of what they are told."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import orjson
from edge_harness import Client, RawViewer, numbers

__all__ = ["DIALECTS", "Follower", "Told", "following", "read_messages", "told_by"]

TEXT, CLOSE = 1, 8
DIALECTS = ("plain", "tailrace.v1.json", "sse", "json")


class Told(NamedTuple):
    """An event's number, or the reason of a gap."""

    number: int | None = None
    gap: str | None = None


class Follower:
    """What a viewer was told, in order, and where it would resume.

    Args:
        client: Of an edge.
        path: The channel URL.
        query: Its parameters.
    """

    def __init__(self, client: Client, path: str, query: dict[str, str]) -> None:
        self.client = client
        self.path = path
        self.query = query
        self.cursor: str | None = query.get("after")
        self.frames = 0
        """Messages, blocks or answers that told something or moved the cursor."""
        self.skipped = 0
        """States that newer ones replaced, where the dialect says so."""
        self.told: list[Told] = []
        """What was read and not asked for yet."""

    async def next(self) -> Told:
        """Return what is told next."""
        while not self.told:
            await self.read()
        return self.told.pop(0)

    async def take(self, count: int) -> list[Told]:
        """Return the next things that are told."""
        return [await self.next() for _ in range(count)]

    async def numbers(self, count: int) -> list[int | None]:
        """Return the numbers of the next events; None where a gap is told."""
        return [told.number for told in await self.take(count)]

    async def up_to(self, number: int) -> list[Told]:
        """Return what is told up to the event of a number."""
        told = [await self.next()]
        while told[-1].number != number:
            told.append(await self.next())
        return told

    async def read(self) -> None:
        """Read the next message, block or answer."""
        raise NotImplementedError

    async def open(self, stack: AsyncExitStack) -> Self:
        """Connect."""
        raise NotImplementedError

    @property
    def _url(self) -> str:
        return f"{self.path}?{urlencode(self.query)}"

    def _chain(self, prev: str, cursor: str) -> None:
        if self.cursor is not None:
            assert prev == self.cursor, "the chain is broken"
        self.cursor = cursor

    def _events(self, events: list[dict[str, Any]]) -> None:
        self.told += [Told(number) for number in numbers(events)]


class _Plain(Follower):
    async def open(self, stack: AsyncExitStack) -> Self:
        viewer = await stack.enter_async_context(self.client.watch(self._url))
        self.viewer = viewer
        return self

    async def read(self) -> None:
        message = orjson.loads(await self.viewer.text())
        self.frames += 1
        self.cursor = message.pop("cursor")
        if message["type"] == "stream.gap":
            self.told.append(Told(gap=message["reason"]))
        else:
            self._events([message])


class V1(Follower):
    async def open(self, stack: AsyncExitStack) -> Self:
        watching = self.client.watch(self._url, protocols=["tailrace.v1.json"])
        self.viewer = await stack.enter_async_context(watching)
        assert orjson.loads(await self.viewer.text())["t"] == "hello"
        return self

    async def read(self) -> None:
        message = orjson.loads(await self.viewer.text())
        self.frames += 1
        match message["t"]:
            case "subscribed":
                assert message["resumed"] == ("after" in self.query and message["gap"] is None)
                self.cursor = message["cursor"]
                if message["gap"] is not None:
                    self.told.append(Told(gap=message["gap"]["reason"]))
            case "batch":
                self._chain(message["prev"], message["cursor"])
                self.skipped += message["skipped"]
                self._events(message["events"])
            case "gap":
                self._chain(message["prev"], message["cursor"])
                self.told.append(Told(gap=message["reason"]))
            case "drain":
                pass
            case other:
                raise AssertionError(other)


class _Sse(Follower):
    async def open(self, stack: AsyncExitStack) -> Self:
        url = self.client.url + self._url
        got = self.client.http.get(url, headers={"Accept": "text/event-stream"})
        self.response = await stack.enter_async_context(got)
        assert self.response.status == 200
        await self._block()  # retry
        return self

    async def _block(self) -> dict[str, str]:
        lines = []
        while (line := (await self.response.content.readline()).decode()) != "\n":
            assert line, "ended"
            lines.append(line.rstrip("\n"))
        return dict(line.split(": ", 1) for line in lines)

    async def read(self) -> None:
        block = await self._block()
        self.frames += 1
        self.cursor = block["id"]
        if block.get("event") == "gap":
            gap = orjson.loads(block["data"])
            assert (gap["type"], gap["cursor"]) == ("stream.gap", self.cursor)
            self.told.append(Told(gap=gap["reason"]))
        elif "data" in block:
            self._events([orjson.loads(block["data"])])


class _Json(Follower):
    async def open(self, stack: AsyncExitStack) -> Self:  # noqa: ARG002 -- it holds nothing open
        return self

    async def read(self) -> None:
        after = {} if self.cursor is None else {"after": self.cursor}
        query = urlencode({**self.query, "wait": "10", **after})
        status, _, body = await self.client.get(f"{self.path}?{query}", Accept="application/json")
        assert status == 200, body
        page = orjson.loads(body)
        self.frames += 1
        self.skipped += page["skipped"]
        if page["gap"] is not None:
            self.told.append(Told(gap=page["gap"]["reason"]))
            self.cursor = page["prev"]
        self._chain(page["prev"], page["cursor"])
        self._events(page["events"])


_FOLLOWERS = {"plain": _Plain, "tailrace.v1.json": V1, "sse": _Sse, "json": _Json}


@asynccontextmanager
async def following(
    dialect: str, client: Client, path: str, **query: str | None
) -> AsyncIterator[Follower]:
    """Follow a channel for as long as the block runs; parameters that are None are left out."""
    given = {name.rstrip("_"): value for name, value in query.items() if value is not None}
    async with AsyncExitStack() as stack:
        yield await _FOLLOWERS[dialect](client, path, given).open(stack)


async def read_frame(viewer: RawViewer) -> tuple[int, bytes]:
    """Return opcode and payload of a bare socket's next frame."""
    first, size = await viewer.read(2)
    if size > 125:
        size = int.from_bytes(await viewer.read(2 if size == 126 else 8), "big")
    return first & 0xF, await viewer.read(size)


async def read_messages(viewer: RawViewer, last: int | None = None) -> list[dict[str, Any]]:
    """Read a bare socket's messages up to the event of a number, or to the close frame.

    Pings are passed over; what the close frame says is the last message.
    """
    messages: list[dict[str, Any]] = []
    while not messages or last not in numbers(messages[-1].get("events", [messages[-1]])):
        opcode, payload = await read_frame(viewer)
        if opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            return [*messages, {"code": code, "reason": payload[2:].decode()}]
        if opcode == TEXT:
            messages.append(orjson.loads(payload))
    return messages


def told_by(messages: list[dict[str, Any]]) -> list[Told]:
    """Return what plain or v1 messages tell; checks the chain of the latter."""
    told, cursor = [], None
    for message in messages:
        gap = message.get("t") == "gap" or message.get("type") == "stream.gap"
        if "prev" in message:
            assert message["prev"] == cursor, "the chain is broken"
        cursor = message.get("cursor")
        events = message.get("events", [message] if "t" not in message else [])
        told += [Told(gap=message["reason"])] if gap else [Told(n) for n in numbers(events)]
    return told

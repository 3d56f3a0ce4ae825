"""Many viewers of unruly behaviour, in a process of its own; what they get goes to files.

    python -m verifier.recorder PLAN FOLDER

PLAN is the file of a `Plan`; each viewer writes FOLDER/<id>.ndjson. It prints ``ready`` when
every viewer has connected once, and ends when each has seen its end or the deadline has come.
"""

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from verifier.dialects import Batch, Frame, Gap, Subscribed, parse
from verifier.plan import Plan, ViewerPlan, read_plan
from verifier.recording import End, write_line

__all__ = ["record"]

_STORM_S: Final = 5.0
_MEAN_LIFE_S: Final = 1.5
_FIRST_STALL: Final = 10
_STALLS: Final = 0.004
"""A stalling viewer stops after this message, and then after so many of all."""
_RETRY_STATUSES: Final = frozenset({429, 502, 503, 504})
_FINAL_CLOSES: Final = range(4500, 5000)


_SOCKET: Final[dict[str, Any]] = {
    "max_msg_size": 0,
    "timeout": aiohttp.ClientWSTimeout(ws_close=2.0),
}


class Tape:
    """What one viewer has so far."""

    def __init__(self, plan: ViewerPlan, folder: Path) -> None:
        self.plan = plan
        self.cursor: str | None = None
        self.done = False
        self.opened = asyncio.Event()
        self._file = (folder / f"{plan.id}.ndjson").open("wb")
        viewer = {"id": plan.id, "watch": plan.watch._asdict(), "dialect": plan.dialect}
        self._write("viewer", viewer)

    def open(self) -> None:
        """Begin a connection after the last cursor."""
        self._write("open", self.cursor)

    def got(self, message: Any) -> None:
        """Take a message; events end the viewer where its end is among them."""
        self._write("got", message)
        for frame in parse(self.plan.dialect, message):
            self._frame(frame)

    def _frame(self, frame: Frame) -> None:
        if isinstance(frame, Subscribed | Batch | Gap):
            self.cursor = frame.cursor
            self.opened.set()
        if isinstance(frame, Batch):
            self.done |= any(seen.type == self.plan.ends_with for seen in frame.events)

    def closed(self, code: int | None, reason: str) -> None:
        """Take how the server ended the connection."""
        self._write("close", [code, reason])

    def end(self, how: End) -> None:
        """End the recording."""
        self.opened.set()
        if not self._file.closed:
            self._write("end", how)
            self._file.close()

    def _write(self, what: Any, value: Any) -> None:
        self._file.write(write_line((what, value)))


class _Refused(Exception):  # noqa: N818 -- it ends a viewer, not the process
    """The server says not to come back."""


class Viewers:
    """One connection at a time for the viewers on it: several for a bundle, else one.

    Args:
        tapes: The viewers'.
        edges: Where to connect.
        http: To connect with.
        seed: Of their behaviour.
    """

    def __init__(
        self, tapes: list[Tape], edges: list[str], http: aiohttp.ClientSession, seed: int
    ) -> None:
        self._tapes = tapes
        self._plan = tapes[0].plan
        self._edges = edges
        self._http = http
        self._random = random.Random(f"{seed} {self._plan.id}")
        self._again_s = 0.0
        self._messages = 0
        self._close: tuple[int | None, str] = (None, "")

    async def live(self) -> None:
        """Connect again and again until each has seen its end, or is told not to come back."""
        await asyncio.sleep(self._plan.joins_s)
        try:
            while self._waiting():
                self._again_s = self._random.uniform(0, 0.2)
                with suppress(aiohttp.ClientError, OSError, asyncio.IncompleteReadError):
                    await self._connect()
                await asyncio.sleep(self._again_s)
        except _Refused:
            for tape in self._waiting():
                tape.end("refused")
        for tape in self._tapes:
            tape.end("marker")

    def _waiting(self) -> list[Tape]:
        return [tape for tape in self._tapes if not tape.done]

    async def _connect(self) -> None:
        """Live through one connection; TimeoutError is the viewer's own wish to leave."""
        connect = {"sse": self._sse, "json": self._catch_up}.get(self._plan.dialect, self._socket)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._leave_at()):
                await connect(self._random.choice(self._edges))

    def _leave_at(self) -> float | None:
        now = asyncio.get_running_loop().time()
        match self._plan.mood:
            case "dropping":
                return now + self._random.expovariate(1 / _MEAN_LIFE_S)
            case "storming":
                return (now // _STORM_S + 1) * _STORM_S
            case _:
                return None

    async def _pause(self) -> None:
        """Stop reading, as this viewer does after a message."""
        if self._plan.mood == "trickling":
            await asyncio.sleep(self._random.uniform(0, 0.01))
        elif self._plan.mood == "stalling":
            self._messages += 1
            if self._messages == _FIRST_STALL or self._random.random() < _STALLS:
                await asyncio.sleep(self._random.uniform(0.5, 3))

    # --- WebSocket ----------------------------------------------------------------------------

    async def _socket(self, edge: str) -> None:
        v1 = self._plan.dialect == "v1"
        protocols = ("tailrace.v1.json",) if v1 else ()
        url = _url(edge, "/api/stream") if self._plan.bundle else self._url(edge)
        async with self._opened(url, protocols) as ws:
            waiting = self._waiting()
            for tape in waiting:
                tape.open()
                if not v1:
                    tape.opened.set()
            if self._plan.bundle:
                await self._read_bundle(ws, waiting)
            else:
                await self._read(ws, waiting[0])
            for tape in self._waiting():
                tape.closed(*self._close)
            self._heed(*self._close)

    @asynccontextmanager
    async def _opened(
        self, url: URL, protocols: tuple[str, ...]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a socket; one in two is cut off at the end instead of being closed."""
        try:
            ws = await self._http.ws_connect(url, protocols=protocols, **_SOCKET)
        except aiohttp.WSServerHandshakeError as error:
            if error.status not in _RETRY_STATUSES:
                raise _Refused(str(error)) from error
            raise
        try:
            yield ws
        finally:
            if self._random.random() < 0.5:
                connection = ws._response.connection
                if connection is not None and connection.transport is not None:
                    connection.transport.abort()
            await ws.close()

    async def _read(self, ws: aiohttp.ClientWebSocketResponse, tape: Tape) -> None:
        async for text in self._texts(ws):
            tape.got(text)
            if tape.done:
                return

    async def _read_bundle(self, ws: aiohttp.ClientWebSocketResponse, tapes: list[Tape]) -> None:
        by_id = dict(enumerate(tapes, 1))
        by_channel: dict[str, Tape] = {}
        for number, tape in by_id.items():
            await ws.send_json(_subscribe(number, tape))
        async for text in self._texts(ws):
            members = orjson.loads(text)
            if members["t"] == "subscribed":
                by_channel[members["ch"]] = by_id[members["id"]]
            found = by_channel.get(members.get("ch", "")) or by_id.get(members.get("id", 0))
            if found is not None and not found.done:
                found.got(text)
            elif members["t"] in {"batch", "gap"} and found is None:
                tapes[0].got(text)  # of a channel that none asked for: the judge's
            if not self._waiting() or members["t"] == "error":
                return  # such as while Kafka does not answer: all come again

    async def _texts(self, ws: aiohttp.ClientWebSocketResponse) -> AsyncIterator[str]:
        """Yield the messages at this viewer's speed, and keep how the server closed."""
        while True:
            message = await ws.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                close = message.type is aiohttp.WSMsgType.CLOSE
                self._close = (message.data, message.extra or "") if close else (None, "lost")
                return
            yield str(message.data)
            await self._pause()

    def _heed(self, code: int | None, reason: str) -> None:
        if code in _FINAL_CLOSES:
            raise _Refused(reason)
        with suppress(ValueError, TypeError, KeyError):
            wait = orjson.loads(reason)["retry_after_ms"]
            self._again_s = min(wait, 2000) / 1000

    # --- HTTP ---------------------------------------------------------------------------------

    def _url(self, edge: str, **more: object) -> URL:
        watch, tape = self._plan.watch, self._tapes[0]
        query = {"delivery": watch.delivery, "types": watch.types, "window": self._plan.window}
        query |= more
        query |= {"from": watch.start} if tape.cursor is None else {"after": tape.cursor}
        return _url(edge, watch.path) % {name: str(value) for name, value in query.items()}

    @asynccontextmanager
    async def _got(self, url: URL, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._http.get(url, headers=headers) as response:
            if response.status in _RETRY_STATUSES:
                response.raise_for_status()
            if response.status != 200:
                self._tapes[0].open()
                self._tapes[0].closed(response.status, await response.text())
                raise _Refused(str(response.status))
            yield response

    async def _sse(self, edge: str) -> None:
        tape = self._tapes[0]
        headers = {"Accept": "text/event-stream"}
        if tape.cursor is not None:
            headers["Last-Event-ID"] = tape.cursor
        url = self._url(edge)
        async with self._got(url.without_query_params("after"), **headers) as response:
            tape.open()
            tape.opened.set()
            block: dict[str, str] = {}
            async for line in response.content:
                name, _, value = line.decode().rstrip("\r\n").partition(":")
                if name:
                    block[name] = value.removeprefix(" ")
                elif line.strip() == b"" and block:
                    tape.got(block)
                    block = {}
                    await self._pause()
                if tape.done:
                    return

    async def _catch_up(self, edge: str) -> None:
        tape = self._tapes[0]
        limit, wait = self._random.choice([7, 100, 500]), self._random.choice([1, 5])
        wait *= tape.cursor is not None  # at first only to be where the log is
        async with self._got(self._url(edge, limit=limit, wait=wait)) as response:
            text = await response.text()
        tape.open()
        tape.got(text)
        self._again_s = 0.0
        await self._pause()


def _url(edge: str, path: str) -> URL:
    return URL(edge + path, encoded=True)  # ids stay encoded as they are


def _subscribe(number: int, tape: Tape) -> dict[str, Any]:
    watch = tape.plan.watch
    asked: dict[str, Any] = {"t": "subscribe", "id": number, "project": watch.project}
    if watch.kind is not None:
        asked |= {"kind": watch.kind, "run": watch.run}
    if watch.types != "*":
        asked["types"] = watch.types.split(",")
    asked |= {"from": watch.start} if tape.cursor is None else {"after": tape.cursor}
    return asked | {"delivery": watch.delivery, "window": tape.plan.window}


async def record(plan: Plan, folder: Path, ready: Any) -> None:
    """Let all viewers live; `ready` is called when each has connected once."""
    bundles: dict[str, list[Tape]] = {}
    for viewer in plan.viewers:
        bundles.setdefault(viewer.bundle or viewer.id, []).append(Tape(viewer, folder))
    tapes = [tape for bundle in bundles.values() for tape in bundle]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(plan.deadline_s), AsyncExitStack() as stack:
                fast = await stack.enter_async_context(_http())
                slow = await stack.enter_async_context(_http(receive_bytes=4096))
                async with asyncio.TaskGroup() as group:
                    for bundle in bundles.values():
                        reads_on = bundle[0].plan.mood in {"steady", "dropping", "storming"}
                        http = fast if reads_on else slow
                        group.create_task(Viewers(bundle, plan.edges, http, plan.seed).live())
                    for tape in tapes:
                        if tape.plan.joins_s == 0:
                            await tape.opened.wait()
                    ready()
    finally:
        for tape in tapes:
            tape.end("deadline")


def _http(receive_bytes: int | None = None) -> aiohttp.ClientSession:
    """Return an HTTP client; a small receive buffer lets a server see soon that nobody reads."""

    def open_socket(address: Any) -> socket.socket:
        family, kind, proto, *_ = address
        made = socket.socket(family, kind, proto)
        if receive_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        return made

    connector = aiohttp.TCPConnector(limit=0, socket_factory=open_socket, force_close=True)
    bound = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
    return aiohttp.ClientSession(connector=connector, timeout=bound)


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def main() -> None:
    """Run the plan that the command line names."""
    plan, folder = read_plan(Path(sys.argv[1])), Path(sys.argv[2])
    asyncio.run(record(plan, folder, _say_ready))


if __name__ == "__main__":
    main()

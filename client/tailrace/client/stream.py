"""A stream of one channel: the sockets around a `Follower`."""

import asyncio
import random
from asyncio import sleep
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self

import aiohttp
import structlog
from yarl import URL

from tailrace.client.backoff import Backoff
from tailrace.client.errors import DialectError, EdgeUnreachableError
from tailrace.client.follower import Batch, Counters, Ended, Event, Follower, Gap, Retry
from tailrace.client.request import Delivery, Kind, Start, Window, edge_urls, stream_request
from tailrace.schemas import ParameterError

__all__ = ["Stream"]

_log = structlog.get_logger(__name__)

_DIALECT: Final = "tailrace.v1.json"
_CONNECT_S: Final = 10.0
_SEND_S: Final = 10.0
_CLOSE_S: Final = 2.0
_MAX_MESSAGE_BYTES: Final = 64 << 20

_Socket = aiohttp.ClientWebSocketResponse[bool]
_Outcome = Batch | Gap | Retry | Ended | None


class Stream:
    """The events of a project or a run, each once and in order, whatever happens to connections.

    ::

        async with Stream("http://127.0.0.1:8400", "p1", kind="ingest", run="j1") as stream:
            async for event in stream:
                handle(event)
                store(stream.cursor)  # pass it as `after` next time

    When the block begins the edge has named the position that the stream goes on from: what is
    emitted from then on arrives. Every later loss of the connection is mended by itself: it waits
    (0.5 s, doubling to 30 s, jittered, and what the edge asks for), goes to the next URL and
    resumes after the last good cursor, so nothing comes twice and nothing is missing; what the
    log no longer holds is told to `on_gap`. Iteration ends when the edge closes normally.

    One task may iterate at a time, and one that is cancelled in a wait may iterate again. Nothing
    is read ahead: memory holds one batch, at most 64 MiB, and what aiohttp has in its buffer
    (128 KiB and the message under way); a consumer that is slow slows the edge down, which
    coalesces the more. Pings are answered while somebody iterates: who stays away for longer than
    an edge allows is disconnected, and resumes when it comes back.

    Args:
        urls: One edge or several, ``http``, ``https``, ``ws`` or ``wss``, 64 at most; any node
            resumes what another one began.
        project: Project id.
        kind: Kind of the run to follow; with `run`, or none of both for the whole project.
        run: Job id or run id.
        types: Event types and prefixes such as ``ingest.*``, 64 at most; none is all.
        delivery: ``latest`` coalesces states, ``every`` delivers each of them.
        window: How long a state may wait for a newer one, in ms.
        from_: Where to begin without a cursor: ``start`` or ``live``; by default ``start`` on a
            run and ``live`` on a project.
        after: Cursor of an earlier stream to resume after; not together with `from_`.
        token: Bearer token, or a coroutine function that gives one for each connection. A fixed
            one that expires ends the stream with RefusedError.
        on_gap: Called with each gap, in its place between the events and before the cursor moves.
            Without it a gap is logged as a warning.

    Raises:
        ParameterError: A value is refused; nothing has been connected.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        project: str,
        *,
        kind: Kind | None = None,
        run: str | None = None,
        types: Iterable[str] = (),
        delivery: Delivery = "latest",
        window: Window = 40,
        from_: Start | None = None,
        after: str | None = None,
        token: str | Callable[[], Awaitable[str]] | None = None,
        on_gap: Callable[[Gap], object] | None = None,
    ) -> None:
        self._urls = edge_urls(urls)
        self._request = stream_request(
            project,
            kind,
            run,
            types=types,
            delivery=delivery,
            window=window,
            from_=from_,
            after=after,
        )
        self._token = _checked(token) if isinstance(token, str) else token
        self._on_gap = on_gap or _warn
        self._follower = Follower(after, renewable=callable(token))
        self._backoff = Backoff(random.random)
        self._http: aiohttp.ClientSession | None = None
        self._ws: _Socket | None = None
        self._attempts = 0
        self._answered = False
        self._due = 0.0
        self._ended = False
        self._cursor = after
        self._held: Batch | None = None
        self._pending: deque[Event] = deque()

    @property
    def cursor(self) -> str | None:
        """The last good cursor, to resume after: all events up to it have been handed over.

        It moves with the last event of each batch, as that is handed over, and with empty batches
        and gaps. Store it when that event is done with.
        """
        return self._cursor

    @property
    def counters(self) -> Counters:
        """What has happened since the stream began."""
        return self._follower.counters

    async def __aenter__(self) -> Self:
        """Connect and wait for the position; `on_gap` may be called already.

        Raises:
            EdgeUnreachableError: None of the URLs answers. Whatever else is not for ever, such as
                an edge that is full, is tried again.
            RefusedError: The edge refuses the stream.
            DialectError: It does not speak ``tailrace.v1.json``.
        """
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        try:
            while not self._follower.subscribed and not self._ended:
                await self._step()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, within 2 s."""
        self._ended = True
        assert self._http is not None, "entered"
        try:
            await self._hang_up()
        finally:
            await self._http.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events; a loop that was left goes on where it stopped.

        Raises:
            RefusedError: After a reconnect the edge refuses the stream.
            DialectError: A message breaks the contract.
        """
        return self

    async def __anext__(self) -> Event:
        while not self._pending:
            await self._hold()
        event = self._pending.popleft()
        self.counters.events += 1
        if not self._pending:
            self._reach()
        return event

    def batches(self) -> AsyncIterator[Batch]:
        """Iterate over the batches as they come, empty ones too; the cursor moves with each.

        After part of a batch was taken as events, the first one holds the rest of it.
        """
        return _Batches(self._take)

    async def _take(self) -> Batch:
        if not self._pending:
            await self._hold()
        assert self._held is not None, "just taken in"
        batch = self._held._replace(events=list(self._pending))
        self._pending.clear()
        self.counters.events += len(batch.events)
        self._reach()
        return batch

    async def _hold(self) -> None:
        """Take in the next batch; called only when no event of the previous one is left."""
        while not self._ended:
            batch = await self._step()
            if batch is not None:
                self._held = batch
                self._pending.extend(batch.events)
                if not batch.events:
                    self._reach()
                return
        raise StopAsyncIteration

    def _reach(self) -> None:
        self._cursor = self._follower.cursor

    async def _step(self) -> Batch | None:
        """Connect, or receive one frame, and do what comes of it."""
        proven = self._ws is not None and self._follower.subscribed
        outcome = await (self._connect() if self._ws is None else self._receive(self._ws))
        if isinstance(outcome, Retry):
            await self._retry(outcome)
            return None
        if proven:
            self._backoff.reset()  # more than a subscription has come over this connection
        if isinstance(outcome, Batch):
            return outcome
        if isinstance(outcome, Gap):
            self._on_gap(outcome)
        self._ended = isinstance(outcome, Ended)
        self._reach()
        return None

    # --- one connection -------------------------------------------------------------------------

    async def _connect(self) -> Retry | None:
        assert self._http is not None, "used inside of `async with`"
        await sleep(max(0.0, self._due - _now()))
        edge = self._urls[self._attempts % len(self._urls)]
        self._attempts += 1
        url = URL(self._request.url(edge, self._follower.cursor), encoded=True)
        headers = await self._authorization()
        try:
            async with asyncio.timeout(_CONNECT_S):
                ws = await self._http.ws_connect(
                    url,
                    protocols=(_DIALECT,),
                    headers=headers,
                    autoping=False,
                    max_msg_size=_MAX_MESSAGE_BYTES,
                    decode_text=False,
                )
        except aiohttp.WSServerHandshakeError as exc:
            self._answered = True
            retry_after = exc.headers.get("Retry-After") if exc.headers else None
            return self._follower.refused(exc.status, exc.message, retry_after)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            return self._unanswered(str(exc) or "no answer in time")
        self._ws = ws
        self._answered = True
        self._follower.connecting(_now())
        return None

    def _unanswered(self, detail: str) -> Retry:
        """Go on to the next URL.

        Raises:
            EdgeUnreachableError: The stream has yet to begin and this was the last one.
        """
        if not self._answered and self._attempts >= len(self._urls):
            raise EdgeUnreachableError(self._urls, detail)
        return self._follower.lost(f"not reached: {detail}")

    async def _authorization(self) -> dict[str, str]:
        if self._token is None:
            return {}
        token = self._token if isinstance(self._token, str) else _checked(await self._token())
        return {"Authorization": f"Bearer {token}"}

    async def _receive(self, ws: _Socket) -> _Outcome:
        """Take one frame; a peer that is silent for too long is asked, then given up."""
        follower = self._follower
        try:
            # A timeout of 0 would mean none; a frame that is there already comes in any case.
            message = await ws.receive(max(follower.patience(_now()), 0.001))
        except TimeoutError:
            ping = follower.silent(_now())
            return ping if isinstance(ping, Retry) else await self._send(ws.send_str(ping.decode()))
        match message.type:
            case aiohttp.WSMsgType.TEXT if ws.protocol != _DIALECT:
                raise DialectError("it did not choose that subprotocol")
            case aiohttp.WSMsgType.TEXT:
                return follower.message(message.data, _now())
            case aiohttp.WSMsgType.CLOSE:
                return follower.closed(message.data or 0, message.extra or "")
            case aiohttp.WSMsgType.PING:
                follower.heard(_now())
                return await self._send(ws.pong(message.data))
            case aiohttp.WSMsgType.PONG:
                follower.heard(_now())
                return None
            case aiohttp.WSMsgType.BINARY:
                raise DialectError("a message is binary")
            case aiohttp.WSMsgType.ERROR if isinstance(message.data, aiohttp.WebSocketError):
                raise DialectError(str(message.data))  # no WebSocket frame, or one above the bound
            case _:
                return follower.lost("the connection was lost")

    async def _send(self, sending: Awaitable[None]) -> Retry | None:
        try:
            async with asyncio.timeout(_SEND_S):
                await sending
        except (aiohttp.ClientError, OSError, TimeoutError):
            return self._follower.lost("the connection was lost")
        return None

    async def _retry(self, retry: Retry) -> None:
        delay = self._backoff.next(retry.asked)
        self._due = _now() + delay
        _log.info("reconnecting", reason=retry.reason, delay_seconds=round(delay, 3))
        await self._hang_up()

    async def _hang_up(self) -> None:
        ws, self._ws = self._ws, None
        if ws is None:
            return
        try:
            # aiohttp bounds each wait of a close, not the whole: a peer may go on sending.
            async with asyncio.timeout(_CLOSE_S):
                await ws.close()
        except TimeoutError:
            pass


class _Batches:
    """Not a generator: one that is cancelled in a wait would be at its end."""

    def __init__(self, take: Callable[[], Awaitable[Batch]]) -> None:
        self._take = take

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        return await self._take()


def _checked(token: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ParameterError("token", "not a bearer token")
    return token


def _now() -> float:
    return asyncio.get_running_loop().time()


def _warn(gap: Gap) -> None:
    _log.warning("gap", reason=gap.reason, prev=gap.prev, cursor=gap.cursor)

"""What the tests of the edge share: events, records, a served node, viewers, a producer."""

import asyncio
import base64
import gc
import itertools
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import IO, Any, NamedTuple, Self
from unittest import mock
from urllib.parse import quote

import aiohttp
import orjson
from aiokafka import AIOKafkaProducer
from memory_topic import MemoryConsumer, MemoryTopic, StubRecord
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from tailrace.edge import node as node_module
from tailrace.edge.app import serving
from tailrace.edge.node import Node
from tailrace.edge.settings import EdgeSettings
from tailrace.schemas import (
    EVENT_TYPES,
    KINDS,
    Event,
    body_member,
    encode,
    headers_of,
    parse_cursor,
)

WAIT_SECONDS = 20.0
"""Bound of every wait; a test that reaches it has failed."""

MOMENT = 1_700_000_000_000_000
MOMENT_TEXT = "2023-11-14T22:13:20.000000+00:00"

_NUMBERS = itertools.count(1)

Headers = list[tuple[str, bytes]]
Metrics = dict[str, float]
"""``name``, or ``name{label=value}``, -> value."""


def make_event(
    project: str = "p1",
    type: str = "ingest.job.updated",  # noqa: A002
    run: str | None = "j1",
    *,
    n: int = 1,
    data: str | None = None,
    error: str | None = None,
) -> Event:
    """Return an event whose kind follows from its type; `n` tells it from its neighbours.

    Each has an id of its own: none is a retry of another.
    """
    family = type.partition(".")[0]
    member = body_member(type) or "body"
    return Event(
        event_id=f"018bcfe5-6800-7000-8000-{next(_NUMBERS):012d}",
        type=type,
        occurred_at=MOMENT,
        project_id=project,
        kind=family if family in KINDS else "custom",
        run_id=run,
        entity_id=run,
        source="test",
        seq=n,
        status="running",
        stage=None,
        progress=None,
        error_message=error,
        data=data if data is not None else f'{{"{member}":{{"id":"{run}","n":{n}}}}}',
    )


def one_of_each_type(project: str) -> list[Event]:
    """Return an event of each type that Tailrace defines, all of one run id."""
    return [make_event(project, name, "r1", n=n) for n, name in enumerate(EVENT_TYPES, 1)]


def record_of(event: Event, offset: int = 0, *, headers: bool = True) -> StubRecord:
    """Return the record that a producer writes for an event; its timestamp is 1000 + offset."""
    return StubRecord(
        offset,
        1000 + offset,
        event.project_id.encode(),
        encode(event),
        headers_of(event) if headers else [],
    )


class Closed(NamedTuple):
    """How a viewer's connection ended."""

    code: int | None
    reason: str | None


class Viewer:
    """A viewer that follows a channel in the plain dialect."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def text(self) -> str:
        """Return the next message as it came."""
        async with asyncio.timeout(WAIT_SECONDS):
            message = await self.ws.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        return str(message.data)

    async def texts(self, count: int) -> list[str]:
        return [await self.text() for _ in range(count)]

    async def event(self) -> dict[str, Any]:
        """Return the next event JSON, its cursor taken off and checked."""
        members = orjson.loads(await self.text())
        parse_cursor(members.pop("cursor"))
        return dict(members)

    async def events(self, count: int) -> list[dict[str, Any]]:
        return [await self.event() for _ in range(count)]

    async def closed(self) -> Closed:
        """Read to the end, whatever comes before it, and return how it was closed."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                message = await self.ws.receive()
                if message.type is aiohttp.WSMsgType.CLOSE:
                    return Closed(message.data, message.extra)
                if message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}:
                    return Closed(self.ws.close_code, None)


def numbers(events: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return the `n` of each event JSON's body."""
    return [body["n"] for event in events for body in event.values() if isinstance(body, dict)]


def channel_url(project: str, kind: str | None = None, run: str = "") -> str:
    """Return the path of a channel, its ids percent-encoded."""
    path = f"/api/stream/projects/{quote(project, safe='')}"
    middle = {"ingest": "ingest", "agent": "agent-runs", "workflow": "workflows/runs"}
    return path if kind is None else f"{path}/{middle[kind]}/{quote(run, safe='')}"


class Client:
    """An HTTP client of one edge.

    Args:
        http: Open for as long as this is used.
        url: Of the edge, without a path.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url
        self.port = int(url.rpartition(":")[2])

    @asynccontextmanager
    async def watch(
        self, path: str, *, protocols: Sequence[str] = (), origin: str | None = None
    ) -> AsyncIterator[Viewer]:
        """Follow a channel for as long as the block runs."""
        async with self.http.ws_connect(
            self._whole(path), protocols=protocols, origin=origin
        ) as ws:
            yield Viewer(ws)

    async def get(self, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of a GET."""
        async with self.http.get(self._whole(path), headers=headers) as response:
            return response.status, response.headers, await response.read()

    async def status(self, path: str) -> int | None:
        """Return the status of a GET; None when nothing listens."""
        try:
            return (await self.get(path))[0]
        except aiohttp.ClientConnectionError:
            return None

    async def metrics(self) -> Metrics:
        _, _, body = await self.get("/metrics")
        return parse_metrics(body)

    async def ready(self) -> None:
        """Wait until the node is ready."""

        async def is_ready() -> bool:
            return await self.status("/readyz") == 200

        await until(is_ready)

    async def connections(self, count: int) -> None:
        """Wait until the node counts this many open connections."""

        async def counted() -> bool:
            return (await self.metrics()).get(WEBSOCKETS, 0) == count

        await until(counted)

    def _whole(self, path: str) -> URL:
        return URL(self.url + path, encoded=True)  # ids stay encoded as they are


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    """Give an HTTP client of the edge at `url`."""
    connector = aiohttp.TCPConnector(limit=0)
    bound = aiohttp.ClientTimeout(total=WAIT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=bound) as http:
        yield Client(http, url)


class Edge(Client):
    """A node served in this process, and a client of it."""

    def __init__(self, http: aiohttp.ClientSession, url: str, node: Node) -> None:
        super().__init__(http, url)
        self.node = node

    @property
    def sockets(self) -> int:
        """How many connections the server of this process holds, those of this client included."""
        return sum(_accepted(found, self.port) for found in gc.get_objects())


def _accepted(found: object, port: int) -> bool:
    """Tell whether an object is an open socket that was accepted on a port."""
    return (
        isinstance(found, socket.socket)
        and found.fileno() >= 0
        and found.family is socket.AF_INET
        and found.getsockname()[1] == port
        and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )


@asynccontextmanager
async def serve_node(settings: EdgeSettings) -> AsyncIterator[Edge]:
    """Serve a node of these settings on a free port for as long as the block runs."""
    node = Node(settings)
    async with serving(node) as url, asyncio.TaskGroup() as tasks, client_of(url) as client:
        running = tasks.create_task(node.run())
        try:
            yield Edge(client.http, client.url, node)
        finally:
            await node.drain()
            running.cancel()


class MemoryEdge(Edge):
    """An edge whose records come from a `MemoryConsumer`."""

    def __init__(self, edge: Edge, consumer: MemoryConsumer) -> None:
        super().__init__(edge.http, edge.url, edge.node)
        self.consumer = consumer


@asynccontextmanager
async def memory_edge(**settings: Any) -> AsyncIterator[MemoryEdge]:
    """Serve a node without Kafka: its records are what the test puts into the one partition."""
    consumer = MemoryConsumer(MemoryTopic(partitions=1))
    settings = {"drain_seconds": 0, **settings}
    with mock.patch.object(node_module, "Consumer", return_value=consumer):
        async with serve_node(EdgeSettings(port=0, **settings)) as edge:
            await edge.ready()
            yield MemoryEdge(edge, consumer)


@asynccontextmanager
async def kafka_edge(servers: str, topic: str, **settings: Any) -> AsyncIterator[Edge]:
    """Serve a node on a real topic; ready when the block begins."""
    settings = {"drain_seconds": 0, **settings}
    told = EdgeSettings(bootstrap_servers=servers, topic=topic, port=0, **settings)
    async with serve_node(told) as edge:
        await edge.ready()
        yield edge


_RUN = """
from tailrace.edge.app import run
from tailrace.edge.settings import EdgeSettings
run(EdgeSettings())
"""


class EdgeProcess:
    """An edge in a process of its own, as in production; it can be ended and started again."""

    def __init__(
        self,
        servers: str,
        topic: str,
        port: int,
        *,
        program: Sequence[str] = ("-c", _RUN),
        stderr: IO[bytes] | None = None,
        **settings: object,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.starts = 0
        """How often it was started so far."""
        self._program = program
        self._stderr = stderr
        self._environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": servers,
            "TAILRACE_TOPIC": topic,
            "TAILRACE_PORT": str(port),
            "TAILRACE_DRAIN_SECONDS": "0",
            **{f"TAILRACE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def start(self) -> None:
        """Start it; it may not listen yet."""
        self.starts += 1
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._program),
            env=self._environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=self._stderr,
        )

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal, wait until the process has ended and return its exit code."""
        self.send(number)
        process, self._process = self._process, None
        assert process is not None, "started"
        async with asyncio.timeout(WAIT_SECONDS):
            return await process.wait()


class RawViewer:
    """A viewer on a bare socket, for what a well-behaved client cannot do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, client: Client, path: str | bytes, *headers: str) -> Self:
        """Send a WebSocket handshake and read nothing; the caller must `lose` it."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # fills up soon
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", client.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        raw_path = path.encode() if isinstance(path, str) else path
        lines = (f"Host: 127.0.0.1:{client.port}", *_UPGRADE, *headers, "", "")
        writer.write(b"GET " + raw_path + b" HTTP/1.1\r\n" + "\r\n".join(lines).encode())
        return cls(reader, writer)

    async def head(self) -> bytes:
        """Read the answer's status line and headers."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def read(self, size: int) -> bytes:
        """Return the next bytes."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.reader.readexactly(size)

    def send(self, opcode: int, payload: bytes = b"") -> None:
        """Send one short frame, masked with zeros."""
        self.writer.write(bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload)

    def lose(self) -> None:
        """Vanish without a word, with a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def raw(client: Client, path: str | bytes, *headers: str) -> AsyncIterator[RawViewer]:
    """Give a `RawViewer`, which vanishes at the end of the block."""
    viewer = await RawViewer.connect(client, path, *headers)
    try:
        yield viewer
    finally:
        viewer.lose()


_UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
)


class Producer:
    """Writes records with a plain Kafka client, in the order of the calls."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def send(self, *events: Event, headers: bool = True) -> None:
        """Write events and wait until the last one is acknowledged."""
        sent = [
            await self._producer.send(
                self._topic,
                encode(event),
                key=event.project_id.encode(),
                headers=headers_of(event) if headers else [],
            )
            for event in events
        ]
        await asyncio.gather(*sent)

    async def send_raw(
        self, key: bytes | None, value: bytes | None, *, headers: Headers | None = None
    ) -> tuple[int, int]:
        """Write one record as it is and return its partition and offset."""
        partition = 0 if key is None else None
        sent = await self._producer.send_and_wait(
            self._topic, value, key=key, headers=headers or [], partition=partition
        )
        return int(sent.partition), int(sent.offset)


@asynccontextmanager
async def producing(servers: str, topic: str) -> AsyncIterator[Producer]:
    """Give a producer to the topic: idempotent, all replicas."""
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, enable_idempotence=True, max_request_size=1 << 21
    )
    await producer.start()
    try:
        yield Producer(producer, topic)
    finally:
        await producer.stop()


def parse_metrics(body: bytes) -> Metrics:
    """Return every sample of a Prometheus text."""
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sample.labels.items()): (
            sample.value
        )
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


WEBSOCKETS = "tailrace_connections{transport=websocket}"


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = WAIT_SECONDS) -> None:
    """Ask again and again until `condition` holds, for `seconds` at most."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 -- seen only from outside
            await asyncio.sleep(0.01)


@asynccontextmanager
async def many(client: Client, path: str, count: int, **how: Any) -> AsyncIterator[list[Viewer]]:
    """Follow one channel with `count` viewers at once."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client.watch(path, **how)) for _ in range(count)]

"""The servers under test, ours and its peers: how each is started and where its viewers connect."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from bench.compile import compiled
from bench.plan import project_name
from bench.processes import place, server_core
from tailrace.cli.ports import free_ports

__all__ = ["SERVERS", "Running", "Server", "Source", "serving"]

_HERE = Path(__file__).parent
_PEERS = _HERE / "peers"
_READY_SECONDS = 30.0
_GRACE_SECONDS = 10.0


class Source(NamedTuple):
    """Where a server gets its events: a topic in Kafka, or a feed of its own."""

    servers: str | None = None
    topic: str | None = None


class Server(NamedTuple):
    """A program that pushes events to viewers."""

    name: str
    command: Sequence[str]
    dialect: str = "plain"
    ours: bool = False
    spread: bool = False
    """Whether it may use every core, beside all else."""

    def url(self, port: int, project: int) -> str:
        """Return where viewers of a project connect."""
        if self.ours:
            path = f"api/stream/projects/{project_name(project)}?from=live"
        elif self.dialect == "sio":
            path = f"socket.io/?EIO=4&transport=websocket&project={project}"
        else:
            path = str(project)
        return f"ws://127.0.0.1:{port}/{path}"


_EDGE = ("bench.edge",)
SERVERS = {
    server.name: server
    for server in (
        Server("tailrace", _EDGE, "v1", ours=True),
        Server("tailrace-plain", _EDGE, ours=True),
        Server("floor", ("floor.c",)),
        Server("node-ws", ("ws_server.js",)),
        Server("websockets", ("bench.peers.websockets_server",)),
        Server("aiohttp-loop", ("bench.peers.aiohttp_server", "loop")),
        Server("aiohttp-gather", ("bench.peers.aiohttp_server", "gather")),
        Server("socketio", ("bench.peers.socketio_server",), "sio"),
    )
}
"""By name: our edge in both dialects, and what it is compared with (see README.md)."""


class Running(NamedTuple):
    """A server that answers."""

    server: Server
    process: asyncio.subprocess.Process
    log: Path
    port: int
    feed_port: int
    """Where it listens for a feed; 0 when it reads Kafka."""

    @property
    def pid(self) -> int:
        """Of the server."""
        return self.process.pid

    def require_alive(self) -> None:
        """Check that the server still runs.

        Raises:
            SystemExit: It does not; its last words are told.
        """
        if self.process.returncode is not None:
            raise SystemExit(f"{self.server.name} died: {self.log.read_text()[-2000:]}")

    def metrics(self) -> dict[str, float]:
        """Return what our edge counts, by name and labels; nothing for a peer."""
        if not self.server.ours:
            return {}
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}


@asynccontextmanager
async def serving(
    server: Server, source: Source, *, log: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Run a server on its own core for as long as the block runs.

    Args:
        server: Which.
        source: Where it gets its events.
        log: Takes its output.
        settings: Environment of our edge.

    Raises:
        SystemExit: It did not start; its log is named.
    """
    port, feed_port = free_ports(2)
    kafka = source.topic is not None
    where = ["--kafka", source.servers, "--topic", source.topic] if kafka else ["--feed", feed_port]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *_program(server),
            *map(str, ["--port", port, *where]),
            env={**os.environ, **(settings or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=place(None if server.spread else server_core()),
        )
    try:
        await _answers(process, server, port, log)
        yield Running(server, process, log, port, 0 if kafka else feed_port)
    finally:
        await _end(process)


def _program(server: Server) -> list[str]:
    module, *arguments = server.command
    if module.endswith(".c"):
        return [str(compiled(_PEERS / module)), *arguments]
    if module.endswith(".js"):
        return [_node(), str(_PEERS / module), *arguments]
    return [sys.executable, "-m", module, *arguments]


def _node() -> str:
    """Return node, with the packages of its peer installed as they are locked."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise SystemExit("node or npm is not on PATH: install them, or leave it out with --only")
    if not (_PEERS / "node_modules").exists():
        subprocess.run([npm, "ci", "--silent"], cwd=_PEERS, check=True)
    return node


async def _answers(
    process: asyncio.subprocess.Process, server: Server, port: int, log: Path
) -> None:
    """Wait until it is ready: a peer listens only when it has its source."""
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while process.returncode is None:
                with suppress(OSError):
                    if await asyncio.to_thread(_ready, server, port):
                        return
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    raise SystemExit(f"{server.name} did not start: see {log}\n{log.read_text()[-2000:]}")


def _ready(server: Server, port: int) -> bool:
    if not server.ours:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:  # 503 is an OSError
        return bool(answer.status == HTTPStatus.OK)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_GRACE_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

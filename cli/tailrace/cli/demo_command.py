"""``tailrace demo``: Kafka, an edge and the services, working on real documents, with a page."""

import argparse
import asyncio
import secrets
import signal
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp

from tailrace.cli.broker import broker
from tailrace.cli.children import child, ready
from tailrace.cli.demo_run import Runs, documents, drive
from tailrace.cli.demo_watch import Outcome, Watcher, summary
from tailrace.cli.errors import DemoError
from tailrace.cli.ports import free_ports, is_free
from tailrace.cli.topics import Target, create_topic
from tailrace.producers.settings import state_folder

__all__ = ["add_arguments", "run"]

_HOST: Final = "127.0.0.1"
_PORT: Final = 8400
_TOPIC: Final = "tailrace.demo"
_JOBS_AT_ONCE: Final = 3
_CHUNK_PACE_MS: Final = 150
_NODE_PACE_MS: Final = 500
_LONGEST_S: Final = 1e6


class _Place(NamedTuple):
    """Where the parts of a demo are."""

    edge: str
    services: str
    project: str

    @property
    def page(self) -> str:
        return f"{self.edge}/?project={self.project}"

    @property
    def stream(self) -> str:
        return f"{self.edge}/api/stream/projects/{self.project}?delivery=every"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how long, and with which documents."""
    parser.add_argument("--seconds", type=_seconds, help="end by itself (default: at Ctrl-C)")
    parser.add_argument("--path", default=".", help="folder of documents to ingest (this one)")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {_LONGEST_S:g}")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Run the demo until `args.seconds` have passed or Ctrl-C; 1 if an event was lost.

    Raises:
        TailraceError: A part is missing or did not start.
    """
    root = Path(args.path).resolve()
    files = documents(root)
    print(f"Starting Kafka, an edge and the services for {len(files)} documents of {root} ...")
    with broker(state_folder() / "demo-kafka") as servers:
        outcome = asyncio.run(_demo(servers, root, files, args.seconds))
    print(summary(outcome))
    return 1 if outcome.lost else 0


async def _demo(servers: str, root: Path, files: list[Path], seconds: float | None) -> Outcome:
    await create_topic(Target(servers, _TOPIC))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-demo-")))
        place = await _start(stack, servers, root, folder)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        socket = await stack.enter_async_context(http.ws_connect(place.stream, max_msg_size=0))
        watcher = Watcher(socket)
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        print(f"\n    {place.page}\n", flush=True)
        print("Ctrl-C ends it." if seconds is None else f"It ends after {seconds:g} s.", flush=True)
        return await _watched(http, place, watcher, files, seconds, stop)


async def _start(stack: AsyncExitStack, servers: str, root: Path, folder: Path) -> _Place:
    edge_port, services_port = free_ports(2)
    if is_free(_PORT):
        edge_port = _PORT
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": servers,
        "TAILRACE_TOPIC": _TOPIC,
        "TAILRACE_INGEST_ROOT": str(root),
        "TAILRACE_INGEST_WORKERS": str(_JOBS_AT_ONCE),
        "TAILRACE_INGEST_PACE_MS": str(_CHUNK_PACE_MS),
        "TAILRACE_GRAPH_PACE_MS": str(_NODE_PACE_MS),
        "TAILRACE_DATA_DIR": str(folder),
        "TAILRACE_SPOOL_DIR": str(folder / "spool"),
    }
    place = _Place(
        f"http://{_HOST}:{edge_port}",
        f"http://{_HOST}:{services_port}",
        f"demo-{secrets.token_hex(3)}",
    )
    for name, port, url in (
        ("edge", edge_port, f"{place.edge}/readyz"),
        ("services", services_port, f"{place.services}/healthz"),
    ):
        log = folder / f"{name}.log"
        process = child([name, "--port", str(port)], env=env, log=log)
        await ready(await stack.enter_async_context(process), url, log)
    return place


async def _watched(
    http: aiohttp.ClientSession,
    place: _Place,
    watcher: Watcher,
    files: list[Path],
    seconds: float | None,
    stop: asyncio.Event,
) -> Outcome:
    """Keep it going until it is time to stop, then compare what was emitted and delivered."""
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, stop.set)
    watching = asyncio.create_task(watcher.run())
    runs = Runs(http, place.services, place.project, watcher, stop)
    driving = asyncio.create_task(drive(runs, files))
    done, _ = await asyncio.wait({watching, driving}, return_when=asyncio.FIRST_COMPLETED)
    if watching in done:
        driving.cancel()
        await watching
    await driving
    emitted = await _emitted(http, f"{place.services}/metrics")
    await watcher.until_delivered(emitted)
    watching.cancel()
    return Outcome(emitted, watcher.delivered, watcher.latencies_ms, watcher.ends)


async def _emitted(http: aiohttp.ClientSession, url: str) -> int:
    async with http.get(url) as response:
        for line in (await response.text()).splitlines():
            name, _, value = line.partition(" ")
            if name == "tailrace_emitted_total":
                return int(float(value))
    raise DemoError(f"{url} does not tell how many events were emitted")

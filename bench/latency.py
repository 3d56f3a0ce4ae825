"""Emit to client: how long an event takes from `emit_…()` in a service to a viewer's socket.

The whole road is real: a service process with the emitter, Kafka, an edge process, viewers over
WebSocket. Open loop: event n is due at start + n / rate, whatever became of those before it, and
its latency counts from that moment. Every viewer must see every event exactly once and in order;
otherwise the run fails.

    python bench/latency.py [--rate 200] [--viewers 200] [--seconds 20] [--json FILE]
"""

import argparse
import asyncio
import base64
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Final, cast

import uvloop
from hdrh.histogram import HdrHistogram

from tailrace.cli.broker import broker
from tailrace.cli.children import child, ready
from tailrace.cli.ports import free_ports
from tailrace.cli.topics import Target, create_topic
from tailrace.producers import ProducerSettings
from tailrace.producers.emitter import Emitter
from tailrace.schemas import AgentMessage

PROJECT: Final = "bench"
SETTLE_S: Final = 30.0
TEXT: Final = 0x81  # RFC 6455 §5.2: final, text
SIZE_FOLLOWS: Final = 126
LONGEST_HEAD: Final = 4


def main() -> int:
    """Run the bench, or the part of it that the bench starts as a process."""
    args = _arguments()
    if args.emit:
        return emit(args)
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder) / "kafka") as servers:
        report = uvloop.run(measure(servers, Path(folder), args))
    print(text_of(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["lost"] == report["out_of_order"] == 0 else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=200, help="events per second")
    parser.add_argument("--viewers", type=int, default=200, help="all of the same project")
    parser.add_argument("--seconds", type=float, default=20, help="measured, after the warm-up")
    parser.add_argument("--warm-up", type=float, default=3, help="seconds that do not count")
    parser.add_argument("--json", help="also write the report here")
    parser.add_argument("--emit", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def emit(args: argparse.Namespace) -> int:
    """Be the service: emit each event when it is due; each says when that was."""
    emitter = Emitter(ProducerSettings(source="bench"))
    total = int(args.rate * (args.warm_up + args.seconds))
    for number in range(total):
        due = args.start + number / args.rate
        time.sleep(max(0.0, due - time.time()))
        message = AgentMessage(id=str(number), run_id="r", role="user", content=f"due={due:.6f}")
        emitter.emit("agent", PROJECT, "agent.message.appended", message)
    return 0 if emitter.close(timeout=SETTLE_S) else 1


class Viewer(asyncio.Protocol):
    """The lightest viewer there is, so that the measuring process is not what is measured."""

    def __init__(self, path: str, seen: Callable[[int, float], None]) -> None:
        self._path = path
        self._seen = seen
        self._buffer = b""
        self.open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        key = base64.b64encode(os.urandom(16)).decode()
        cast("asyncio.WriteTransport", transport).write(
            f"GET {self._path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Time every event in what has come."""
        self._buffer += data
        if not self.open.done():
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._buffer = rest
            self.open.set_result(None)
        now = time.time()
        while (payload := self._text()) is not None:
            number = int(payload.partition(b'"id":"')[2].partition(b'"')[0])
            due = float(payload.partition(b"due=")[2].partition(b'"')[0])
            self._seen(number, now - due)

    def _text(self) -> bytes | None:
        """Take one whole text frame off the buffer; a close frame ends the stream."""
        buffer = self._buffer
        if len(buffer) < LONGEST_HEAD or buffer[0] != TEXT:
            return None
        size, start = buffer[1], 2
        if size == SIZE_FOLLOWS:
            size, start = int.from_bytes(buffer[2:4], "big"), 4
        if len(buffer) < start + size:
            return None
        self._buffer = buffer[start + size :]
        return buffer[start : start + size]


class Record:
    """What all viewers saw."""

    def __init__(self, viewers: int, total: int, first: int) -> None:
        self.histogram = HdrHistogram(1, 60_000_000, 3)
        self.out_of_order = 0
        self.delivered = 0
        self.complete = asyncio.Event()
        self._first = first
        self._expected = viewers * total

    def viewer(self) -> Callable[[int, float], None]:
        """Return what one viewer calls for each event: its number, and seconds since it was due."""
        following = 0

        def seen(number: int, seconds: float) -> None:
            nonlocal following
            self.out_of_order += number != following
            following = number + 1
            self.delivered += 1
            if number >= self._first:
                self.histogram.record_value(max(1, int(seconds * 1e6)))
            if self.delivered == self._expected:
                self.complete.set()

        return seen

    @property
    def lost(self) -> int:
        """Deliveries that did not come."""
        return self._expected - self.delivered


async def measure(servers: str, folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Run everything once and report."""
    env = {"KAFKA_BOOTSTRAP_SERVERS": servers, "TAILRACE_TOPIC": "tailrace.bench"}
    await create_topic(Target(servers, env["TAILRACE_TOPIC"]))
    [port] = free_ports(1)
    log = folder / "edge.log"
    total = int(args.rate * (args.warm_up + args.seconds))
    record = Record(args.viewers, total, int(args.rate * args.warm_up))
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(
            child(["edge", "--port", str(port)], env=env, log=log)
        )
        await ready(edge, f"http://127.0.0.1:{port}/readyz", log)
        await _connect(port, args.viewers, record)
        code = await _emit(args, env)
        try:
            async with asyncio.timeout(SETTLE_S):
                await record.complete.wait()
        except TimeoutError:
            pass  # the report says what did not come
    if code:
        raise SystemExit("the emitting process could not send everything")
    return _report(args, record)


async def _connect(port: int, viewers: int, record: Record) -> None:
    loop = asyncio.get_running_loop()
    path = f"/api/stream/projects/{PROJECT}/agent-runs/r?from=live"
    for _ in range(viewers):
        _, viewer = await loop.create_connection(
            lambda: Viewer(path, record.viewer()), "127.0.0.1", port
        )
        await viewer.open


async def _emit(args: argparse.Namespace, env: dict[str, str]) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--emit",
        *("--rate", str(args.rate), "--seconds", str(args.seconds)),
        *("--warm-up", str(args.warm_up), "--start", str(time.time() + 2)),
        env={**os.environ, **env},
    )
    return await process.wait()


def _report(args: argparse.Namespace, record: Record) -> dict[str, object]:
    at = record.histogram.get_value_at_percentile
    return {
        "command": f"bench/latency.py --rate {args.rate:g} --viewers {args.viewers} "
        f"--seconds {args.seconds:g}",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("tailrace", "aiokafka", "aiohttp", "uvloop")},
        },
        "deliveries": record.delivered,
        "lost": record.lost,
        "out_of_order": record.out_of_order,
        "ms": {
            name: at(percentile) / 1000
            for name, percentile in (("p50", 50), ("p99", 99), ("p99.9", 99.9), ("max", 100))
        },
    }


def text_of(report: dict[str, object]) -> str:
    """Return the report as lines for people."""
    latencies = report["ms"]
    assert isinstance(latencies, dict), "made above"
    figures = " · ".join(f"{name} {value:.1f} ms" for name, value in latencies.items())
    return (
        f"{report['command']} on {report['machine']}, {report['versions']}\n"
        f"{report['deliveries']} deliveries, {report['lost']} lost, "
        f"{report['out_of_order']} out of order\n{figures}"
    )


if __name__ == "__main__":
    sys.exit(main())

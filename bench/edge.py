"""Our edge as a server under test: the product's own node, from Kafka or from a feed.

    python -m bench.edge --port PORT (--kafka SERVERS --topic TOPIC | --feed PORT) [--stalls FILE]

From Kafka this is ``tailrace edge``. With a feed, only what reads the log is another: the
records come down a socket (see emitter.py) instead of from a broker, for runs that compare fan-out
alone. ``--stalls`` writes the longest times in which the loop did not turn.
"""

import argparse
import asyncio
import json
import marshal
import signal
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from unittest import mock

import uvloop

from tailrace.edge import app, node
from tailrace.edge.consumer import Lag, Topic
from tailrace.edge.garbage import take_over
from tailrace.edge.settings import EdgeSettings

_FRAME = struct.Struct(">II")
_MOST_RECORDS = 500
_TICK_SECONDS = 0.001


class _Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class FeedConsumer:
    """Stands for the edge's consumer: one partition, which a socket fills and nothing keeps.

    Args:
        port: Where it listens for its feed.
    """

    topic = Topic(1, 1)
    starts: Mapping[int, tuple[int, int]] = {0: (-1, -1)}
    targets: Mapping[int, int] = {0: 0}
    partitions = 1
    warm = True

    def __init__(self, port: int) -> None:
        self._port = port
        self._records: list[_Record] = []
        self._offset = 0
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._fill, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _fill(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readexactly(_FRAME.size):
                size, _ = _FRAME.unpack(head)
                key, value, headers = marshal.loads(await reader.readexactly(size))  # noqa: S302
                stamp = int(time.time() * 1000)
                self._records.append(_Record(self._offset, stamp, key, value, headers))
                self._offset += 1
                self._arrived.set()
        except asyncio.IncompleteReadError:
            writer.close()

    async def poll(self, timeout: float) -> Mapping[int, Sequence[_Record]]:  # noqa: ASYNC109
        """Return what has come, as the consumer does."""
        try:
            async with asyncio.timeout(timeout):
                await self._arrived.wait()
        except TimeoutError:
            return {}
        records, self._records = self._records[:_MOST_RECORDS], self._records[_MOST_RECORDS:]
        if not self._records:
            self._arrived.clear()
        return {0: records}

    async def lags(self, now: float) -> dict[int, Lag]:
        """Return that nothing lags; `now` is seconds since the epoch."""
        return {0: Lag(0, now * 0)}

    async def earliest(self, partition: int) -> int:
        """Return the first offset; `partition` is the only one."""
        return partition

    async def end(self, partition: int) -> int:
        """Return the next offset; `partition` is the only one."""
        return self._offset + partition


async def _watch(stalls: Path) -> None:
    """Write how late a timer of 1 ms fires, and the CPU used meanwhile: the worst of each second.

    In milliseconds. What is late without CPU is the machine's doing.
    """
    loop = asyncio.get_running_loop()
    worst: list[tuple[float, float]] = []
    while True:
        late = busy = 0.0
        until = loop.time() + 1
        while loop.time() < until:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(_TICK_SECONDS)
            late = max(late, time.perf_counter() - wall - _TICK_SECONDS)
            busy = max(busy, time.thread_time() - cpu)
        worst.append((round(late * 1000, 3), round(busy * 1000, 3)))
        stalls.write_text(json.dumps(worst))


@asynccontextmanager
async def _watching(stalls: Path | None) -> AsyncIterator[None]:
    if stalls is None:
        yield
        return
    task = asyncio.create_task(_watch(stalls))
    try:
        yield
    finally:
        task.cancel()


def main() -> None:
    """Be the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--kafka")
    parser.add_argument("--topic")
    parser.add_argument("--feed", type=int)
    parser.add_argument("--stalls", type=Path)
    args = parser.parse_args()
    told: dict[str, Any] = {"port": args.port, "drain_seconds": 0}
    if args.kafka:
        told |= {"bootstrap_servers": args.kafka, "topic": args.topic}
    if args.kafka and not args.stalls:
        app.run(EdgeSettings(**told))
    elif args.kafka:
        uvloop.run(_run(EdgeSettings(**told), args.stalls))
    else:
        consumer = mock.patch.object(node, "Consumer", return_value=FeedConsumer(args.feed))
        with consumer:
            uvloop.run(_run(EdgeSettings(**told), args.stalls))


async def _run(settings: EdgeSettings, stalls: Path | None) -> None:
    take_over()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with _watching(stalls):
        await app.serve(settings, stop)


if __name__ == "__main__":
    main()

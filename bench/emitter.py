"""The emitting process: sends each event of a plan when it is due, to Kafka or down a socket.

    python -m bench.emitter PLAN --kafka SERVERS --topic TOPIC [--service]
    python -m bench.emitter PLAN --feed PORT [--records]

It says ``ready``, is told the start (microseconds since the epoch) on stdin, and reports in JSON
how late it was. Kafka is written to with aiokafka itself: what is measured begins at the log. With
``--service`` the events are emitted as a service does it. A feed is a TCP connection to the server:
for each event four bytes of length, four of the project's number, then the event JSON, or
(``--records``) what Kafka would hold.
"""

import argparse
import asyncio
import gc
import itertools
import json
import marshal
import struct
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2
from hdrh.histogram import HdrHistogram

from bench.plan import Plan
from tailrace.producers import ProducerSettings
from tailrace.producers.emitter import Emitter
from tailrace.schemas import AgentMessage, Event, encode, event_json, headers_of

_FRAME = struct.Struct(">II")
_AHEAD = 300_000
"""Events that are made ready before the first one is due, so that only sending is left: some
hundred megabytes. Those after them are made ready on the way."""
_T = TypeVar("_T")


class Sink(Protocol[_T]):
    """Where events go."""

    def prepare(self, event: Event) -> _T:
        """Return what is to be sent of an event."""

    async def send(self, prepared: _T) -> None:
        """Send it."""


class KafkaSink:
    """Writes each event to its partition."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partitions: int) -> None:
        self._producer = producer
        self._topic = topic
        self._count = partitions
        self._partitions: dict[bytes, int] = {}

    def prepare(self, event: Event) -> tuple[bytes, bytes, int, list[tuple[str, bytes]]]:
        """Return value, key, partition and headers of the record."""
        key = event.project_id.encode()
        partition = self._partitions.get(key)
        if partition is None:
            partition = self._partitions[key] = (int(murmur2(key)) & 0x7FFFFFFF) % self._count
        return encode(event), key, partition, headers_of(event)

    async def send(self, prepared: tuple[bytes, bytes, int, list[tuple[str, bytes]]]) -> None:
        """Hand it to the producer."""
        value, key, partition, headers = prepared
        await self._producer.send(self._topic, value, key, partition=partition, headers=headers)


@asynccontextmanager
async def kafka(servers: str, topic: str) -> AsyncIterator[KafkaSink]:
    """Give a sink that has acknowledged everything when it ends."""
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, enable_idempotence=True, max_batch_size=1 << 18
    )
    await producer.start()
    try:
        yield KafkaSink(producer, topic, len(await producer.partitions_for(topic)))
        await producer.flush()
    finally:
        await producer.stop()


class ServiceSink:
    """Emits a message for each event, with the emitter that services use."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def prepare(self, event: Event) -> tuple[str, AgentMessage]:
        """Return the arguments of the call."""
        body = json.loads(event.data)["job"]
        content = body.pop("text")
        return event.project_id, AgentMessage(**body, run_id="r", role="user", content=content)

    async def send(self, prepared: tuple[str, AgentMessage]) -> None:
        """Make the call."""
        project, message = prepared
        self._emitter.emit("agent", project, "agent.message.appended", message)


@asynccontextmanager
async def service(servers: str, topic: str) -> AsyncIterator[ServiceSink]:
    """Give a sink that has emitted everything when it ends."""
    with tempfile.TemporaryDirectory() as spool:
        settings = ProducerSettings(
            source="bench", bootstrap_servers=servers, topic=topic, spool_dir=Path(spool)
        )
        async with Emitter(settings) as emitter:
            yield ServiceSink(emitter)


class FeedSink:
    """Sends events to a server that listens for its feed."""

    def __init__(self, writer: asyncio.StreamWriter, *, records: bool) -> None:
        self._writer = writer
        self._records = records

    def prepare(self, event: Event) -> bytes:
        """Return its frame."""
        payload = event_json(event)
        if self._records:
            payload = marshal.dumps((event.project_id.encode(), encode(event), headers_of(event)))
        return _FRAME.pack(len(payload), int(event.project_id[1:])) + payload

    async def send(self, prepared: bytes) -> None:
        """Write it."""
        self._writer.write(prepared)
        await self._writer.drain()


@asynccontextmanager
async def feed(port: int, *, records: bool) -> AsyncIterator[FeedSink]:
    """Give a sink that has written everything when it ends."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield FeedSink(writer, records=records)
    finally:
        writer.close()
        await writer.wait_closed()


async def emit(plan: Plan, sink: Sink[Any], start_us: int) -> dict[str, float]:
    """Send everything and report how late it was, in milliseconds."""
    coming = ((due, sink.prepare(event)) for due, event in plan.events(start_us))
    ready = list(itertools.islice(coming, _AHEAD if start_us > _now_us() else 0))
    gc.freeze()
    late = array("q")
    for due, prepared in itertools.chain(ready, coming):
        ahead = due - _now_us()
        if ahead > 0:
            await asyncio.sleep(ahead / 1e6)
        late.append(max(1, _now_us() - due))
        await sink.send(prepared)
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for us in late:
        histogram.record_value(us)
    return {f"late_p{p}_ms": histogram.get_value_at_percentile(p) / 1000 for p in (50, 99, 100)}


def _now_us() -> int:
    return time.time_ns() // 1000


async def _run(args: argparse.Namespace) -> dict[str, float]:
    plan = Plan.from_json(args.plan)
    async with AsyncExitStack() as stack:
        sink: Sink[Any]
        if args.service:
            sink = await stack.enter_async_context(service(args.kafka, args.topic))
        elif args.kafka:
            sink = await stack.enter_async_context(kafka(args.kafka, args.topic))
        else:
            sink = await stack.enter_async_context(feed(args.feed, records=args.records))
        print("ready", flush=True)
        start_us = int(await asyncio.to_thread(sys.stdin.readline))
        told = await emit(plan, sink, start_us)
    ended_us = start_us + plan.seconds * 1e6
    return {**told, "written_ms": max(0.0, (_now_us() - ended_us) / 1000)}


def main() -> None:
    """Be the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan")
    parser.add_argument("--kafka")
    parser.add_argument("--topic")
    parser.add_argument("--service", action="store_true")
    parser.add_argument("--feed", type=int)
    parser.add_argument("--records", action="store_true")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        told = uvloop.run(_run(parser.parse_args()))
    except ConnectionError as error:
        sys.exit(f"emitter: {error}")
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()

"""Where the peers in Python get their events: a topic in Kafka, or a feed (see emitter.py)."""

import argparse
import asyncio
import struct
from collections.abc import Awaitable, Callable

from aiokafka import AIOKafkaConsumer

from tailrace.schemas import decode, event_json

__all__ = ["Publish", "Watched", "arguments", "consume"]

_FRAME = struct.Struct(">II")

Publish = Callable[[int, str], Awaitable[None]]
"""Sends an event JSON to the viewers of a project."""
Watched = Callable[[int], bool]
"""Whether a project has a viewer: an event of another one is not even decoded."""


def arguments() -> argparse.ArgumentParser:
    """Return the parser of what every server is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--kafka")
    parser.add_argument("--topic")
    parser.add_argument("--feed", type=int)
    return parser


async def consume(
    args: argparse.Namespace, ready: asyncio.Event, watched: Watched, publish: Publish
) -> None:
    """Publish each event that comes, in order, until cancelled; set `ready` when none is missed."""
    if args.kafka:
        await _consume_kafka(args, ready, watched, publish)
    else:
        await _consume_feed(args, ready, publish)


async def _consume_kafka(
    args: argparse.Namespace, ready: asyncio.Event, watched: Watched, publish: Publish
) -> None:
    consumer = AIOKafkaConsumer(
        args.topic, bootstrap_servers=args.kafka, isolation_level="read_committed"
    )
    await consumer.start()
    try:
        await consumer.seek_to_end()
        for partition in consumer.assignment():
            await consumer.position(partition)
        ready.set()
        while True:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=500)
            for records in fetched.values():
                for record in records:
                    project = int(record.key[1:])
                    if watched(project):
                        await publish(project, event_json(decode(record.value)).decode())
    finally:
        await consumer.stop()


async def _consume_feed(args: argparse.Namespace, ready: asyncio.Event, publish: Publish) -> None:
    fed: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(10_000)

    async def fill(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size, project = _FRAME.unpack(await reader.readexactly(_FRAME.size))
                await fed.put((project, await reader.readexactly(size)))
        except asyncio.IncompleteReadError:
            writer.close()

    async with await asyncio.start_server(fill, "127.0.0.1", args.feed):
        ready.set()
        while True:
            project, text = await fed.get()
            await publish(project, text.decode())

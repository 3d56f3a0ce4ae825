"""What goes wrong while viewers watch: edges and brokers that die, move and come back."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from edge_harness import EdgeProcess, client_of

from tailrace.cli.local_kafka import LocalKafka

__all__ = ["FAULTS", "Stage", "edge_ready"]

_AWAY_S: Final = 0.5
"""How long what died stays away."""
_FROZEN_S: Final = 1.0


class Stage(NamedTuple):
    """What can be hurt."""

    edges: list[EdgeProcess]
    kafka: LocalKafka
    topic: str
    brokers: int
    random: random.Random


async def edge_ready(edge: EdgeProcess) -> None:
    """Wait until an edge says that it is ready, 20 s at most."""
    async with client_of(edge.url) as client:
        await client.ready()


async def edge_killed(stage: Stage) -> None:
    """An edge is gone without a word and comes back."""
    await _restarted(stage.random.choice(stage.edges), signal.SIGKILL)


async def edges_rolled(stage: Stage) -> None:
    """Every edge is drained and replaced, one after the other, as a deployment does."""
    for edge in stage.edges:
        await _restarted(edge, signal.SIGTERM)


async def edges_killed(stage: Stage) -> None:
    """All edges are gone at once."""
    await asyncio.gather(*(_restarted(edge, signal.SIGKILL) for edge in stage.edges))


async def broker_killed(stage: Stage) -> None:
    """A broker is gone without a word and comes back: the only one, or one of three."""
    await _broker_restarted(stage, stage.random.randint(1, stage.brokers))


async def leader_moved(stage: Stage) -> None:
    """The leader of a partition dies, so that another broker leads it; of a single one, it dies."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.kafka.bootstrap_servers)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([stage.topic])
    finally:
        await admin.close()
    leader = stage.random.choice(described["partitions"])["leader"]
    await _broker_restarted(stage, leader if leader > 0 else 1)


async def edge_frozen(stage: Stage) -> None:
    """An edge stops for longer than its viewers' buffers last, and goes on."""
    edge = stage.random.choice(stage.edges)
    edge.send(signal.SIGSTOP)
    await asyncio.sleep(_FROZEN_S)
    edge.send(signal.SIGCONT)


async def _restarted(edge: EdgeProcess, how: signal.Signals) -> None:
    await edge.end(how)
    await asyncio.sleep(_AWAY_S)
    await edge.start()
    await edge_ready(edge)


async def _broker_restarted(stage: Stage, node: int) -> None:
    await asyncio.to_thread(stage.kafka.kill, node)
    await asyncio.sleep(_AWAY_S)
    await asyncio.to_thread(stage.kafka.start, node)


FAULTS: Final[dict[str, Callable[[Stage], Awaitable[None]]]] = {
    "edge-killed": edge_killed,
    "edges-rolled": edges_rolled,
    "edges-killed": edges_killed,
    "edge-frozen": edge_frozen,
    "broker-killed": broker_killed,
    "leader-moved": leader_moved,
}
"""Name -> what does it; returns when all is well again."""

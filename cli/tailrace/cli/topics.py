"""Creating the topic that carries the events."""

import asyncio
import os
from typing import Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from tailrace.cli.errors import BrokerUnreachableError, TopicError
from tailrace.cli.kafka_config import MAX_MESSAGE_BYTES

__all__ = [
    "DEFAULT_PARTITIONS",
    "Target",
    "TopicOutcome",
    "create_topic",
    "default_replication",
    "target",
    "topic_configs",
]

DEFAULT_PARTITIONS: Final = 12
"""Divisible among 2, 3, 4 and 6, and more than a first deployment needs: a project stays in one
partition, and a later change of their number means a gap for every viewer."""

_TIMEOUT_S: Final = 30.0
_SAFE_REPLICATION: Final = 3


class Target(NamedTuple):
    """A topic and where its Kafka is."""

    servers: str
    topic: str


class TopicOutcome(NamedTuple):
    """What ``create_topic`` found or made."""

    topic: str
    partitions: int
    created: bool


def target() -> Target:
    """Read KAFKA_BOOTSTRAP_SERVERS and TAILRACE_TOPIC from the environment."""
    return Target(
        os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or "127.0.0.1:9092",
        os.environ.get("TAILRACE_TOPIC") or "tailrace.events",
    )


def default_replication(brokers: int) -> int:
    """Return how many copies of each record to keep: three, or as many as there are brokers."""
    return min(brokers, _SAFE_REPLICATION)


def topic_configs(replication: int) -> dict[str, str]:
    """Return the settings of the topic; retention and the rest are the cluster's defaults.

    With three copies or more, two must have a record before it counts as written: then the death
    of one broker loses nothing and stops nothing.
    """
    configs = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    if replication >= _SAFE_REPLICATION:
        configs["min.insync.replicas"] = "2"
    return configs


async def create_topic(
    where: Target, *, partitions: int = DEFAULT_PARTITIONS, replication: int | None = None
) -> TopicOutcome:
    """Create the topic if it is not there; when this returns, a new one is ready for use.

    An existing topic is left as it is, whatever its partitions: the outcome says how many.

    Args:
        where: The topic and its Kafka.
        partitions: How many a new topic gets.
        replication: How many copies; None: as ``default_replication`` says.

    Raises:
        BrokerUnreachableError: No broker answers within 30 s.
        TopicError: The broker refuses, for example more copies than there are brokers.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=where.servers.split(","))
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await admin.start()
            created = await _create(admin, where.topic, partitions, replication)
            found = await _partitions(admin, where.topic, await_leaders=created)
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnreachableError(where.servers) from error
    finally:
        await admin.close()
    return TopicOutcome(where.topic, found, created)


async def _create(
    admin: AIOKafkaAdminClient, topic: str, partitions: int, replication: int | None
) -> bool:
    if replication is None:
        cluster = await admin.describe_cluster()
        replication = default_replication(len(cluster["brokers"]))
    configs = topic_configs(replication)
    answer = await admin.create_topics([NewTopic(topic, partitions, replication, None, configs)])
    # The client raises nothing: each topic's outcome is a code in the answer.
    _, refused, *reason = answer.topic_errors[0]
    code = int(refused)
    if code not in {0, TopicAlreadyExistsError.errno}:
        raise TopicError(topic, next(filter(None, reason), for_code(code).__name__))
    return code == 0


async def _partitions(admin: AIOKafkaAdminClient, topic: str, *, await_leaders: bool) -> int:
    """Ask until the broker that answers knows the topic, and a leader of each partition if wanted.

    A round trip paces the questions: brokers learn of a new topic some milliseconds after the
    controller, and nothing tells a client.
    """
    while True:
        (described,) = await admin.describe_topics([topic])
        leaders = [each["leader"] for each in described["partitions"]]
        if leaders and (not await_leaders or min(leaders) >= 0):
            return len(leaders)

"""Whether Kafka answers, asked by a real client: an open port proves nothing."""

import asyncio
import socket
from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tailrace.cli.errors import BrokerUnreachableError

__all__ = ["brokers_listed", "require_broker", "sees"]


async def brokers_listed(servers: str, *, timeout_s: float = 5.0) -> frozenset[int]:
    """Return the ids of the brokers in the metadata that ``servers`` give; empty if none answers.

    ``servers`` is comma-separated, as in KAFKA_BOOTSTRAP_SERVERS.
    """
    client = AIOKafkaAdminClient(
        bootstrap_servers=servers.split(","), request_timeout_ms=int(timeout_s * 1000)
    )
    try:
        async with asyncio.timeout(timeout_s):
            await client.start()
            cluster = await client.describe_cluster()
    except (KafkaError, OSError, TimeoutError):
        return frozenset()
    finally:
        await client.close()
    return frozenset(broker["node_id"] for broker in cluster["brokers"])


def sees(host: str, port: int, expected: Iterable[int]) -> bool:
    """Whether the broker at ``host:port`` answers and lists at least the ``expected`` ids.

    Blocking: not for a thread that runs an event loop.
    """
    # The client logs an error for each refused connection: spare it those.
    if not _accepts(host, port):
        return False
    return asyncio.run(brokers_listed(f"{host}:{port}")) >= frozenset(expected)


def require_broker(servers: str) -> None:
    """Check that a broker answers at ``servers``. Blocking, as ``sees``.

    Raises:
        BrokerUnreachableError: None does.
    """
    if not asyncio.run(brokers_listed(servers, timeout_s=10.0)):
        raise BrokerUnreachableError(servers)


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False

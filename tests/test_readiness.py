"""Only a broker that answers a client counts as ready."""

import asyncio
import socket

import pytest

from tailrace.cli.errors import BrokerUnreachableError
from tailrace.cli.kafka_config import HOST
from tailrace.cli.ports import free_ports
from tailrace.cli.readiness import brokers_listed, require_broker, sees


async def test_broker_lists_itself(kafka: str) -> None:
    assert await brokers_listed(kafka)


def test_broker_is_seen_with_those_it_lists_only(kafka: str) -> None:
    host, _, port = kafka.partition(":")
    listed = asyncio.run(brokers_listed(kafka))
    assert sees(host, int(port), listed)
    assert not sees(host, int(port), [*listed, 99])
    require_broker(kafka)


def test_closed_port_is_not_ready() -> None:
    (port,) = free_ports(1)
    assert not sees(HOST, port, [])
    with pytest.raises(BrokerUnreachableError, match=f"^No Kafka answers at {HOST}:{port}: start"):
        require_broker(f"{HOST}:{port}")


async def test_open_port_that_says_nothing_is_not_ready() -> None:
    with socket.create_server((HOST, 0)) as server:
        assert not await brokers_listed(f"{HOST}:{server.getsockname()[1]}", timeout_s=0.1)

"""Which Kafka the demo, the tests and the benchmarks use, and ending only what was started.

In this order: the one that KAFKA_BOOTSTRAP_SERVERS names; one in a container, where
testcontainers is installed and a Docker engine answers; the local one, without Docker.
"""

import importlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from tailrace.cli.kafka_config import MAX_MESSAGE_BYTES
from tailrace.cli.local_kafka import Brokers, LocalKafka
from tailrace.cli.readiness import require_broker

__all__ = ["SERVERS_VARIABLE", "broker", "docker_answers"]

SERVERS_VARIABLE: Final = "KAFKA_BOOTSTRAP_SERVERS"

CONTAINER_SETTINGS: Final = {
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_MESSAGE_MAX_BYTES": str(MAX_MESSAGE_BYTES),
    "KAFKA_REPLICA_FETCH_MAX_BYTES": str(MAX_MESSAGE_BYTES),
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
}

_DEFAULT_ENGINE: Final = "unix:///var/run/docker.sock"
_ENGINE_TIMEOUT_S: Final = 5

log = structlog.get_logger(__name__)


@contextmanager
def broker(data: Path, *, brokers: Brokers = 1) -> Iterator[str]:
    """Give the bootstrap servers of a Kafka that answers, for as long as the block runs.

    A Kafka that was there before is left as it is. Blocking, as ``LocalKafka``.

    Args:
        data: The folder for a local Kafka's data, which outlives the block.
        brokers: How many; three are always local ones, as only those can be killed.

    Raises:
        BrokerUnreachableError: The variable names servers that do not answer.
        MissingPartError: There is no other Kafka and the local one lacks a part.
        LocalKafkaError: The local one did not start.
    """
    servers = os.environ.get(SERVERS_VARIABLE)
    if servers and brokers == 1:
        require_broker(servers)
        log.debug("kafka_chosen", which="environment", servers=servers)
        yield servers
    elif brokers == 1 and docker_answers():
        with _container() as servers:
            log.debug("kafka_chosen", which="container", servers=servers)
            yield servers
    else:
        with _local(data, brokers) as servers:
            log.debug("kafka_chosen", which="local", servers=servers)
            yield servers


def docker_answers() -> bool:
    """Whether testcontainers is installed and finds a Docker engine that answers."""
    if importlib.util.find_spec("testcontainers") is None:
        return False
    docker = importlib.import_module("testcontainers.core.docker_client")
    # Docker's client leaks a socket when nobody listens at the other end: look first.
    if not _listens(docker.get_docker_host() or _DEFAULT_ENGINE):
        return False
    errors = importlib.import_module("docker.errors")
    try:
        return bool(docker.DockerClient(timeout=_ENGINE_TIMEOUT_S).client.ping())
    except (errors.DockerException, OSError):
        return False


def _listens(engine: str) -> bool:
    """Whether something listens on the unix socket that ``engine`` names; true for other kinds."""
    scheme, _, path = engine.partition("://")
    if scheme != "unix":
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ENGINE_TIMEOUT_S)
        return probe.connect_ex(path) == 0


@contextmanager
def _container() -> Iterator[str]:
    container = importlib.import_module("testcontainers.community.kafka").KafkaContainer()
    container.with_kraft()
    for name, value in CONTAINER_SETTINGS.items():
        container.with_env(name, value)
    with container:
        yield container.get_bootstrap_server()


@contextmanager
def _local(data: Path, brokers: Brokers) -> Iterator[str]:
    kafka = LocalKafka(data, port=0, brokers=brokers)
    was_running = any(node.pid is not None for node in kafka.status())
    servers = kafka.up()
    try:
        yield servers
    finally:
        if not was_running:
            kafka.down()

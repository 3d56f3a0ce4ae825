"""What a local Kafka cluster looks like, and each node's ``server.properties``; pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import orjson

__all__ = ["HOST", "MAX_MESSAGE_BYTES", "Cluster", "Node", "server_properties"]

HOST: Final = "127.0.0.1"

MAX_MESSAGE_BYTES: Final = 2 << 20
"""The largest record batch: an event of 900,000 bytes with key, headers and framing, and room.

Kafka's own default, 1 MB, leaves no room for a batch that a producer fills to 1 MB.
"""


class Node(NamedTuple):
    """One broker, which is a controller too."""

    id: int
    port: int
    controller_port: int


class Cluster(NamedTuple):
    """A cluster as its data folder remembers it."""

    id: str
    """22 characters of base64url: Kafka's own form of a UUID."""

    nodes: tuple[Node, ...]

    @property
    def bootstrap_servers(self) -> str:
        """All brokers, comma-separated."""
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def to_json(self) -> bytes:
        """Render it for the data folder."""
        nodes = [node._asdict() for node in self.nodes]
        return orjson.dumps({"id": self.id, "nodes": nodes}, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what ``to_json`` wrote; other text raises ValueError, KeyError or TypeError."""
        record = orjson.loads(text)
        return cls(str(record["id"]), tuple(Node(**node) for node in record["nodes"]))


def server_properties(cluster: Cluster, node: Node, log_dir: str) -> str:
    """Return the configuration of one node of a local cluster.

    It is for one machine: small pools, loopback listeners without encryption, and timeouts so
    short that a killed broker is replaced or back within two seconds. None of that belongs in
    production.
    """
    settings = _identity(cluster, node, log_dir) | _replication(len(cluster.nodes)) | _SMALL
    if len(cluster.nodes) > 1:
        settings |= _QUICK_ELECTIONS
    return "".join(f"{name}={_escaped(value)}\n" for name, value in settings.items())


def _escaped(value: str) -> str:
    """Escape a value for a Java properties file, which is read as Latin-1."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = (units[i] << 8 | units[i + 1] for i in range(0, len(units), 2))
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)  # noqa: PLR2004 - ASCII


def _identity(cluster: Cluster, node: Node, log_dir: str) -> dict[str, str]:
    broker = f"PLAINTEXT://{HOST}:{node.port}"
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.id),
        "listeners": f"{broker},CONTROLLER://{HOST}:{node.controller_port}",
        "advertised.listeners": broker,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": _voters(cluster.nodes),
        "log.dirs": log_dir,
    }


def _voters(nodes: Sequence[Node]) -> str:
    return ",".join(f"{node.id}@{HOST}:{node.controller_port}" for node in nodes)


def _replication(nodes: int) -> dict[str, str]:
    in_sync = str(2 if nodes > 2 else 1)  # noqa: PLR2004 - of three, two must have a record
    return {
        "default.replication.factor": str(nodes),
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": str(nodes),
        "transaction.state.log.replication.factor": str(nodes),
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": str(nodes),
        "share.coordinator.state.topic.min.isr": in_sync,
    }


_SMALL: Final = {
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(MAX_MESSAGE_BYTES),
    "replica.fetch.max.bytes": str(MAX_MESSAGE_BYTES),
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.dedupe.buffer.size": str(2 << 20),
    "background.threads": "2",
    "num.io.threads": "2",
    "num.network.threads": "1",
    # After kill -9 the old registration must expire first: 1.9 s instead of 11 s.
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "200",
}

_QUICK_ELECTIONS: Final = {
    # A dead leader stalls its partitions for 1 to 3 s instead of 9 to 11 s.
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.backoff.max.ms": "500",
}

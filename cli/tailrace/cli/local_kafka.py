"""A real Apache Kafka on this machine, without Docker.

Its jars come from Maven once; each node is a process of its own that outlives its starter, with
its data, configuration, log and pid file in one folder.
"""

import base64
import signal
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

import structlog

from tailrace.cli.class_archive import with_class_archive
from tailrace.cli.errors import DataFolderError, NoClusterError, OtherClusterError
from tailrace.cli.jars import ensure_jars, locked
from tailrace.cli.java import Java, find_java
from tailrace.cli.kafka_config import HOST, Cluster, Node
from tailrace.cli.local_node import LocalNode, await_ready, start_nodes, stop_nodes
from tailrace.cli.ports import free_ports, is_free, require_free
from tailrace.cli.process import wait_ended

__all__ = ["Brokers", "LocalKafka", "NodeStatus"]

Brokers = Literal[1, 3]
"""One broker for everyday use; three, where the death of one must not stop anything."""

_KILL_GRACE_S: Final = 10.0

log = structlog.get_logger(__name__)


class NodeStatus(NamedTuple):
    """What one node is doing."""

    id: int
    address: str
    pid: int | None
    """None: not running."""

    answers: bool
    """A client gets metadata from it."""

    log: Path


class LocalKafka:
    """A local cluster in a data folder; survives this object and this process until ``down``.

    All methods block, for up to a minute where they start or stop something, and run a short
    event loop of their own: from async code call them through ``asyncio.to_thread``. Several
    processes may use the same folder; a file lock orders them.

    Args:
        data: The folder; created by ``up``. It keeps topics and records across ``down``.
        port: Of the first broker, the others follow on the next ports; 0: those of the last time
            if they are free, else any.
        brokers: How many nodes; fixed by the first ``up`` of a folder.
    """

    def __init__(self, data: Path, *, port: int = 9092, brokers: Brokers = 1) -> None:
        self._data = data.absolute()
        self._port = port
        self._brokers: Brokers = brokers

    def __repr__(self) -> str:
        return f"<LocalKafka {self._data} brokers={self._brokers}>"

    @property
    def bootstrap_servers(self) -> str:
        """All brokers, comma-separated; raises NoClusterError before the first ``up``."""
        return self._known().bootstrap_servers

    def up(self) -> str:
        """Start what does not run and wait until every broker answers; the bootstrap servers.

        The first time on a machine it fetches Kafka. Idempotent. When it fails, nothing that it
        started is left running.

        Raises:
            MissingPartError: Java, Maven, disk space or network are missing.
            PortTakenError: Something else listens on a wanted port.
            OtherClusterError: The folder's cluster has another size, or runs on another port.
            StartError: A node ended or did not answer in time; its log is named.
        """
        if "," in str(self._data):
            raise DataFolderError(self._data, "a comma in its name, which separates folders")
        java = _local_java()
        with self._exclusive():
            cluster = self._cluster()
            nodes = self._nodes(cluster)
            idle = [node for node in nodes if node.process.pid is None]
            require_free(node.node.port for node in idle)
            self._file.write_bytes(cluster.to_json())
            _run(java, cluster, idle, nodes)
        return cluster.bootstrap_servers

    def down(self) -> bool:
        """Stop all nodes: SIGTERM, then after 10 s SIGKILL; whether any was running."""
        recorded = self._recorded()
        if recorded is None:
            return False
        with self._exclusive():
            running = _running(self._nodes(recorded))
            stop_nodes(running)
        log.debug("kafka_down", data=str(self._data), nodes=len(running))
        return bool(running)

    def status(self) -> list[NodeStatus]:
        """Look at each node; empty before the first ``up``."""
        recorded = self._recorded()
        return [_status(node) for node in self._nodes(recorded)] if recorded else []

    def kill(self, node_id: int) -> None:
        """End a node with SIGKILL, as a crash would; returns when it has ended."""
        process = self._node(node_id).process
        process.signal(signal.SIGKILL)
        wait_ended([process], _KILL_GRACE_S)

    def start(self, node_id: int) -> None:
        """Start a node again and wait until it and the other running ones list each other.

        A majority of the nodes must run then: fewer do not answer. Raises as ``up`` does.
        """
        java = _local_java()
        with self._exclusive():
            node = self._node(node_id)
            if node.process.pid is None:
                others = _running(self._nodes(self._known()))
                _run(java, self._known(), [node], [*others, node])

    @property
    def _file(self) -> Path:
        return self._data / "cluster.json"

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            with locked(self._data / ".lock"):
                yield
        except OSError as error:
            raise DataFolderError(self._data, error.strerror or str(error)) from error

    def _recorded(self) -> Cluster | None:
        try:
            return Cluster.from_json(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataFolderError(self._data, f"{self._file.name}: {error}") from error

    def _known(self) -> Cluster:
        recorded = self._recorded()
        if recorded is None:
            raise NoClusterError(self._data)
        return recorded

    def _node(self, node_id: int) -> LocalNode:
        for node in self._nodes(self._known()):
            if node.node.id == node_id:
                return node
        raise NoClusterError(self._data)

    def _nodes(self, cluster: Cluster) -> list[LocalNode]:
        return [LocalNode(self._data / f"node-{node.id}", node) for node in cluster.nodes]

    def _cluster(self) -> Cluster:
        """Decide what ``up`` is to bring up: the running cluster, the recorded one or a new one."""
        recorded = self._recorded()
        if recorded is None:
            return self._placed(_new_cluster_id(), [])
        if len(recorded.nodes) != self._brokers:
            has, asked = _counted(len(recorded.nodes)), str(self._brokers)
            raise OtherClusterError(self._data, has, asked)
        ports = [node.port for node in recorded.nodes]
        if not _running(self._nodes(recorded)):
            return self._placed(recorded.id, ports)
        if self._port not in {0, ports[0]}:
            raise OtherClusterError(self._data, f"port {ports[0]} in use", f"{self._port}")
        return recorded

    def _placed(self, cluster_id: str, last_ports: Sequence[int]) -> Cluster:
        free = free_ports(2 * self._brokers)
        ports = self._broker_ports(last_ports) or free[self._brokers :]
        controllers = [port for port in free if port not in ports][: self._brokers]
        ids = range(1, self._brokers + 1)
        nodes = (Node(*each) for each in zip(ids, ports, controllers, strict=True))
        return Cluster(cluster_id, tuple(nodes))

    def _broker_ports(self, last_ports: Sequence[int]) -> Sequence[int]:
        if self._port:
            return range(self._port, self._port + self._brokers)
        return last_ports if all(is_free(port) for port in last_ports) else []


def _local_java() -> Java:
    # Java first: it is asked for in less time than a fetch that could not be used.
    find_java(Path())
    return with_class_archive(find_java(ensure_jars()))


def _run(
    java: Java, cluster: Cluster, idle: Sequence[LocalNode], expected: Sequence[LocalNode]
) -> None:
    """Start the ``idle`` and wait until all ``expected`` answer; on failure stop the ``idle``."""
    start_nodes(java, cluster, idle)
    try:
        await_ready(expected)
    except BaseException:
        stop_nodes(idle)
        raise
    log.debug("kafka_up", servers=cluster.bootstrap_servers, started=len(idle))


def _running(nodes: Sequence[LocalNode]) -> list[LocalNode]:
    return [node for node in nodes if node.process.pid is not None]


def _status(node: LocalNode) -> NodeStatus:
    return NodeStatus(
        id=node.node.id,
        address=f"{HOST}:{node.node.port}",
        pid=node.process.pid,
        answers=node.sees([node.node.id]),
        log=node.log,
    )


def _counted(brokers: int) -> str:
    return "1 broker" if brokers == 1 else f"{brokers} brokers"


def _new_cluster_id() -> str:
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]
    # A leading dash would read as an option on the command line of the formatting tool.
    return "T" + text[1:] if text.startswith("-") else text

"""One node of a local Kafka cluster: its folder, its process; and starting several at once."""

import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tailrace.cli.errors import StartError
from tailrace.cli.java import Java
from tailrace.cli.kafka_config import HOST, Cluster, Node, server_properties
from tailrace.cli.process import Daemon, wait_any_ended, wait_ended
from tailrace.cli.readiness import sees

__all__ = ["READY_TIMEOUT_S", "LocalNode", "await_ready", "start_nodes", "stop_nodes"]

READY_TIMEOUT_S: Final = 60.0
_FORMAT_TIMEOUT_S: Final = 60.0
_STOP_GRACE_S: Final = 10.0
_KILL_GRACE_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.05


class LocalNode:
    """A node in its folder: ``server.properties``, ``kafka.log``, ``kafka.pid`` and its data.

    Args:
        folder: The node's own; created by ``prepare``.
        node: Its id and ports.
    """

    def __init__(self, folder: Path, node: Node) -> None:
        self.node = node
        self.log = folder / "kafka.log"
        self._folder = folder
        self._data = folder / "data"
        self._properties = folder / "server.properties"
        self.process = Daemon(folder / "kafka.pid", self._main)

    def __repr__(self) -> str:
        return f"<LocalNode {self.node.id} at {HOST}:{self.node.port} in {self._folder}>"

    @property
    def _main(self) -> tuple[str, str]:
        return "kafka.Kafka", str(self._properties)

    def prepare(self, java: Java, cluster: Cluster) -> None:
        """Write the configuration, begin a new log and format the data folder if it is new."""
        self._folder.mkdir(parents=True, exist_ok=True)
        properties = server_properties(cluster, self.node, str(self._data))
        self._properties.write_text(properties)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        if not (self._data / "meta.properties").exists():
            self._format(java, cluster.id)

    def spawn(self, java: Java) -> None:
        """Start the process of a prepared node that does not run."""
        self.process.spawn(java.command(*self._main), env=java.environment(), log=self.log)

    def sees(self, ids: Iterable[int]) -> bool:
        """Whether this node answers a client and lists the brokers ``ids``."""
        return sees(HOST, self.node.port, ids)

    def _format(self, java: Java, cluster_id: str) -> None:
        storage = ("kafka.tools.StorageTool", "format", "--ignore-formatted")
        command = java.command(*storage, "-t", cluster_id, "-c", str(self._properties))
        with self.log.open("w") as words:
            try:
                subprocess.run(  # noqa: S603 - an absolute path and our own arguments
                    command,
                    env=java.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=subprocess.STDOUT,
                    timeout=_FORMAT_TIMEOUT_S,
                    check=True,
                )
            except (subprocess.SubprocessError, OSError) as error:
                raise StartError("its storage could not be formatted", self.log) from error


def start_nodes(java: Java, cluster: Cluster, nodes: Sequence[LocalNode]) -> None:
    """Start nodes that do not run; they answer some time after. On failure none is left.

    The caller awaits them with ``await_ready``.
    """
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: node.prepare(java, cluster), nodes))
    try:
        for node in nodes:
            node.spawn(java)
    except BaseException:
        stop_nodes(nodes)
        raise


def await_ready(nodes: Sequence[LocalNode]) -> None:
    """Wait until each of these running nodes answers and lists all of them.

    Raises:
        StartError: One has ended, or they did not answer within ``READY_TIMEOUT_S``.
    """
    ids = [node.node.id for node in nodes]
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not wait_any_ended([node.process for node in nodes], _LOOK_AGAIN_S):
        if all(node.sees(ids) for node in nodes):
            return
        if time.monotonic() > deadline:
            raise StartError(f"no answer within {READY_TIMEOUT_S:.0f} s", nodes[0].log)
    dead = next(node for node in nodes if node.process.pid is None)
    raise StartError(f"node {dead.node.id} ended", dead.log)


def stop_nodes(nodes: Sequence[LocalNode]) -> None:
    """Stop those that run: SIGTERM, and after a grace of 10 s SIGKILL; returns when all ended."""
    processes = [node.process for node in nodes]
    for process in processes:
        process.signal(signal.SIGTERM)
    if wait_ended(processes, _STOP_GRACE_S):
        return
    for process in processes:
        process.signal(signal.SIGKILL)
    wait_ended(processes, _KILL_GRACE_S)

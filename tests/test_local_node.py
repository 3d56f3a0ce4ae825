"""A node that cannot start says where its words are, and leaves nothing behind."""

from pathlib import Path

import fake_kafka
import pytest

from tailrace.cli.errors import StartError
from tailrace.cli.kafka_config import Cluster, Node
from tailrace.cli.local_node import LocalNode, await_ready, start_nodes, stop_nodes
from tailrace.cli.ports import free_ports


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("id", (Node(1, *free_ports(2)),))


@pytest.fixture
def node(tmp_path: Path, cluster: Cluster) -> LocalNode:
    return LocalNode(tmp_path / "data" / "node-1", cluster.nodes[0])


def test_failed_format_names_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, node: LocalNode
) -> None:
    java = fake_kafka.install(
        tmp_path, monkeypatch, on_format="echo bad disk; exit 1", on_serve="true"
    )
    with pytest.raises(StartError, match=rf"formatted, see {node.log}$"):
        start_nodes(java, cluster, [node])
    assert node.log.read_text() == "bad disk\n"
    assert node.process.pid is None


def test_node_that_ends_names_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, node: LocalNode
) -> None:
    java = fake_kafka.install(tmp_path, monkeypatch, on_serve="echo no memory >&2; exit 3")
    start_nodes(java, cluster, [node])
    with pytest.raises(StartError, match=rf"node 1 ended, see {node.log}$"):
        await_ready([node])
    assert node.log.read_text() == "no memory\n"


def test_node_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, node: LocalNode
) -> None:
    monkeypatch.setattr("tailrace.cli.local_node.READY_TIMEOUT_S", 0.0)
    java = fake_kafka.install(tmp_path, monkeypatch, on_serve="while :; do sleep 60 & wait; done")
    start_nodes(java, cluster, [node])
    try:
        with pytest.raises(StartError, match=rf"no answer within 0 s, see {node.log}$"):
            await_ready([node])
    finally:
        stop_nodes([node])


def test_log_of_the_last_run_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, node: LocalNode
) -> None:
    java = fake_kafka.install(tmp_path, monkeypatch, on_serve="true")
    node.prepare(java, cluster)
    node.log.write_text("the last run")
    node.prepare(java, cluster)
    assert node.log.with_name("kafka.log.1").read_text() == "the last run"


def test_formatted_node_is_not_formatted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, node: LocalNode
) -> None:
    java = fake_kafka.install(tmp_path, monkeypatch, on_format="exit 1", on_serve="true")
    formatted = tmp_path / "data" / "node-1" / "data" / "meta.properties"
    formatted.parent.mkdir(parents=True)
    formatted.touch()
    node.prepare(java, cluster)

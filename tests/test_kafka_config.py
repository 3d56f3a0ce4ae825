"""The configuration of one node and of three."""

import pytest

from tailrace.cli.kafka_config import Cluster, Node, server_properties

ONE = Cluster("id", (Node(1, 9092, 5001),))
THREE = Cluster("id", (Node(1, 9092, 5001), Node(2, 9093, 5002), Node(3, 9094, 5003)))


def properties(cluster: Cluster, node: Node, log_dir: str = "/data") -> dict[str, str]:
    lines = server_properties(cluster, node, log_dir).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_one_broker_needs_no_other() -> None:
    settings = properties(ONE, ONE.nodes[0])
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:5001"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9092"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:5001"
    assert settings["default.replication.factor"] == "1"
    assert settings["min.insync.replicas"] == "1"
    assert settings["auto.create.topics.enable"] == "false"
    assert "controller.quorum.election.timeout.ms" not in settings


def test_three_brokers_bear_the_loss_of_one() -> None:
    settings = properties(THREE, THREE.nodes[1])
    assert settings["node.id"] == "2"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9093"
    voters = "1@127.0.0.1:5001,2@127.0.0.1:5002,3@127.0.0.1:5003"
    assert settings["controller.quorum.voters"] == voters
    factors = {value for name, value in settings.items() if name.endswith("replication.factor")}
    assert factors == {"3"}
    assert settings["min.insync.replicas"] == settings["transaction.state.log.min.isr"] == "2"
    assert settings["controller.quorum.election.timeout.ms"] == "500"


def test_bootstrap_servers_are_all_brokers() -> None:
    assert THREE.bootstrap_servers == "127.0.0.1:9092,127.0.0.1:9093,127.0.0.1:9094"


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        ("/a b/c=d", "/a b/c=d"),
        (r"/a\b", r"/a\\b"),
        ("/jos\N{LATIN SMALL LETTER E WITH ACUTE}", r"/jos\u00e9"),
        ("/\N{WATER WAVE}", r"/\ud83c\udf0a"),
    ],
)
def test_folder_is_written_as_java_reads_it(folder: str, written: str) -> None:
    assert properties(ONE, ONE.nodes[0], folder)["log.dirs"] == written


def test_cluster_survives_its_file() -> None:
    assert Cluster.from_json(THREE.to_json()) == THREE


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"id": 1, "nodes": [{}]}'])
def test_other_text_is_refused(text: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Cluster.from_json(text)

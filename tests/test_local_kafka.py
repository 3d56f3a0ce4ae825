"""The real thing: data that survives, faults that are survived, failures that say what to do."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_kafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tailrace.cli import local_kafka
from tailrace.cli.errors import (
    DataFolderError,
    JavaMissingError,
    NoClusterError,
    OtherClusterError,
    PortTakenError,
    StartError,
)
from tailrace.cli.kafka_config import HOST
from tailrace.cli.local_kafka import Brokers, LocalKafka
from tailrace.cli.ports import free_ports
from tailrace.cli.readiness import brokers_listed
from tailrace.cli.topics import Target, create_topic

TOPIC = "survivors"


@pytest.fixture
def local(tmp_path: Path, local_kafka_parts: None) -> Iterator[LocalKafka]:  # noqa: ARG001 - needs them
    kafka = LocalKafka(tmp_path / "kafka", port=0)
    yield kafka
    kafka.down()


@pytest.fixture
def three(tmp_path: Path, local_kafka_parts: None) -> Iterator[LocalKafka]:  # noqa: ARG001 - needs them
    kafka = LocalKafka(tmp_path / "kafka", port=0, brokers=3)
    yield kafka
    # Not down(): a quorum that ends at once takes five seconds, and nobody needs this data.
    for node in kafka.status():
        kafka.kill(node.id)


async def write(servers: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers.split(","), acks="all") as producer:
        for value in values:
            await producer.send_and_wait(TOPIC, value, partition=0)


async def read(servers: str, count: int) -> list[bytes]:
    partition = TopicPartition(TOPIC, 0)
    values: list[bytes] = []
    async with AIOKafkaConsumer(bootstrap_servers=servers.split(",")) as consumer:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        while len(values) < count:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                values.extend(record.value for record in records)
    return values


def pids(kafka: LocalKafka) -> list[int | None]:
    return [node.pid for node in kafka.status()]


def test_records_survive_down_and_up(local: LocalKafka) -> None:
    servers = local.up()
    asyncio.run(create_topic(Target(servers, TOPIC), partitions=1))
    asyncio.run(write(servers, b"one", b"two"))
    assert local.down()
    assert pids(local) == [None]
    assert local.up() == servers
    assert asyncio.run(read(servers, 2)) == [b"one", b"two"]


def test_second_up_and_second_down_change_nothing(local: LocalKafka, tmp_path: Path) -> None:
    assert not local.down()
    assert local.status() == []
    servers = local.up()
    before = local.status()
    assert before[0].answers
    assert before[0].address == local.bootstrap_servers == servers
    assert LocalKafka(tmp_path / "kafka", port=0).up() == servers
    assert local.status() == before
    assert local.down()
    assert not local.down()


def test_killed_broker_starts_again_with_its_records(local: LocalKafka) -> None:
    servers = local.up()
    asyncio.run(create_topic(Target(servers, TOPIC), partitions=1))
    asyncio.run(write(servers, b"one"))
    local.kill(1)
    assert pids(local) == [None]
    assert not local.status()[0].answers
    local.start(1)
    local.start(1)
    assert asyncio.run(read(servers, 1)) == [b"one"]


def test_running_folder_refuses_another_port_and_size(local: LocalKafka, tmp_path: Path) -> None:
    local.up()
    (other,) = free_ports(1)
    with pytest.raises(OtherClusterError, match=f"port .* in use, not {other}: give --data"):
        LocalKafka(tmp_path / "kafka", port=other).up()
    with pytest.raises(OtherClusterError, match="1 broker, not 3: give --data"):
        LocalKafka(tmp_path / "kafka", port=0, brokers=3).up()


def test_three_brokers_bear_the_death_of_one(three: LocalKafka) -> None:
    servers = three.up()
    assert asyncio.run(brokers_listed(servers)) == {1, 2, 3}
    asyncio.run(create_topic(Target(servers, TOPIC), partitions=1))
    asyncio.run(write(servers, b"one"))
    three.kill(1)
    asyncio.run(write(servers, b"two"))
    three.start(1)
    assert [node.answers for node in three.status()] == [True, True, True]
    assert asyncio.run(read(servers, 2)) == [b"one", b"two"]


def test_stranger_with_the_old_pid_outlives_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kafka.install(tmp_path, monkeypatch, on_serve="exit 1")
    kafka = LocalKafka(tmp_path / "kafka", port=0)
    with pytest.raises(StartError):
        kafka.up()
    code = "import sys; sys.stdin.read()"
    stranger = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    (tmp_path / "kafka" / "node-1" / "kafka.pid").write_text(f"{stranger.pid}\n")
    assert pids(kafka) == [None]
    assert not kafka.down()
    kafka.kill(1)
    stranger.communicate()
    assert stranger.returncode == 0


def test_failed_start_names_the_log_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kafka.install(tmp_path, monkeypatch, on_serve="echo out of luck; exit 1")
    kafka = LocalKafka(tmp_path / "kafka", port=0)
    with pytest.raises(StartError, match=r"^Kafka did not start: node 1 ended, see /") as caught:
        kafka.up()
    assert caught.value.log.read_text() == "out of luck\n"
    assert pids(kafka) == [None]


def test_interrupted_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    fake_kafka.install(tmp_path, monkeypatch, on_serve="while :; do sleep 60 & wait; done")
    monkeypatch.setattr("tailrace.cli.local_kafka.await_ready", interrupted)
    kafka = LocalKafka(tmp_path / "kafka", port=0)
    with pytest.raises(KeyboardInterrupt):
        kafka.up()
    assert pids(kafka) == [None]


def test_taken_port_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kafka.install(tmp_path, monkeypatch, on_serve="true")
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        kafka = LocalKafka(tmp_path / "kafka", port=port)
        with pytest.raises(PortTakenError, match=f"^Port {port} is taken"):
            kafka.up()
    assert kafka.status() == []


def test_missing_java_is_seen_before_a_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(JavaMissingError):
        LocalKafka(tmp_path / "kafka").up()
    assert not (tmp_path / "cache").exists()


def test_unusable_data_folder_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kafka.install(tmp_path, monkeypatch, on_serve="true")
    (tmp_path / "a file").touch()
    with pytest.raises(DataFolderError, match=r"cannot be used \(.*\): give --data"):
        LocalKafka(tmp_path / "a file").up()
    (tmp_path / "cluster.json").write_text("not ours")
    with pytest.raises(DataFolderError, match=r"cluster\.json"):
        LocalKafka(tmp_path).status()


def test_comma_in_the_data_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="a comma in its name"):
        LocalKafka(tmp_path / "a,b").up()


def test_what_never_was_up_has_no_nodes(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path)
    with pytest.raises(NoClusterError, match="tailrace kafka up"):
        kafka.kill(1)
    with pytest.raises(NoClusterError):
        _ = kafka.bootstrap_servers


@pytest.mark.parametrize("brokers", [1, 3])
def test_controllers_never_get_the_ports_of_brokers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brokers: Brokers
) -> None:
    asked = free_ports(1)[0]
    monkeypatch.setattr(local_kafka, "free_ports", lambda count: [*range(asked, asked + count)])

    cluster = LocalKafka(tmp_path, brokers=brokers, port=asked)._placed("id", [])

    ports = [port for node in cluster.nodes for port in (node.port, node.controller_port)]
    assert len(set(ports)) == 2 * brokers
    assert cluster.nodes[0].port == asked

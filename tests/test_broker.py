"""Which Kafka is chosen, and that only what was started is ended."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tailrace.cli import broker as module
from tailrace.cli.broker import broker, docker_answers
from tailrace.cli.errors import BrokerUnreachableError
from tailrace.cli.local_kafka import LocalKafka
from tailrace.cli.ports import free_ports


@contextmanager
def stand_in(name: str) -> Iterator[str]:
    yield name


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every Kafka there could be, as a name."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "named:1")
    monkeypatch.setattr(module, "require_broker", lambda _: None)
    monkeypatch.setattr(module, "docker_answers", lambda: True)
    monkeypatch.setattr(module, "_container", lambda: stand_in("container"))
    monkeypatch.setattr(module, "_local", lambda _, brokers: stand_in(f"{brokers} local"))
    return monkeypatch


def chosen(**options: object) -> str:
    with broker(Path("unused"), **options) as servers:  # type: ignore[arg-type]
        return servers


@pytest.mark.usefixtures("choices")
def test_named_servers_come_first() -> None:
    assert chosen() == "named:1"


@pytest.mark.parametrize("value", ["", None])
def test_container_comes_second(choices: pytest.MonkeyPatch, value: str | None) -> None:
    choices.delenv("KAFKA_BOOTSTRAP_SERVERS")
    if value is not None:
        choices.setenv("KAFKA_BOOTSTRAP_SERVERS", value)
    assert chosen() == "container"


def test_local_kafka_comes_last(choices: pytest.MonkeyPatch) -> None:
    choices.delenv("KAFKA_BOOTSTRAP_SERVERS")
    choices.setattr(module, "docker_answers", lambda: False)
    assert chosen() == "1 local"


@pytest.mark.usefixtures("choices")
def test_three_brokers_are_always_local() -> None:
    assert chosen(brokers=3) == "3 local"


def test_named_servers_that_do_not_answer_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{port}")
    with pytest.raises(BrokerUnreachableError, match="correct KAFKA_BOOTSTRAP_SERVERS"):
        chosen()


@pytest.fixture
def only_local(monkeypatch: pytest.MonkeyPatch, local_kafka_parts: None) -> None:  # noqa: ARG001 - needs them
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setattr(module, "docker_answers", lambda: False)


@pytest.mark.usefixtures("only_local")
def test_only_what_was_started_is_ended(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path, port=0)
    with broker(tmp_path) as servers:
        # Inside, the Kafka of the outer block is one that was there before.
        with broker(tmp_path) as again:
            assert again == servers
        assert kafka.status()[0].answers
    assert kafka.status()[0].pid is None


class FakeContainer:
    """What testcontainers' KafkaContainer offers of what we use."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.kraft = self.running = False

    def with_kraft(self) -> None:
        self.kraft = True

    def with_env(self, name: str, value: str) -> None:
        self.settings[name] = value

    def __enter__(self) -> None:
        self.running = True

    def __exit__(self, *_: object) -> None:
        self.running = False

    def get_bootstrap_server(self) -> str:
        return "container:9093"


def test_container_runs_for_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    container = FakeContainer()
    fake = ModuleType("testcontainers.community.kafka")
    fake.KafkaContainer = lambda: container  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(module, "docker_answers", lambda: True)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    with broker(Path("unused")) as servers:
        assert (servers, container.running, container.kraft) == ("container:9093", True, True)
    assert not container.running
    assert container.settings["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_without_testcontainers_there_is_no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert not docker_answers()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Docker engine would listen."""
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    return path


def test_nobody_at_the_engines_socket_is_no_docker(engine: Path) -> None:
    assert not docker_answers()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(engine))
    assert not docker_answers()


def test_engine_that_answers_is_docker(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = SimpleNamespace(client=SimpleNamespace(ping=lambda: True))
    monkeypatch.setattr("testcontainers.core.docker_client.DockerClient", lambda **_: client)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(engine))
        listening.listen()
        assert docker_answers()

"""What ``docker compose up`` would start fits together and fits our own command line."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace.cli.broker import CONTAINER_SETTINGS
from tailrace.cli.jars import KAFKA_VERSION
from tailrace.cli.main import parse

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "tailrace")
LONG_RUNNING = sorted(set(SERVICES) - {"topic"})
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")

SERVICE_KEYS = {
    "build",
    "command",
    "depends_on",
    "deploy",
    "environment",
    "healthcheck",
    "image",
    "init",
    "ports",
    "restart",
    "stop_grace_period",
    "volumes",
}
"""What we use of the Compose specification; a misspelt key is in neither."""


def test_there_is_nothing_that_compose_does_not_know() -> None:
    assert set(COMPOSE) == {"name", "services", "volumes", "x-tailrace"}
    assert {key for service in SERVICES.values() for key in service} <= SERVICE_KEYS


def test_all_parts_are_there() -> None:
    assert OURS == ["edge", "services", "topic"]
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert SERVICES["edge"]["deploy"] == {"replicas": 2}


@pytest.mark.parametrize("name", OURS)
def test_our_command_line_takes_the_command(name: str) -> None:
    words = SERVICES[name]["command"]
    assert all(isinstance(word, str) for word in words)
    assert parse(words).run


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_waited_for_exists_and_can_happen(name: str) -> None:
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert other not in LONG_RUNNING


@pytest.mark.parametrize("name", OURS)
def test_ours_wait_for_kafka(name: str) -> None:
    waited, queue = set(), [name]
    while queue:
        others = SERVICES[queue.pop()].get("depends_on", {})
        queue.extend(others)
        waited.update(others)
    assert "kafka" in waited


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_what_keeps_running_is_checked_and_may_end_in_peace(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert set(check) == {"test", "interval", "timeout", "retries"}
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 10


@pytest.mark.parametrize("name", ["edge", "services"])
def test_check_asks_the_port_that_is_listened_on_and_published(name: str) -> None:
    port = parse(SERVICES[name]["command"]).port
    asked = re.findall(
        r"127\.0\.0\.1:(\d+)/(?:readyz|healthz)", SERVICES[name]["healthcheck"]["test"][-1]
    )
    published = [entry.rpartition(":")[2] for entry in SERVICES[name]["ports"]]
    assert asked == published == [str(port)]


def test_everything_is_published_on_loopback_only_and_once() -> None:
    published = [entry for service in SERVICES.values() for entry in service.get("ports", [])]
    matches = [re.fullmatch(r"127\.0\.0\.1:(\d+)(?:-(\d+))?:\d+", entry) for entry in published]
    assert all(matches), published
    ports = [
        port
        for match in matches
        if match
        for port in range(int(match[1]), int(match[2] or match[1]) + 1)
    ]
    assert len(ports) == len(set(ports))


def test_each_edge_has_a_port_of_its_own() -> None:
    first, last = SERVICES["edge"]["ports"][0].split(":")[1].split("-")
    assert int(last) - int(first) + 1 == SERVICES["edge"]["deploy"]["replicas"]


def listeners(setting: str) -> dict[str, str]:
    entries = SERVICES["kafka"]["environment"][setting].split(",")
    return dict(entry.split("://") for entry in entries)


@pytest.mark.parametrize("name", OURS)
def test_ours_use_the_listener_that_kafka_advertises_to_containers(name: str) -> None:
    servers = SERVICES[name]["environment"]["KAFKA_BOOTSTRAP_SERVERS"]
    assert servers == listeners("KAFKA_ADVERTISED_LISTENERS")["INTERNAL"]
    assert servers.partition(":")[0] in SERVICES


def test_kafka_advertises_to_the_host_what_is_published() -> None:
    (published,) = SERVICES["kafka"]["ports"]
    assert published.rpartition(":")[0] == listeners("KAFKA_ADVERTISED_LISTENERS")["HOST"]


def test_kafka_listens_where_it_says() -> None:
    environment, listens = SERVICES["kafka"]["environment"], listeners("KAFKA_LISTENERS")
    for name, address in listeners("KAFKA_ADVERTISED_LISTENERS").items():
        assert address.endswith(listens[name])
    pairs = environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    assert {pair.split(":")[0] for pair in pairs} == set(listens)
    node, voter = environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].split("@")
    assert node == str(environment["KAFKA_NODE_ID"])
    assert voter == f"kafka{listens['CONTROLLER']}"


def test_kafka_is_set_up_as_the_one_that_tests_use() -> None:
    environment = SERVICES["kafka"]["environment"]
    ours = {name: str(environment.get(name)) for name in CONTAINER_SETTINGS}
    assert ours == CONTAINER_SETTINGS


def test_volumes_are_declared_and_used() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    for mount in mounts:
        if mount.startswith("."):
            assert (ROOT / mount.split(":")[0]).is_dir()


def test_state_is_kept_where_the_image_keeps_it() -> None:
    (state,) = re.findall(r"XDG_STATE_HOME=(\S+)", DOCKERFILE)
    assert f"services-state:{state}" in SERVICES["services"]["volumes"]


def test_image_is_built_from_the_lock_file_for_an_ordinary_user() -> None:
    instructions = DOCKERFILE.splitlines()
    assert any("--require-hashes -r requirements.lock" in line for line in instructions)
    assert "USER tailrace" in instructions
    assert instructions.index("USER tailrace") < instructions.index('ENTRYPOINT ["tailrace"]')


def test_everything_that_the_wheel_is_built_from_gets_into_the_image() -> None:
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    sources = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/tailrace/*/__init__.py")}
    assert sources | {"pyproject.toml", "README.md", "LICENSE", "requirements.lock"} <= kept
    assert all((ROOT / name).exists() for name in kept)

"""What the tests share: a real Kafka, a fresh topic, a real browser.

A part that is missing makes a test skip and say what to install. Where TAILRACE_REQUIRE names
the part (``kafka``, ``browser``, comma-separated) the test fails instead.
"""

import asyncio
import logging
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
import uvloop
from aiokafka.admin import AIOKafkaAdminClient
from log_twins import KafkaLog, Log, MemoryLog
from playwright.async_api import Browser, async_playwright

from tailrace.cli.broker import broker
from tailrace.cli.errors import MissingPartError
from tailrace.cli.jars import ensure_jars
from tailrace.cli.java import find_java
from tailrace.cli.local_kafka import LocalKafka
from tailrace.cli.ports import free_ports
from tailrace.cli.topics import Target, create_topic

_MARKER_OF_FIXTURE = {
    "kafka": "kafka",
    "kafka_log": "kafka",
    "own_kafka": "kafka",
    "local_kafka_parts": "kafka",
    "topic": "kafka",
    "chromium_path": "browser",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the parts that its fixtures need, so that ``-m`` can select."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for marker in {_MARKER_OF_FIXTURE[name] for name in fixtures if name in _MARKER_OF_FIXTURE}:
            item.add_marker(marker)


def missing(part: str, what_to_do: str) -> NoReturn:
    """End the test that needs ``part``: skipped, or failed where the part is required."""
    required = os.environ.get("TAILRACE_REQUIRE", "").replace(" ", "").split(",")
    if part in required:
        pytest.fail(f"TAILRACE_REQUIRE names {part}: {what_to_do}", pytrace=False)
    pytest.skip(what_to_do)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what a command that ran in a test has set, such as a stderr that is gone by now."""
    driver = logging.getLogger("aiokafka")
    handlers, propagate = list(driver.handlers), driver.propagate
    yield
    structlog.reset_defaults()
    driver.handlers, driver.propagate = handlers, propagate


@pytest.fixture(autouse=True)
def _spool_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test leaves undelivered from the next test, and from the user's own spool."""
    monkeypatch.setenv("TAILRACE_SPOOL_DIR", str(tmp_path / "spool"))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a real Kafka, shared by the whole session."""
    with ExitStack() as stack:
        try:
            servers = stack.enter_context(broker(tmp_path_factory.mktemp("kafka")))
        except MissingPartError as error:
            missing("kafka", str(error))
        yield servers


@pytest.fixture(scope="session")
def local_kafka_parts() -> None:
    """Java and Kafka's jars are here, for tests of the local Kafka itself."""
    try:
        find_java(ensure_jars())
    except MissingPartError as error:
        missing("kafka", str(error))


@pytest.fixture
def topic(kafka: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh topic with 4 partitions, or as many as ``parametrize(…, indirect=True)`` gives."""
    where = Target(kafka, f"tailrace-{uuid.uuid4().hex[:12]}")
    asyncio.run(create_topic(where, partitions=getattr(request, "param", 4)))
    yield where.topic
    asyncio.run(delete_topic(where))


@pytest.fixture
def command_defaults() -> Iterator[None]:
    """Undo how ``main`` sets up logging for its process."""
    yield
    structlog.reset_defaults()
    logging.getLogger("aiokafka").handlers.clear()


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The executable of a real Chromium."""
    for name in ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    missing("browser", "no Chromium on PATH: install it (Debian: apt install chromium)")


CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
async def browser(chromium_path: Path) -> AsyncIterator[Browser]:
    """A real Chromium of the test's own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_path, args=CHROMIUM_FLAGS
        )
        yield browser
        await browser.close()


async def delete_topic(where: Target) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=where.servers)
    await admin.start()
    try:
        await admin.delete_topics([where.topic])
    finally:
        await admin.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest) -> Log:
    """A topic of 4 partitions: the real thing and its twin in memory, one after the other."""
    if request.param == "memory":
        return MemoryLog()
    servers = request.getfixturevalue("kafka")
    return KafkaLog(Target(servers, request.getfixturevalue("topic")))


@pytest.fixture
def kafka_log(kafka: str, topic: str) -> KafkaLog:
    """A topic of 4 partitions in a real Kafka, for what only that can do."""
    return KafkaLog(Target(kafka, topic))


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A Kafka of the test's own, not started: it may be killed."""
    [port] = free_ports(1)
    kafka = LocalKafka(tmp_path, port=port)
    yield kafka
    kafka.down()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def breakable_log(request: pytest.FixtureRequest) -> Log:
    """As `log`, with a broker that may be killed."""
    if request.param == "memory":
        return MemoryLog()
    kafka: LocalKafka = request.getfixturevalue("own_kafka")
    try:
        where = Target(kafka.up(), "breakable")
    except MissingPartError as error:
        missing("kafka", str(error))
    asyncio.run(create_topic(where, partitions=4))
    return KafkaLog(where, kafka)


# --- the shells of the edge are tested on the loop that they run on ---------------------------

_ON_UVLOOP = {
    "test_direct",
    "test_handshakes",
    "test_connection",
    "test_consumer",
    "test_conversation",
    "test_driver",
    "test_edge_app",
    "test_listener",
    "test_longpoll",
    "test_node",
    "test_offsets",
    "test_pump",
    "test_replay",
    "test_road",
    "test_roster",
    "test_road_gaps",
    "test_road_resume",
    "test_road_topic",
    "test_scan",
    "test_sse",
    "test_topic_identity",
    "test_warm_up",
    "test_websocket",
}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.stem in _ON_UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}

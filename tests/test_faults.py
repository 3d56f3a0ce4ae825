"""What emitted events survive: brokers, processes and disks that fail, on a real Kafka.

What has arrived is read by a plain consumer that knows nothing of the emitter.
"""

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from kafka_reading import Read, read_topic
from structlog.testing import capture_logs

from tailrace.cli.errors import MissingPartError
from tailrace.cli.local_kafka import Brokers, LocalKafka
from tailrace.cli.topics import Target, create_topic
from tailrace.producers import Emitter, EmitterStats, ProducerSettings
from tailrace.producers.draft import DROPPED_TYPE

PROJECTS = 20
SMALL_DISK_BYTES = 256 << 10

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with _running(tmp_path_factory.mktemp("one"), 1) as made:
        yield made


@pytest.fixture
def own_kafka(own_broker: LocalKafka) -> LocalKafka:
    """A broker that the test may kill, and that runs when the test begins."""
    own_broker.up()
    return own_broker


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """Three brokers: each record on all of them, two of which must have it."""
    with _running(tmp_path_factory.mktemp("three"), 3) as made:
        yield made


@contextmanager
def _running(folder: Path, brokers: Brokers) -> Iterator[LocalKafka]:
    made = LocalKafka(folder, port=0, brokers=brokers)
    try:
        made.up()
    except MissingPartError as error:
        if "kafka" in os.environ.get("TAILRACE_REQUIRE", ""):
            raise
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.down()


async def _topic(kafka: LocalKafka) -> Target:
    where = Target(kafka.bootstrap_servers, f"faults-{uuid.uuid4().hex[:12]}")
    await create_topic(where, partitions=4)
    return where


def _settings(where: Target, **settings: Any) -> ProducerSettings:
    return ProducerSettings(bootstrap_servers=where.servers, topic=where.topic, **settings)


# Brokers that fail


async def test_events_emitted_before_there_is_a_broker_arrive(own_kafka: LocalKafka) -> None:
    where = await _topic(own_kafka)
    await asyncio.to_thread(own_kafka.kill, 1)
    with capture_logs() as lines:
        async with Emitter(_settings(where)) as emitter:
            _emit(emitter, 0, 200, projects=7)
            await asyncio.to_thread(own_kafka.start, 1)
            assert await asyncio.to_thread(emitter.flush, 60)
    assert [line["event"] for line in lines].count("kafka_unavailable") == 1
    _assert_whole(await read_topic(*where), 200, projects=7)


async def test_outage_longer_than_every_timeout_loses_and_reorders_nothing(
    own_kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half a second: batches are given up and sent again by new producers while it is away.
    monkeypatch.setattr("tailrace.producers.kafka._STALLED_TIMEOUTS", 1)

    async def outlast_a_batch(emitter: Emitter) -> None:
        await asyncio.to_thread(own_kafka.kill, 1)
        async with asyncio.timeout(60):
            while not emitter.stats().retries:  # noqa: ASYNC110 - it has no event for that
                await asyncio.sleep(0.01)
        await asyncio.to_thread(own_kafka.start, 1)

    where = await _topic(own_kafka)
    reads, count, stats = await _stream(where, outlast_a_batch, request_timeout_ms=500)
    assert stats.retries > 0
    _assert_rounds(reads, count)


async def test_lost_partition_leader_loses_and_reorders_nothing(cluster: LocalKafka) -> None:
    where = await _topic(cluster)
    leaders = await _leaders(where)

    async def lose_a_leader(_: Emitter) -> None:
        await asyncio.to_thread(cluster.kill, leaders[0])

    reads, count, _ = await _stream(where, lose_a_leader)
    assert set(await _leaders(where)) == {1, 2, 3} - {leaders[0]}
    _assert_rounds(reads, count)


async def _leaders(where: Target) -> list[int]:
    """Return the leader of each partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=where.servers.split(","))
    await admin.start()
    try:
        (described,) = await admin.describe_topics([where.topic])
    finally:
        await admin.close()
    return [each["leader"] for each in sorted(described["partitions"], key=_number)]


def _number(partition: dict[str, int]) -> int:
    return partition["partition"]


async def _stream(
    where: Target, disrupt: Callable[[Emitter], Awaitable[None]], **settings: Any
) -> tuple[list[Read], int, EmitterStats]:
    """Emit to 20 projects all the while; return what arrived, rounds emitted, and the counts."""
    stop, rounds = threading.Event(), 0
    async with Emitter(_settings(where, **settings)) as emitter:

        def emit_round() -> None:
            nonlocal rounds
            for project in range(PROJECTS):
                payload = {"run_id": "r", "n": rounds}
                emitter.emit("workflow", f"p{project}", "workflow.node.started", payload)
            rounds += 1

        def stream() -> None:
            while not stop.wait(0.002):
                emit_round()

        emit_round()
        thread = threading.Thread(target=stream)
        thread.start()
        try:
            assert await asyncio.to_thread(emitter.flush, 60)
            await disrupt(emitter)
            assert await asyncio.to_thread(emitter.flush, 60)
        finally:
            stop.set()
            thread.join()
        assert await asyncio.to_thread(emitter.flush, 60)
        stats = emitter.stats()
    assert (stats.dropped, stats.refused, stats.conflated) == (0, 0, 0)
    return await read_topic(*where), rounds, stats


async def test_broker_killed_under_eight_threads_loses_repeats_and_reorders_nothing(
    own_kafka: LocalKafka,
) -> None:
    where, each, emitted = await _topic(own_kafka), 6250, threading.Semaphore(0)
    async with Emitter(_settings(where)) as emitter:

        def work(thread: int) -> None:
            for n in range(each):
                payload = {"run_id": f"run{thread}", "n": n}
                emitter.emit("workflow", f"p{n % 5}", "workflow.node.started", payload)
                if n % 1000 == 0:
                    emitted.release()
                    killed.wait(60)

        killed = threading.Event()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(8):
            await asyncio.to_thread(emitted.acquire)
        await asyncio.to_thread(own_kafka.kill, 1)
        killed.set()
        await asyncio.to_thread(own_kafka.start, 1)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await asyncio.to_thread(emitter.flush, 60)
        assert emitter.stats().dropped == 0
    runs: defaultdict[tuple[bytes, str | None], list[Read]] = defaultdict(list)
    for read in await read_topic(*where):
        runs[read.key, read.event.run_id].append(read)
    assert len(runs) == 40
    for (project, _), reads in runs.items():
        first = int(project[1:])
        assert [_n(read) for read in reads] == list(range(first, each, 5))
        assert [read.event.seq for read in reads] == list(range(1, each // 5 + 1))


async def test_facts_beyond_the_buffer_survive_an_outage_in_order(own_kafka: LocalKafka) -> None:
    where = await _topic(own_kafka)
    async with Emitter(_settings(where, buffer_max_events=50)) as emitter:
        _emit(emitter, 0, 40, projects=7)
        assert await asyncio.to_thread(emitter.flush, 60)
        await asyncio.to_thread(own_kafka.kill, 1)
        await asyncio.to_thread(_emit, emitter, 40, 10_000, projects=7)
        assert emitter.stats().spooled > 0
        await asyncio.to_thread(own_kafka.start, 1)
        await asyncio.to_thread(_emit, emitter, 10_000, 11_000, projects=7)
        assert await asyncio.to_thread(emitter.flush, 60)
        stats = emitter.stats()
    assert (stats.dropped, stats.spooled_bytes, stats.spooled) == (0, 0, stats.replayed)
    _assert_whole(await read_topic(*where), 11_000, projects=7)


# Processes that fail

_EMIT = """
import sys
from tailrace.producers import emit_workflow_event, stats
n, last, spooled = map(int, sys.argv[1:])
while n < last or stats().spooled < spooled:
    emit_workflow_event(f"p{n % 3}", "workflow.node.started", {"run_id": "r", "n": n})
    n += 1
print("emitted", flush=True)
sys.stdin.read()
"""


def _emitting(where: Target, first: int, last: int, spooled: int = 0) -> subprocess.Popen[bytes]:
    """Start a process that emits up to `last`, or until so many are spooled, and waits."""
    return subprocess.Popen(
        [sys.executable, "-c", _EMIT, str(first), str(last), str(spooled)],
        env={
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": where.servers,
            "TAILRACE_TOPIC": where.topic,
            "TAILRACE_BUFFER_MAX_EVENTS": "20",
            "TAILRACE_EXIT_MS": "60000",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


async def test_process_without_a_broker_leaves_its_events_to_the_next(
    own_kafka: LocalKafka,
) -> None:
    where = await _topic(own_kafka)
    await asyncio.to_thread(own_kafka.kill, 1)
    for first, last in [(0, 300), (300, 330)]:
        with _emitting(where, first, last) as process:
            await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
        await asyncio.to_thread(own_kafka.up)
    reads = await read_topic(*where)
    assert _numbers(reads) == {f"p{n}": list(range(n, 330, 3)) for n in range(3)}
    by_source: defaultdict[tuple[str, bytes], list[int]] = defaultdict(list)
    for read in reads:
        by_source[read.event.source, read.key].append(read.event.seq)
    assert sorted(by_source.values()) == [list(range(1, 11))] * 3 + [list(range(1, 101))] * 3


async def test_killed_process_loses_nothing_that_was_spooled(own_kafka: LocalKafka) -> None:
    where = await _topic(own_kafka)
    await asyncio.to_thread(own_kafka.kill, 1)
    with _emitting(where, 0, 1, spooled=300) as process:
        assert process.stdout is not None
        while await asyncio.to_thread(process.stdout.readline) != b"emitted\n":
            pass  # A line of the log.
        process.kill()
    await asyncio.to_thread(own_kafka.start, 1)
    async with Emitter(_settings(where)) as emitter:
        emitter.emit("workflow", "p0", "workflow.node.started", {"n": 999})
        assert await asyncio.to_thread(emitter.flush, 60)
        replayed = emitter.stats().replayed
    assert replayed >= 300
    found = _numbers(await read_topic(*where))
    assert found["p0"].pop() == 999
    assert found == {f"p{n}": list(range(n, replayed, 3)) for n in range(3)}


# Disks that fail


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes 256 KiB: a file system of that size, else files of at most that size."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount") or "mount"
    options = ["-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run([mount, *options], check=False, capture_output=True).returncode
    except OSError:
        mounted = 1
    if mounted == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_DISK_BYTES, limits[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_full_disk_costs_only_what_neither_it_nor_memory_holds_and_says_so(
    own_kafka: LocalKafka, small_disk: Path
) -> None:
    where, count = await _topic(own_kafka), 5000
    await asyncio.to_thread(own_kafka.kill, 1)
    with capture_logs() as lines:
        async with Emitter(
            _settings(where, buffer_max_events=100, spool_dir=small_disk)
        ) as emitter:
            await asyncio.to_thread(_emit, emitter, 0, count, projects=1)
            stats = emitter.stats()
            await asyncio.to_thread(own_kafka.start, 1)
            assert await asyncio.to_thread(emitter.flush, 60)
            await asyncio.to_thread(_emit, emitter, count, count + 10, projects=1)
    logged = {line["event"] for line in lines}
    assert {"spool_not_writable", "events_dropping", "events_dropped"} <= logged
    reads = await read_topic(*where)
    told = [read for read in reads if read.event.type == DROPPED_TYPE]
    facts = [read for read in reads if read.event.type != DROPPED_TYPE]
    kept = len(facts) - 110
    assert (stats.spooled, stats.dropped) == (kept, count - 100 - kept)
    assert kept > 100
    assert stats.dropped > 1000
    numbers = [_n(read) for read in facts]
    assert numbers == sorted(set(numbers))
    assert numbers[-110:] == list(range(count - 100, count + 10))
    assert [read.event.seq for read in facts] == list(range(1, len(facts) + 1))
    assert [read.event.kind for read in told] == ["custom"]
    assert orjson.loads(told[0].event.data) == {
        "dropped": {"workflow.node.started": stats.dropped},
        "total": stats.dropped,
    }


# What was emitted, and what has arrived


def _emit(emitter: Emitter, first: int, last: int, *, projects: int) -> None:
    for n in range(first, last):
        payload = {"run_id": "r", "n": n}
        emitter.emit("workflow", f"p{n % projects}", "workflow.node.started", payload)


def _assert_whole(reads: list[Read], count: int, *, projects: int) -> None:
    """All of `_emit` has arrived, in order and densely numbered."""
    first = _first_copies(reads)
    assert _numbers(first) == {f"p{n}": list(range(n, count, projects)) for n in range(projects)}
    _assert_dense(first)


def _assert_rounds(reads: list[Read], rounds: int) -> None:
    """All of `_stream` has arrived; what came twice has the event id of its first copy."""
    first = _first_copies(reads)
    assert len(first) == PROJECTS * rounds
    assert _numbers(first) == {f"p{n}": list(range(rounds)) for n in range(PROJECTS)}
    _assert_dense(first)
    by_id = {read.event.event_id: read.value for read in first}
    assert all(read.value == by_id[read.event.event_id] for read in reads)


def _assert_dense(reads: list[Read]) -> None:
    for events in _by_project(reads).values():
        assert [read.event.seq for read in events] == list(range(1, len(events) + 1))


def _first_copies(reads: list[Read]) -> list[Read]:
    first: dict[str, Read] = {}
    for read in reads:
        first.setdefault(read.event.event_id, read)
    return list(first.values())


def _by_project(reads: list[Read]) -> dict[str, list[Read]]:
    found: defaultdict[str, list[Read]] = defaultdict(list)
    for read in reads:
        found[read.key.decode()].append(read)
    return dict(found)


def _numbers(reads: list[Read]) -> dict[str, list[int]]:
    return {project: list(map(_n, found)) for project, found in _by_project(reads).items()}


def _n(read: Read) -> int:
    number = orjson.loads(read.event.data)["n"]
    assert isinstance(number, int)
    return number

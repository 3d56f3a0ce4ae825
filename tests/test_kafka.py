"""The aiokafka shell against a real Kafka, one that is killed included."""

import asyncio
import os
import random
import ssl
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st
from kafka_reading import Read, read_topic
from strategies import PROPERTY
from structlog.testing import capture_logs

from tailrace.cli.errors import MissingPartError
from tailrace.cli.local_kafka import LocalKafka
from tailrace.cli.topics import Target, create_topic
from tailrace.producers import Emitter, ProducerSettings
from tailrace.producers.kafka import KafkaProducer, TopicMissingError, partition_of
from tailrace.producers.lanes import Outgoing
from tailrace.schemas import IngestJob


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A broker that the test may kill."""
    made = LocalKafka(tmp_path, port=0)
    try:
        made.up()
    except MissingPartError as error:
        pytest.skip(str(error))
    yield made
    made.down()


def record(ticket: int, size: int = 10) -> Outgoing:
    return Outgoing(ticket, b"p", b"x" * size, [("ce_id", b"%d" % ticket)], 1_700_000_000_000)


@PROPERTY
@given(st.binary(min_size=1, max_size=40), st.integers(1, 64))
def test_partition_is_the_one_of_the_drivers_own_partitioner(key: bytes, count: int) -> None:
    every = list(range(count))
    assert partition_of(key, count) == DefaultPartitioner()(key, every, every)


async def test_batch_is_written_compressed_with_keys_headers_and_time(
    kafka: str, topic: str
) -> None:
    async with Emitter(ProducerSettings(bootstrap_servers=kafka, topic=topic)) as emitter:
        emitter.emit("ingest", "p", "ingest.job.updated", IngestJob(id="j", status="RUNNING"))
    (read,) = await read_topic(kafka, topic)
    assert read.partition == partition_of(b"p", 4)
    assert read.key == b"p"
    assert read.timestamp_ms == read.event.occurred_at // 1000
    assert read.headers == {
        "content-type": b"application/avro",
        "ce_specversion": b"1.0",
        "ce_id": read.event.event_id.encode(),
        "ce_source": emitter.source.encode(),
        "ce_type": b"ingest.job.updated",
        "ce_subject": b"ingest/j",
        "ce_coalescekey": b"j|RUNNING|",
    }


async def test_producer_counts_what_fits_into_a_batch(kafka: str, topic: str) -> None:
    producer = KafkaProducer(ProducerSettings(bootstrap_servers=kafka, topic=topic))
    try:
        assert await producer.start() == await producer.partitions() == 4
        assert await producer.send(0, [record(n) for n in range(5)]) == 5
        assert await producer.send(0, [record(n, 100_000) for n in range(5)]) == 2
        assert await producer.send(0, [record(0, 600_000), record(1)]) == 1
    finally:
        await producer.stop()


async def test_absent_broker_and_missing_topic_are_told_apart(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = KafkaProducer(ProducerSettings(bootstrap_servers="127.0.0.1:1"))
    with pytest.raises(KafkaConnectionError):
        await nobody.start()
    await nobody.stop()
    monkeypatch.setattr("tailrace.producers.kafka._METADATA_SECONDS", 0.5)
    lost = KafkaProducer(ProducerSettings(bootstrap_servers=kafka, topic="no.such.topic"))
    with pytest.raises(TopicMissingError, match="tailrace topics create"):
        await lost.start()
    await lost.stop()


async def test_events_wait_for_the_topic(kafka: str, topic: str) -> None:
    later = f"{topic}-later"
    settings = ProducerSettings(bootstrap_servers=kafka, topic=later)
    async with Emitter(settings) as emitter:
        for n in range(10):
            emitter.emit("workflow", "p", "workflow.node.started", {"n": n})
        await create_topic(Target(kafka, later), partitions=1)
        assert await asyncio.to_thread(emitter.flush, 60)
    assert [r.event.seq for r in await read_topic(kafka, later)] == list(range(1, 11))


async def test_topic_that_takes_little_gets_small_batches_and_reduced_events(
    kafka: str, topic: str
) -> None:
    small = f"{topic}-small"
    await _create_small(kafka, small)
    async with Emitter(ProducerSettings(bootstrap_servers=kafka, topic=small)) as emitter:
        for n in range(60):
            text = _incompressible(40_000 if n == 30 else 1000, seed=n)
            payload = {"id": "j", "n": n, "text": text}
            emitter.emit("ingest", "p", "ingest.job.updated", payload)
        assert await asyncio.to_thread(emitter.flush, 60)
        stats = emitter.stats()
    bodies = [orjson.loads(r.event.data)["job"] for r in await read_topic(kafka, small)]
    assert [body.get("n") for body in bodies] == [n if n != 30 else None for n in range(60)]
    assert bodies[30] == {"id": "j", "_omitted": "too_large"}
    assert (stats.reduced, stats.dropped) == (1, 0)


async def _create_small(servers: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        configs = {"max.message.bytes": "20000"}
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs)])
    finally:
        await admin.close()


def _incompressible(size: int, *, seed: int) -> str:
    return random.Random(seed).randbytes(size // 2).hex()


async def test_events_emitted_before_there_is_a_broker_arrive(own_kafka: LocalKafka) -> None:
    servers = own_kafka.bootstrap_servers
    await create_topic(Target(servers, "t"), partitions=4)
    await asyncio.to_thread(own_kafka.kill, 1)
    with capture_logs() as lines:
        async with Emitter(ProducerSettings(bootstrap_servers=servers, topic="t")) as emitter:
            for n in range(200):
                emitter.emit("workflow", f"p{n % 7}", "workflow.node.started", {"n": n})
            await asyncio.to_thread(own_kafka.start, 1)
            assert await asyncio.to_thread(emitter.flush, 60)
    assert [line["event"] for line in lines].count("kafka_unavailable") == 1
    for project, numbers in _numbers(await read_topic(servers, "t")).items():
        assert numbers == list(range(int(project[1:]), 200, 7))


async def test_broker_killed_in_the_stream_loses_repeats_and_reorders_nothing(
    own_kafka: LocalKafka,
) -> None:
    reads, count, _ = await _stream_over_kills(own_kafka)
    found = _numbers(reads)
    assert found == {f"p{n}": list(range(count)) for n in range(20)}


async def test_outage_longer_than_every_timeout_loses_and_reorders_nothing(
    own_kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half a second: batches are given up and sent again by new producers while it is away.
    monkeypatch.setattr("tailrace.producers.kafka._STALLED_TIMEOUTS", 1)
    reads, count, retries = await _stream_over_kills(own_kafka, request_timeout_ms=500)
    assert retries > 0
    assert len({r.event.event_id for r in reads}) == 20 * count
    first = _numbers(_first_copies(reads))
    assert first == {f"p{n}": list(range(count)) for n in range(20)}


async def _stream_over_kills(kafka: LocalKafka, **settings: Any) -> tuple[list[Read], int, int]:
    """Emit to 20 projects all the while; return what was written, rounds emitted, and retries."""
    servers = kafka.bootstrap_servers
    await create_topic(Target(servers, "t"), partitions=4)
    stop, rounds = threading.Event(), 0
    made = ProducerSettings(bootstrap_servers=servers, topic="t", **settings)
    async with Emitter(made) as emitter:

        def stream() -> None:
            nonlocal rounds
            while not stop.wait(0.002):
                for project in range(20):
                    payload = {"run_id": "r", "n": rounds}
                    emitter.emit("workflow", f"p{project}", "workflow.node.started", payload)
                rounds += 1

        thread = threading.Thread(target=stream)
        thread.start()
        try:
            for _ in range(2):
                assert await asyncio.to_thread(emitter.flush, 60)
                await asyncio.to_thread(kafka.kill, 1)
                await asyncio.to_thread(kafka.start, 1)
            assert await asyncio.to_thread(emitter.flush, 60)
        finally:
            stop.set()
            thread.join()
        assert await asyncio.to_thread(emitter.flush, 60)
        stats = emitter.stats()
    assert (stats.dropped, stats.refused) == (0, 0)
    reads = await read_topic(servers, "t")
    for events in _by_project(_first_copies(reads)).values():
        assert [r.event.seq for r in events] == list(range(1, len(events) + 1))
    return reads, rounds, stats.retries


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
    return {
        project: [orjson.loads(r.event.data)["n"] for r in found]
        for project, found in _by_project(reads).items()
    }


class StuckDriver:
    """Acknowledges nothing and does not stop by itself, as aiokafka without a broker."""

    def __init__(self, **_settings: object) -> None:
        self.client = self
        self.closed = False
        self.task: asyncio.Task[bool] | None = None

    async def stop(self) -> None:
        self.task = asyncio.create_task(asyncio.Event().wait())
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


def test_driver_that_does_not_stop_is_abandoned_with_its_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tailrace.producers.kafka._STOP_SECONDS", 0.01)
    drivers: list[StuckDriver] = []

    def driver(**settings: object) -> StuckDriver:
        drivers.append(StuckDriver(**settings))
        return drivers[0]

    async def main() -> None:
        await KafkaProducer(ProducerSettings(), driver=driver).stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    (made,) = drivers
    assert made.closed
    assert made.task is not None
    assert made.task.cancelled()


class DeafDriver(StuckDriver):
    def create_batch(self) -> Any:
        return self

    def append(self, **_record: object) -> bool:
        return True

    async def send_batch(self, *_args: object, **_partition: object) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()


async def test_batch_without_an_answer_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.producers.kafka._STALLED_TIMEOUTS", 0.001)
    producer = KafkaProducer(ProducerSettings(), driver=DeafDriver)
    with pytest.raises(KafkaError, match="no answer"):
        await producer.send(0, [record(1)])


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


def _emitting(
    servers: str, topic: str, first: int, last: int, spooled: int = 0
) -> subprocess.Popen[bytes]:
    """Start a process that emits up to `last`, or until so many are spooled, and waits."""
    return subprocess.Popen(
        [sys.executable, "-c", _EMIT, str(first), str(last), str(spooled)],
        env={
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": servers,
            "TAILRACE_TOPIC": topic,
            "TAILRACE_BUFFER_MAX_EVENTS": "20",
            "TAILRACE_EXIT_MS": "60000",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


async def test_process_without_a_broker_leaves_its_events_to_the_next(
    kafka: str, topic: str
) -> None:
    for servers, first, last in [("127.0.0.1:1", 0, 300), (kafka, 300, 330)]:
        with _emitting(servers, topic, first, last) as process:
            await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
    reads = await read_topic(kafka, topic)
    assert _numbers(reads) == {f"p{n}": list(range(n, 330, 3)) for n in range(3)}
    by_source: defaultdict[tuple[str, bytes], list[int]] = defaultdict(list)
    for read in reads:
        by_source[read.event.source, read.key].append(read.event.seq)
    assert sorted(by_source.values()) == [list(range(1, 11))] * 3 + [list(range(1, 101))] * 3


async def test_killed_process_loses_nothing_that_was_spooled(kafka: str, topic: str) -> None:
    with _emitting("127.0.0.1:1", topic, 0, 1, spooled=300) as process:
        assert process.stdout is not None
        while await asyncio.to_thread(process.stdout.readline) != b"emitted\n":
            pass  # A line of the log.
        process.kill()
    async with Emitter(ProducerSettings(bootstrap_servers=kafka, topic=topic)) as emitter:
        emitter.emit("workflow", "p0", "workflow.node.started", {"n": 999})
        assert await asyncio.to_thread(emitter.flush, 60)
        replayed = emitter.stats().replayed
    assert replayed >= 300
    found = _numbers(await read_topic(kafka, topic))
    assert found["p0"].pop() == 999
    assert found == {f"p{n}": list(range(n, replayed, 3)) for n in range(3)}


async def test_facts_beyond_the_buffer_survive_an_outage_in_order(own_kafka: LocalKafka) -> None:
    servers = own_kafka.bootstrap_servers
    await create_topic(Target(servers, "t"), partitions=4)
    settings = ProducerSettings(bootstrap_servers=servers, topic="t", buffer_max_events=50)
    async with Emitter(settings) as emitter:

        def emit(first: int, last: int) -> None:
            for n in range(first, last):
                payload = {"run_id": "r", "n": n}
                emitter.emit("workflow", f"p{n % 7}", "workflow.node.started", payload)

        emit(0, 40)
        assert await asyncio.to_thread(emitter.flush, 60)
        await asyncio.to_thread(own_kafka.kill, 1)
        await asyncio.to_thread(emit, 40, 30_000)
        assert emitter.stats().spooled > 0
        await asyncio.to_thread(own_kafka.start, 1)
        await asyncio.to_thread(emit, 30_000, 31_000)
        assert await asyncio.to_thread(emitter.flush, 60)
        stats = emitter.stats()
    assert (stats.dropped, stats.spooled_bytes, stats.spooled) == (0, 0, stats.replayed)
    reads = _first_copies(await read_topic(servers, "t"))
    assert _numbers(reads) == {f"p{n}": list(range(n, 31_000, 7)) for n in range(7)}
    for events in _by_project(reads).values():
        assert [r.event.seq for r in events] == list(range(1, len(events) + 1))


def test_security_settings_reach_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "user")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "word")
    given: dict[str, Any] = {}
    KafkaProducer(ProducerSettings(), driver=lambda **settings: given.update(settings))
    assert given["security_protocol"] == "SASL_SSL"
    assert given["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert {k: v for k, v in given.items() if k.startswith("sasl")} == {
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "user",
        "sasl_plain_password": "word",
    }

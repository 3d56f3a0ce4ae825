"""The aiokafka shell against a real Kafka; `test_faults` has what happens when that fails."""

import asyncio
import random
import ssl
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st
from kafka_reading import read_topic
from strategies import PROPERTY

from tailrace.cli.topics import Target, create_topic
from tailrace.producers import Emitter, ProducerSettings
from tailrace.producers.kafka import KafkaProducer, TopicMissingError, partition_of
from tailrace.producers.lanes import Outgoing
from tailrace.schemas import IngestJob


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


async def test_oauthbearer_token_is_read_anew_for_each_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "OAUTHBEARER")
    monkeypatch.setenv("KAFKA_SASL_TOKEN_FILE", str(file))
    given: dict[str, Any] = {}

    def driver(**settings: Any) -> AIOKafkaProducer:
        given.update(settings)
        return AIOKafkaProducer(**settings)

    await KafkaProducer(ProducerSettings(), driver=driver).stop()
    assert given["sasl_mechanism"] == "OAUTHBEARER"
    provider = given["sasl_oauth_token_provider"]
    with pytest.raises(KafkaError, match="token: No such file"):
        await provider.token()
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        assert await provider.token() == token


def test_own_certificate_reaches_the_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in (("CERTFILE", "cert"), ("KEYFILE", "key"), ("CAFILE", "ca")):
        monkeypatch.setenv(f"KAFKA_SSL_{name}", str(tmp_path / text))
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")
    files: dict[str, str] = {}

    def context(**given: str) -> object:
        files.update(given)
        return files

    monkeypatch.setattr("tailrace.producers.kafka.create_ssl_context", context)
    given: dict[str, Any] = {}
    KafkaProducer(ProducerSettings(), driver=lambda **settings: given.update(settings))
    assert given["security_protocol"] == "SSL"
    assert given["ssl_context"] is files
    assert {name: Path(path).name for name, path in files.items()} == {
        "cafile": "ca",
        "certfile": "cert",
        "keyfile": "key",
    }

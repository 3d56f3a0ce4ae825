"""The topic is created once, fit for the largest event."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tailrace.cli.errors import BrokerUnreachableError, TopicError
from tailrace.cli.ports import free_ports
from tailrace.cli.topics import (
    DEFAULT_PARTITIONS,
    Target,
    TopicOutcome,
    create_topic,
    default_replication,
    target,
    topic_configs,
)

LARGEST_EVENT = 900_000


@pytest.mark.parametrize(("brokers", "copies"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_three_copies_or_as_many_as_brokers(brokers: int, copies: int) -> None:
    assert default_replication(brokers) == copies


@pytest.mark.parametrize(("replication", "in_sync"), [(1, None), (2, None), (3, "2"), (5, "2")])
def test_two_of_three_copies_must_be_written(replication: int, in_sync: str | None) -> None:
    assert topic_configs(replication).get("min.insync.replicas") == in_sync


def test_largest_event_fits_with_headers() -> None:
    assert int(topic_configs(1)["max.message.bytes"]) > LARGEST_EVENT + 100_000


def test_target_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("TAILRACE_TOPIC", "events")
    assert target() == Target("a:1,b:2", "events")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "")
    monkeypatch.delenv("TAILRACE_TOPIC")
    assert target() == Target("127.0.0.1:9092", "tailrace.events")


async def settings_of(servers: str, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        (answer,) = await admin.describe_configs([resource])
    finally:
        await admin.close()
    return {name: value for name, value, *_ in answer.resources[0][4]}


async def test_existing_topic_is_left_as_it_is(kafka: str, topic: str) -> None:
    where = Target(kafka, topic)
    assert await create_topic(where, partitions=9) == TopicOutcome(topic, 4, created=False)
    assert await create_topic(where, partitions=4) == TopicOutcome(topic, 4, created=False)


@pytest.mark.parametrize("topic", [DEFAULT_PARTITIONS], indirect=True)
async def test_topic_has_the_partitions_and_settings_asked_for(kafka: str, topic: str) -> None:
    assert (await create_topic(Target(kafka, topic))).partitions == DEFAULT_PARTITIONS
    settings = await settings_of(kafka, topic)
    assert topic_configs(1).items() <= settings.items()
    assert settings["retention.ms"] == str(7 * 24 * 3600 * 1000)


@pytest.mark.parametrize("topic", [1], indirect=True)
async def test_largest_event_arrives_whole(kafka: str, topic: str) -> None:
    value, headers = bytes(LARGEST_EVENT), [("ce_source", b"x" * 10_000)]
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        await producer.send_and_wait(topic, value, key=b"project", headers=headers)
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        record = await consumer.getone()
    assert (record.value, list(record.headers)) == (value, headers)


@pytest.mark.parametrize(
    ("name", "replication", "reason"),
    [("tailrace-x", 99, "replication"), ("not a name", None, "invalid")],
)
async def test_refused_topic_tells_the_brokers_reason(
    kafka: str, name: str, replication: int | None, reason: str
) -> None:
    with pytest.raises(TopicError, match=f"^Topic {name} was not created: .*{reason}"):
        await create_topic(Target(kafka, name), replication=replication)


async def test_many_at_once_create_one(kafka: str, topic: str) -> None:
    where = Target(kafka, f"{topic}-twin")
    outcomes = await asyncio.gather(*(create_topic(where, partitions=2) for _ in range(3)))
    assert sorted(outcome.created for outcome in outcomes) == [False, False, True]
    assert {outcome.partitions for outcome in outcomes} == {2}


async def test_no_broker_is_one_line() -> None:
    (port,) = free_ports(1)
    with pytest.raises(BrokerUnreachableError, match=f"127.0.0.1:{port}"):
        await create_topic(Target(f"127.0.0.1:{port}", "any"))

import asyncio

import pytest
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.protocol.metadata import MetadataRequest_v5, MetadataResponse_v5
from conftest import delete_topic
from edge_harness import until
from structlog.testing import capture_logs

from tailrace.cli.ports import free_ports
from tailrace.cli.topics import Target, create_topic
from tailrace.edge import topic_identity
from tailrace.edge.topic_identity import Topic, TopicChangedError, TopicIdentity


async def test_topic_is_known_by_id_and_partitions(kafka: str, topic: str) -> None:
    async with TopicIdentity(bootstrap_servers=kafka, topic=topic) as identity:
        found = await identity.ask()

        assert found is not None
        assert found.partitions == 4
        assert 0 < found.topic_id < 1 << 32
        assert await identity.ask() == found


async def test_topic_created_again_has_another_id(kafka: str, topic: str) -> None:
    where = Target(kafka, topic)
    async with TopicIdentity(bootstrap_servers=kafka, topic=topic) as identity:
        before = await identity.ask()
        await delete_topic(where)
        after = before

        async def gone() -> bool:
            return await identity.ask() is None

        async def there() -> bool:
            nonlocal after
            after = await identity.ask()
            return after is not None

        await until(gone)  # a broker hears of it after the controller
        await create_topic(where, partitions=4)
        await until(there)

    assert before is not None
    assert after is not None
    assert before.topic_id != after.topic_id


async def test_asking_creates_no_topic(kafka: str) -> None:
    async with TopicIdentity(bootstrap_servers=kafka, topic="never-created") as identity:
        assert await identity.ask() is None
        assert await identity.ask() is None


async def test_two_at_once_each_get_their_answer(kafka: str, topic: str) -> None:
    async with TopicIdentity(bootstrap_servers=kafka, topic=topic) as identity:
        first, second = await asyncio.gather(identity.ask(), identity.ask())

    assert first == second


async def test_broker_that_is_not_there_is_an_error_of_the_driver() -> None:
    [port] = free_ports(1)
    async with TopicIdentity(bootstrap_servers=f"127.0.0.1:{port}", topic="t") as identity:
        with pytest.raises(KafkaError):
            await identity.ask()


def test_request_is_version_10_where_the_broker_knows_it() -> None:
    request = topic_identity._TopicRequest("top").prepare({3: (0, 13)})

    expected = b"\x02" + bytes(16) + b"\x04top\x00" + b"\x00\x00\x00" + b"\x00"
    assert (request.API_VERSION, request.FLEXIBLE_VERSION) == (10, True)
    assert request.encode() == expected


def test_request_to_an_old_broker_creates_no_topic_either() -> None:
    request = topic_identity._TopicRequest("top").prepare({3: (0, 9)})

    assert isinstance(request, MetadataRequest_v5)
    assert request.to_object() == {"topics": ["top"], "allow_auto_topic_creation": False}


def _old_answer(error: int) -> MetadataResponse_v5:
    partitions: list[tuple[object, ...]] = [(0, n, 1, [1], [1], []) for n in range(3)]
    return MetadataResponse_v5(0, [], "c", 1, [(error, "top", False, partitions)])


class _OldBroker:
    """A client whose broker speaks version 5."""

    async def bootstrap(self) -> None:
        pass

    def get_random_node(self) -> int:
        return 1

    async def send(self, node: int, request: object) -> MetadataResponse_v5:  # noqa: ARG002
        return _old_answer(0)

    async def close(self) -> None:
        pass


async def test_topic_of_an_old_broker_has_no_id_and_that_is_said_once() -> None:
    identity = TopicIdentity(bootstrap_servers="127.0.0.1:1", topic="top")
    await identity._client.close()
    identity._client = _OldBroker()
    with capture_logs() as lines:
        async with identity:
            assert await identity.ask() == Topic(0, 3)
            assert await identity.ask() == Topic(0, 3)

    [line] = lines
    assert line["log_level"] == "warning"
    assert "no topic ids" in line["event"]


def test_topic_that_is_not_there_is_none_and_a_refusal_is_an_error() -> None:
    assert topic_identity._topic_of(_old_answer(3)) is None
    with pytest.raises(TopicAuthorizationFailedError):
        topic_identity._topic_of(_old_answer(29))


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (Topic(7, 8), "repartitioned"),
        (Topic(8, 4), "reset"),
        (Topic(8, 8), "reset"),
        (Topic(7, 4), "reset"),
    ],
)
def test_reason_of_a_change(after: Topic, reason: str) -> None:
    error = TopicChangedError(Topic(7, 4), after)

    assert (error.before, error.after, error.reason) == (Topic(7, 4), after, reason)


def test_given_reason_of_a_change_counts() -> None:
    error = TopicChangedError(Topic(7, 4), Topic(7, 4), "retention")

    assert error.reason == "retention"
    assert "retention" in str(error)

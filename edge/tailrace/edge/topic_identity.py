"""Which topic it is: asks Kafka for the id (KIP-516) and the partition count behind a name.

The driver's own Metadata requests end at version 5; topic ids came with version 10, which is
written down here (Kafka's ``MetadataRequest.json`` and ``MetadataResponse.json``).
"""

import asyncio
from io import BytesIO
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import structlog
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    NoError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5, MetadataResponse_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from tailrace.edge.driver import client
from tailrace.schemas import TailraceError

__all__ = ["Topic", "TopicChangedError", "TopicIdentity"]

_log = structlog.get_logger(__name__)
_TIMEOUT_MS = 2000
_NO_ID = bytes(16)


class Topic(NamedTuple):
    """The identity of a log."""

    topic_id: int
    """First four bytes of the topic's id, unsigned: another one for a topic deleted and created
    again under its name. 0: the broker is too old to tell."""
    partitions: int


Reason = Literal["reset", "repartitioned", "retention"]


class TopicChangedError(TailraceError):
    """The log is no longer the one that was being read: start over, with everything read anew.

    Args:
        before: As of entering the consumer.
        after: As of now.
        reason: Where the two do not tell: ``retention``, when records that were still to be read
            are gone.
    """

    def __init__(self, before: Topic, after: Topic, reason: Reason | None = None) -> None:
        self.before = before
        self.after = after
        self.reason: Reason = reason or _reason(before, after)
        """``repartitioned``: the same topic with other partitions; ``retention``; ``reset``: all
        else, as another topic of that name."""
        super().__init__(f"the topic has changed ({self.reason}): {before} was, {after} is")


def _reason(before: Topic, after: Topic) -> Reason:
    same = before.topic_id == after.topic_id and before.partitions != after.partitions
    return "repartitioned" if same else "reset"


class _Uuid(AbstractType[bytes]):  # type: ignore[misc] # the driver has no types
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _MetadataResponse_v10(Response):  # type: ignore[misc] # noqa: N801 -- as the driver names them
    API_KEY = 3
    API_VERSION = 10
    SCHEMA: ClassVar = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest_v10(RequestStruct):  # type: ignore[misc] # noqa: N801 -- as the driver names them
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse_v10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicRequest(Request[MetadataRequest_v5 | _MetadataRequest_v10]):  # type: ignore[misc]
    """Asks for one topic, which must not come into being by that."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(
        self, request_struct_class: type[MetadataRequest_v5 | _MetadataRequest_v10]
    ) -> MetadataRequest_v5 | _MetadataRequest_v10:
        if request_struct_class is _MetadataRequest_v10:
            # By name; asking by id came with version 12.
            return _MetadataRequest_v10([(_NO_ID, self._topic, {})], False, False, False, {})
        return MetadataRequest_v5([self._topic], False)


def _topic_of(response: MetadataResponse_v5 | _MetadataResponse_v10) -> Topic | None:
    """Read the one topic of an answer; None: there is none of that name."""
    topics: list[dict[str, Any]] = response.to_object()["topics"]
    [topic] = topics
    error = for_code(topic["error_code"])
    if error is UnknownTopicOrPartitionError:
        return None
    if error is not NoError:
        raise error
    uuid = topic.get("topic_id", _NO_ID)
    return Topic(int.from_bytes(uuid[:4], "big"), len(topic["partitions"]))


class TopicIdentity:
    """Asks which topic a name stands for. Use as an async context manager.

    It has a connection of its own: a question never waits behind a fetch.
    """

    def __init__(self, *, bootstrap_servers: str, topic: str) -> None:
        self._topic = topic
        self._told = False
        self._bootstrapped = False
        self._client = client(bootstrap_servers=bootstrap_servers, request_timeout_ms=_TIMEOUT_MS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def ask(self) -> Topic | None:
        """Return the topic as one of the brokers knows it; None when it does not exist.

        Any broker answers, some milliseconds after another one perhaps.

        Raises:
            KafkaError: No answer within 4 s, or a refusal.
        """
        try:
            async with asyncio.timeout(2 * _TIMEOUT_MS / 1000):
                response = await self._answer()
        except TimeoutError as error:
            raise KafkaTimeoutError(self._topic) from error
        if response.API_VERSION < _MetadataResponse_v10.API_VERSION:
            self._tell_once()
        return _topic_of(response)

    async def _answer(self) -> MetadataResponse_v5 | _MetadataResponse_v10:
        if not self._bootstrapped:
            await self._client.bootstrap()
        self._bootstrapped = False  # after a failure, for the brokers may have moved
        node = self._client.get_random_node()
        if node is None:
            raise KafkaConnectionError("no broker is known")
        response = await self._client.send(node, _TopicRequest(self._topic))
        self._bootstrapped = True
        return response

    def _tell_once(self) -> None:
        if not self._told:
            self._told = True
            _log.warning("the broker gives no topic ids: a topic created anew may go unnoticed")

"""The aiokafka shell: one producer at a time, and how it is opened, used and given up.

aiokafka's idempotent producer retries a batch in place, in order, until the broker answers: a short
outage or a moved leader needs nothing from us. But a batch may still *fail*: it is older than
`request_timeout_ms` when its partition has no leader, the broker refuses it, the sending task
died. aiokafka has then already spent the batch's sequence numbers, so that every later batch of
that partition is out of order for the broker and fails as well. A producer with one failed batch is
therefore never used again: lanes finish what is under way, a new producer (a new producer id)
starts, and each lane sends again from its first record that is not acknowledged. A record that had
been written without our seeing it is then written twice, with the same event id, and its first copy
stands in order: readers drop the second.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import AuthenticationFailedError, KafkaError
from aiokafka.helpers import create_ssl_context
from aiokafka.partitioner import murmur2

from tailrace.logs import patient
from tailrace.producers.lanes import Outgoing
from tailrace.producers.settings import ProducerSettings
from tailrace.schemas import UnavailableError

__all__ = [
    "BATCH_BYTES",
    "KafkaProducer",
    "Producer",
    "RepartitionedError",
    "TopicMissingError",
    "partition_of",
]

BATCH_BYTES = 256 << 10
"""A batch of this size leaves room under the broker's 1 MiB for one that holds a single event."""
_METADATA_SECONDS = 5.0
_STOP_SECONDS = 1.0
_RETRY_BACKOFF_MS = 250
_STALLED_TIMEOUTS = 4


class TopicMissingError(UnavailableError):
    """The cluster answers and does not list the topic."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"no topic {topic}: create it with `tailrace topics create`")
        self.topic = topic


class RepartitionedError(UnavailableError):
    """The topic's partition count is not the one that records were dealt out for."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the topic has {found} partitions now, not {expected}")


class Producer(Protocol):
    """One connection to the log, good until its first failure."""

    async def start(self) -> int:
        """Connect and return the topic's partition count.

        Raises:
            KafkaError: No broker could be used.
            TopicMissingError: The topic does not exist.
        """

    async def partitions(self) -> int:
        """Return the topic's partition count, as last heard."""

    async def send(self, partition: int, records: list[Outgoing]) -> int:
        """Write records as one batch and return when all in-sync replicas have it.

        Returns:
            How many of them went into the batch: at least the first one.

        Raises:
            KafkaError: It is not known to be written; do not use this producer any more.
        """

    async def stop(self) -> None:
        """Close every connection, within seconds, whatever is still under way."""


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, the same as Kafka's own default partitioner."""
    return _hash(key) % partitions


class KafkaProducer:
    """`Producer` on a real cluster. Belongs to a loop that nobody else has tasks on.

    Args:
        settings: Where the cluster is.
        driver: The producer's class.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        *,
        driver: Callable[..., Any] = AIOKafkaProducer,
    ) -> None:
        self._topic = settings.topic
        self._stalled_seconds = _STALLED_TIMEOUTS * settings.request_timeout_ms / 1000
        self._driver = driver(
            bootstrap_servers=settings.bootstrap_servers.split(","),
            client_id="tailrace",
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_batch_size=BATCH_BYTES,
            linger_ms=0,
            request_timeout_ms=settings.request_timeout_ms,
            retry_backoff_ms=_RETRY_BACKOFF_MS,
            **_security(settings),
        )

    async def start(self) -> int:
        """See `Producer.start`."""
        patient(self._driver.client)
        try:
            async with asyncio.timeout(self._stalled_seconds):
                await self._driver.start()
        except TimeoutError as exc:
            raise KafkaError("the cluster accepted a connection and did not answer") from exc
        try:
            async with asyncio.timeout(_METADATA_SECONDS):
                return await self.partitions()
        except TimeoutError as exc:
            raise TopicMissingError(self._topic) from exc

    async def partitions(self) -> int:
        """See `Producer.partitions`."""
        return len(await self._driver.partitions_for(self._topic))

    async def send(self, partition: int, records: list[Outgoing]) -> int:
        """See `Producer.send`.

        A batch without an answer for four request timeouts is a failure too: aiokafka only asks
        the brokers that it knew, and after a long outage they may all live elsewhere.
        """
        batch = self._driver.create_batch()
        count = sum(1 for _ in takewhile(partial(_append, batch), records))
        # send_batch instead of send(): one future per batch, and nothing of ours waits inside.
        written = await self._driver.send_batch(batch, self._topic, partition=partition)
        try:
            async with asyncio.timeout(self._stalled_seconds):
                await written
        except TimeoutError as exc:
            raise KafkaError(f"no answer for {self._stalled_seconds:.0f} s") from exc
        return count

    async def stop(self) -> None:
        """See `Producer.stop`."""
        stopped = False
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._driver.stop()
            stopped = True
        except TimeoutError:
            pass  # It waits for batches that will not be answered.
        finally:
            if not stopped:
                await self._abandon()

    async def _abandon(self) -> None:
        """End aiokafka's tasks: they are all that is left on this loop beside the caller's."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._driver.client.close()


def _security(settings: ProducerSettings) -> dict[str, Any]:
    """Return the driver's arguments for TLS and SASL; unreadable files raise OSError."""
    protocol = settings.security_protocol
    arguments: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        files = (settings.ssl_cafile, settings.ssl_certfile, settings.ssl_keyfile)
        cafile, certfile, keyfile = (None if file is None else str(file) for file in files)
        arguments["ssl_context"] = create_ssl_context(
            cafile=cafile, certfile=certfile, keyfile=keyfile
        )
    if protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.sasl_mechanism
    if settings.sasl_mechanism == "OAUTHBEARER":
        assert settings.sasl_token_file is not None, "the settings ask for it"
        arguments["sasl_oauth_token_provider"] = _TokenFile(settings.sasl_token_file)
    elif protocol.startswith("SASL"):
        assert settings.sasl_password is not None, "the settings ask for it"
        arguments |= {
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return arguments


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # No types published.
    """The token that a file holds at the moment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        try:
            return self._path.read_text().strip()
        except OSError as exc:
            raise AuthenticationFailedError(f"{self._path}: {exc.strerror}") from exc


def _append(batch: Any, record: Outgoing) -> bool:
    """Add a record to a batch unless that is full; the first one always goes in."""
    added = batch.append(
        timestamp=record.timestamp_ms,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )
    return added is not None

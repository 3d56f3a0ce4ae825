import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tailrace.logs import patient


class Client:
    """What `patient` touches of a client."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    async def _metadata_update(self, *what: object) -> bool:
        self.asked.append(what)
        return True


async def test_first_question_is_asked_at_once() -> None:
    client = Client()
    patient(client)
    asking = asyncio.create_task(client._metadata_update("cluster", "topics"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert client.asked == [("cluster", "topics")]
    assert await asking


class Counted:
    """The updates of a real client."""

    def __init__(self, client: Any) -> None:
        patient(client)
        self.updates = 0
        self._update = client.cluster.update_metadata
        self._begun = asyncio.get_running_loop().time()
        client.cluster.update_metadata = self._count

    def _count(self, metadata: Any) -> None:
        self.updates += 1
        self._update(metadata)

    @property
    def most(self) -> float:
        """How many there may have been by now."""
        return 1 + (asyncio.get_running_loop().time() - self._begun) / 0.1


@pytest.mark.kafka
async def test_consumer_asks_with_pauses_for_a_leader_that_there_is_none_of(kafka: str) -> None:
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        counted = Counted(consumer._client)
        consumer.assign([TopicPartition("nowhere", 0)])
        assert await consumer.getmany(timeout_ms=1000) == {}
        assert 1 <= counted.updates <= counted.most


@pytest.mark.kafka
async def test_producer_asks_with_pauses_for_a_leader_that_there_is_none_of(
    kafka: str, topic: str
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.partitions_for(topic)
        counted = Counted(producer.client)
        producer.client.cluster.leader_for_partition = lambda _: None
        written = await producer.send(topic, b"value", partition=0)
        await asyncio.wait([written], timeout=1)
        assert not written.done()
        assert 1 <= counted.updates <= counted.most
        del producer.client.cluster.leader_for_partition
        await written

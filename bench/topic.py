"""A topic for one run, gone when that ends: the Kafka may be one that stays."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient

from tailrace.cli.topics import Target, create_topic

__all__ = ["topic_of_its_own"]


@asynccontextmanager
async def topic_of_its_own(servers: str) -> AsyncIterator[str]:
    """Give the name of a new topic with the default partitions."""
    topic = f"bench-{uuid.uuid4().hex[:12]}"
    await create_topic(Target(servers, topic))
    try:
        yield topic
    finally:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        try:
            await admin.delete_topics([topic])
        finally:
            await admin.close()

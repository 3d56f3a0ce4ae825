"""Where a partition begins, ends and was at a given time: questions to Kafka."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType
from typing import Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from tailrace.edge.driver import reader, stopped
from tailrace.schemas import UnavailableError

__all__ = ["Offsets"]

_ANSWER_SECONDS = 4.0
_ELECTION_SECONDS = 2.0
_AGAIN_SECONDS = 0.1


class Offsets:
    """Asks about the partitions of one topic. Use as an async context manager.

    Callers who ask the same while it is being asked share the next request, so that an answer is
    never older than its question. Each ends within 4 s (`reaches`: 6 s), with `UnavailableError`
    when Kafka has not answered.
    """

    def __init__(self, *, bootstrap_servers: str, topic: str) -> None:
        self._topic = topic
        self._asking: dict[Hashable, asyncio.Task[int]] = {}
        self._next: dict[Hashable, asyncio.Task[int]] = {}
        """What waits until the same has been asked; may still be joined."""
        # Its connections are its own: a question never waits behind a fetch.
        self._consumer = reader(
            bootstrap_servers=bootstrap_servers, request_timeout_ms=int(_ANSWER_SECONDS * 1000)
        )

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
        except BaseException:
            await stopped(self._consumer)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asking = (*self._asking.values(), *self._next.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await stopped(self._consumer)

    async def earliest(self, partition: int) -> int:
        """Return the offset at which the log starts now.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        return await self._shared(("earliest", partition), lambda: self._earliest(partition))

    async def end(self, partition: int) -> int:
        """Return the last stable offset now: that of the next record that may be read.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        return await self._shared(("end", partition), lambda: self._end(partition))

    async def reaches(self, partition: int, end: int) -> bool:
        """Tell whether the log goes on up to `end`, exclusive.

        No is said after 2 s only: a broker that led the partition until a moment ago does not know
        what its successor has written, and answers all the same.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        loop = asyncio.get_running_loop()
        patience = loop.time() + _ELECTION_SECONDS
        while await self.end(partition) < end:
            if loop.time() >= patience:
                return False
            await asyncio.sleep(_AGAIN_SECONDS)
        return True

    async def at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose timestamp is this or later; the end if there is none.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        key = ("at", partition, timestamp_ms)
        return await self._shared(key, lambda: self._at(partition, timestamp_ms))

    async def _earliest(self, partition: int) -> int:
        [offset] = (await self._consumer.beginning_offsets([self._tp(partition)])).values()
        return int(offset)

    async def _end(self, partition: int) -> int:
        [offset] = (await self._consumer.end_offsets([self._tp(partition)])).values()
        return int(offset)

    async def _at(self, partition: int, timestamp_ms: int) -> int:
        times = {self._tp(partition): max(0, timestamp_ms)}
        [found] = (await self._consumer.offsets_for_times(times)).values()
        if found is None or found.offset < 0:
            return await self._end(partition)
        return int(found.offset)

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    async def _shared(self, key: Hashable, ask: Callable[[], Awaitable[int]]) -> int:
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(_bounded(lambda: self._in_turn(key, ask)))
            task.add_done_callback(lambda done: self._asked(key, done))
        try:
            return await asyncio.shield(task)  # one caller that gives up does not end the others'
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller and caller.cancelling()):
                raise UnavailableError("the topic is not read any more") from None
            raise

    async def _in_turn(self, key: Hashable, ask: Callable[[], Awaitable[int]]) -> int:
        if key in self._asking:
            await asyncio.wait([self._asking[key]])
        self._asking[key] = self._next.pop(key)  # from here on nobody joins
        return await ask()

    def _asked(self, key: Hashable, task: asyncio.Task[int]) -> None:
        for tasks in (self._asking, self._next):  # in the latter if its time was up before its turn
            if tasks.get(key) is task:
                del tasks[key]
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more


async def _bounded(ask: Callable[[], Awaitable[int]]) -> int:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await ask()
    except (KafkaError, OSError, TimeoutError) as error:  # a connection may break as it is used
        reason = str(error) or type(error).__name__
        raise UnavailableError(f"Kafka does not answer: {reason}") from error

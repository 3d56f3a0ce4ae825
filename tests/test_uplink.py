import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
)
from memory_log import MemoryLog
from structlog.testing import capture_logs

from tailrace.producers import ProducerSettings
from tailrace.producers.kafka import TopicMissingError
from tailrace.producers.lanes import Lanes, Outgoing
from tailrace.producers.uplink import Uplink
from tailrace.producers.verdict import backoff, is_forbidden


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(attempt: int, error: Exception, *, jitter: random.Random) -> float:
        return backoff(attempt, error, jitter=jitter) if is_forbidden(error) else 0.0

    monkeypatch.setattr("tailrace.producers.uplink.backoff", at_once)


class Owner:
    """Feeds an uplink from a list."""

    def __init__(self, lanes: Lanes, records: list[Outgoing]) -> None:
        self.lanes = lanes
        self.waiting = records
        self.closing = True
        self.on_settled: Callable[[], None] = lambda: None

    def refill(self) -> bool:
        while self.waiting and all(self.lanes.room()):
            self.lanes.add(self.waiting.pop(0))
        return False

    def sleep(self) -> bool:
        return True

    def settled(self) -> None:
        self.on_settled()

    def finished(self) -> bool:
        return self.closing and not self.waiting and not self.lanes.events

    def smaller(self, record: Outgoing) -> Outgoing | None:
        return record._replace(value=b"small") if record.value != b"small" else None


def records(count: int, projects: int = 3) -> list[Outgoing]:
    return [
        Outgoing(n, bytes([n % projects]), b"value-%d." % n, [("ce_id", b"%d" % n)], 0)
        for n in range(1, count + 1)
    ]


def uplink(log: MemoryLog, sent: list[Outgoing], **bounds: int) -> tuple[Uplink, Owner]:
    lanes = Lanes(lambda key, count: key[0] % count, **bounds)
    owner = Owner(lanes, list(sent))
    settings = ProducerSettings()
    return Uplink(lanes, owner, connect=lambda: log.connect(settings), linger=0), owner


async def run(log: MemoryLog, sent: list[Outgoing], **bounds: int) -> Uplink:
    made, _ = uplink(log, sent, **bounds)
    await made.run()
    return made


def first_copies(log: MemoryLog) -> dict[bytes, list[int]]:
    """Return the tickets of each project as a reader keeps them: the first copy of each."""
    found: dict[bytes, list[int]] = {}
    for _, record in log.written:
        tickets = found.setdefault(record.key, [])
        if record.ticket not in tickets:
            tickets.append(record.ticket)
    return found


def in_order(sent: list[Outgoing], projects: int = 3) -> dict[bytes, list[int]]:
    return {
        bytes([p]): [record.ticket for record in sent if record.key == bytes([p])]
        for p in range(projects)
    }


@asynccontextmanager
async def running(made: Uplink) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(made.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_everything_is_written_in_order_by_one_producer() -> None:
    log, sent = MemoryLog(), records(100)
    made = await run(log, sent)
    assert first_copies(log) == in_order(sent)
    assert (log.started, log.stopped, made.acknowledged, made.retries) == (1, 1, 100, 0)


async def test_window_bounds_what_is_on_its_way() -> None:
    log, sent = MemoryLog(), records(100)
    await run(log, sent, max_events=7)
    assert max(log.batches) <= 7
    assert first_copies(log) == in_order(sent)


async def test_failed_batch_is_sent_again_before_anything_newer() -> None:
    log, sent = MemoryLog(), records(50)
    log.send_errors.extend([(NotLeaderForPartitionError(), False)] * 3)
    made = await run(log, sent, max_events=8)
    assert first_copies(log) == in_order(sent)
    assert len(log.written) == 50
    assert made.retries >= 3
    assert log.started == log.stopped > 1


async def test_batch_written_without_our_knowing_comes_twice_with_its_first_copy_in_order() -> None:
    log, sent = MemoryLog(), records(50)
    log.send_errors.append((KafkaConnectionError(), True))
    await run(log, sent, max_events=8)
    assert len(log.written) > 50
    assert first_copies(log) == in_order(sent)
    assert all(record == sent[record.ticket - 1] for _, record in log.written)


async def test_no_producer_is_used_after_its_first_failure() -> None:
    # MemoryProducer fails for ever after one; retries would count every further attempt.
    log, sent = MemoryLog(partitions=1), records(50)
    log.send_errors.append((KafkaError("the sending task died"), False))
    made = await run(log, sent, max_events=8)
    assert (made.retries, log.started) == (1, 2)


async def test_absent_broker_is_waited_for_and_logged_once() -> None:
    log, sent = MemoryLog(), records(5)
    log.start_errors.extend([KafkaConnectionError("nobody")] * 4)
    with capture_logs() as lines:
        await run(log, sent)
    assert first_copies(log) == in_order(sent)
    assert [line["event"] for line in lines] == ["kafka_unavailable", "kafka_connected"]
    assert log.stopped == 5


async def test_missing_topic_says_what_to_do() -> None:
    log, sent = MemoryLog(), records(1)
    log.start_errors.extend([TopicMissingError("t"), TopicMissingError("t")])
    with capture_logs() as lines:
        await run(log, sent)
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["topic"], line["do"]) == (
        "kafka_topic_missing",
        "t",
        "tailrace topics create",
    )


async def test_refused_credentials_are_an_error_and_back_off_ends_when_the_owner_hurries() -> None:
    log, sent = MemoryLog(), records(1)
    log.start_errors.append(TopicAuthorizationFailedError("t"))
    made, _ = uplink(log, sent)
    with capture_logs() as lines:
        async with running(made) as task:
            await asyncio.to_thread(log.attempted.wait)
            made.hurry()
            await task
    assert [line["event"] for line in lines] == ["kafka_forbidden", "kafka_connected"]
    assert first_copies(log)[b"\x01"] == [1]


async def test_record_that_kafka_refuses_is_dropped_alone() -> None:
    log, sent = MemoryLog(partitions=1), records(40)
    log.refuses = {b"value-17.": InvalidTimestampError()}
    with capture_logs() as lines:
        made = await run(log, sent)
    assert made.dropped == 1
    assert [r.ticket for _, r in log.written] == [n for n in range(1, 41) if n != 17]
    (line,) = [line for line in lines if line["event"] == "event_refused_by_kafka"]
    assert line["event_id"] == "17"


async def test_record_larger_than_the_topic_takes_is_reduced() -> None:
    log, sent = MemoryLog(partitions=1), records(10)
    log.max_value_bytes = 50
    sent[4] = sent[4]._replace(value=b"x" * 1000)
    made = await run(log, sent)
    assert (made.reduced, made.dropped) == (1, 0)
    assert [r.ticket for _, r in log.written] == list(range(1, 11))
    assert log.written[4][1].value == b"small"


async def test_record_that_is_too_large_even_reduced_is_dropped() -> None:
    log, sent = MemoryLog(partitions=1), records(3)
    sent[1] = sent[1]._replace(value=b"x" * 1000)
    log.max_value_bytes = 20
    made, owner = uplink(log, sent)
    owner.smaller = lambda _: None  # type: ignore[method-assign,assignment]
    await made.run()
    assert made.dropped == 1
    assert [r.ticket for _, r in log.written] == [1, 3]


async def test_changed_partition_count_deals_out_anew() -> None:
    log, sent = MemoryLog(partitions=2), records(60, projects=5)
    made, owner = uplink(log, sent, max_events=10)
    owner.on_settled = lambda: setattr(log, "partitions", 3)
    await made.run()
    assert first_copies(log) == in_order(sent, 5)
    assert {partition for partition, _ in log.written[-20:]} == {0, 1, 2}


async def test_bug_in_a_producer_is_logged_and_outlived() -> None:
    log, sent = MemoryLog(), records(20)
    log.send_errors.append((ZeroDivisionError(), False))
    with capture_logs() as lines:
        await run(log, sent, max_events=4)
    assert first_copies(log) == in_order(sent)
    assert "uplink_failed" in [line["event"] for line in lines]


async def test_cancelled_uplink_stops_its_producer() -> None:
    log = MemoryLog()
    made, owner = uplink(log, [])
    owner.closing = False
    async with running(made):
        await asyncio.to_thread(log.attempted.wait)
    assert log.stopped == log.started == 1

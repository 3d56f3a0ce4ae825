import random

import pytest
from aiokafka import errors

from tailrace.producers.verdict import Verdict, backoff, is_forbidden, verdict
from tailrace.schemas import UnavailableError

JITTER = random.Random(1)


@pytest.mark.parametrize(
    "error",
    [
        errors.KafkaConnectionError(),
        errors.NotLeaderForPartitionError(),
        errors.LeaderNotAvailableError(),
        errors.NotEnoughReplicasError(),
        errors.OutOfOrderSequenceNumber(),
        errors.UnknownProducerId(),
        errors.ProducerFenced(),
        errors.KafkaTimeoutError(),
        errors.TopicAuthorizationFailedError("t"),
        errors.UnknownTopicOrPartitionError(),
        errors.KafkaError("Unexpected error during batch delivery"),
        UnavailableError("no topic"),
        RuntimeError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("records", [1, 100])
def test_fault_that_is_not_the_records_is_retried_for_ever(error: Exception, records: int) -> None:
    assert verdict(error, records=records, strikes=10_000) is Verdict.RETRY


def test_batch_that_is_too_large_is_made_smaller_and_a_single_record_reduced() -> None:
    error = errors.MessageSizeTooLargeError()
    assert verdict(error, records=2, strikes=0) is Verdict.SHRINK
    assert verdict(error, records=1, strikes=0) is Verdict.REDUCE


def test_refused_record_is_searched_for_and_dropped_after_three_strikes() -> None:
    error = errors.InvalidTimestampError()
    assert verdict(error, records=8, strikes=0) is Verdict.HALVE
    assert verdict(error, records=1, strikes=0) is Verdict.STRIKE
    assert verdict(error, records=1, strikes=2) is Verdict.DROP


def test_unexplained_refusal_gets_far_more_patience() -> None:
    error = errors.UnknownError()
    assert verdict(error, records=1, strikes=10) is Verdict.STRIKE
    assert verdict(error, records=1, strikes=49) is Verdict.DROP


def test_back_off_doubles_up_to_its_bound() -> None:
    error = errors.KafkaConnectionError()
    delays = [backoff(attempt, error, jitter=JITTER) for attempt in (1, 2, 3, 10, 10_000)]
    for delay, middle in zip(delays, (0.1, 0.2, 0.4, 5.0, 5.0), strict=True):
        assert 0.8 * middle <= delay <= 1.2 * middle


def test_refused_credentials_are_shown_rarely() -> None:
    error = errors.TopicAuthorizationFailedError("t")
    assert is_forbidden(error)
    assert backoff(1, error, jitter=JITTER) == 30.0

"""What becomes of a batch that Kafka did not acknowledge. Pure."""

import random
from enum import Enum

from aiokafka import errors

__all__ = ["Verdict", "backoff", "is_forbidden", "verdict"]

_STRIKES = 3
_UNEXPLAINED_STRIKES = 50
_SLOW_SECONDS = 30.0
_MAX_SECONDS = 5.0

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_FORBIDDEN = (
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.AuthenticationFailedError,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)
_RECORD_AT_FAULT = (
    errors.CorruptRecordException,
    errors.InvalidTimestampError,
    errors.PolicyViolationError,
)
_STATE_OF_THE_PRODUCER = (
    errors.KafkaTimeoutError,
    errors.ProducerClosed,
    errors.ProducerFenced,
    errors.InvalidProducerEpoch,
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
)


class Verdict(Enum):
    """What to do with the records of a failed batch."""

    RETRY = "retry"
    """Send the same again: the fault is not theirs."""
    SHRINK = "shrink"
    """The batch is too large for the topic: smaller ones from now on."""
    REDUCE = "reduce"
    """The only record is too large for the topic: take its body out."""
    HALVE = "halve"
    """One of the records is refused: find it by halving."""
    STRIKE = "strike"
    """The only record is refused: try again, but not for ever."""
    DROP = "drop"
    """The only record was refused again and again: no retry will help."""


def verdict(error: BaseException, *, records: int, strikes: int) -> Verdict:
    """Decide on a failed batch.

    Args:
        error: What it failed with.
        records: Records in it.
        strikes: How often the same single record was refused before.
    """
    if isinstance(error, _TOO_LARGE):
        return Verdict.REDUCE if records == 1 else Verdict.SHRINK
    if _is_retriable(error):
        return Verdict.RETRY
    if records > 1:
        return Verdict.HALVE
    # Other codes may be the broker's own trouble, which passes: far more patience.
    patience = _STRIKES if isinstance(error, _RECORD_AT_FAULT) else _UNEXPLAINED_STRIKES
    return Verdict.DROP if strikes + 1 >= patience else Verdict.STRIKE


def _is_retriable(error: BaseException) -> bool:
    if not isinstance(error, errors.BrokerResponseError):
        return True
    return bool(error.retriable) or isinstance(error, _FORBIDDEN + _STATE_OF_THE_PRODUCER)


def is_forbidden(error: BaseException) -> bool:
    """Tell whether the cluster refuses us: a person must change credentials or ACLs."""
    return isinstance(error, _FORBIDDEN)


def backoff(attempt: int, error: BaseException, *, jitter: random.Random) -> float:
    """Return the seconds before attempt number `attempt`, from 1.

    Doubles from 0.1 s to 5 s, spread by a fifth; 30 s where the credentials are refused, so that
    no account is locked.
    """
    if is_forbidden(error):
        return _SLOW_SECONDS
    seconds = min(0.1 * 2 ** min(attempt - 1, 10), _MAX_SECONDS)
    return float(seconds * (0.8 + 0.4 * jitter.random()))

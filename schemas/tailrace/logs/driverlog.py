"""Keeps aiokafka's log bearable: it writes some 40 lines a second while a broker is away."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.logs.ratelimit import RateLimit

__all__ = ["quiet_driver"]

_PERIOD = 30.0
_NAMES = (
    "aiokafka",
    "aiokafka.client",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.consumer.subscription_state",
    "aiokafka.producer.message_accumulator",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
)


class _ThreadFilter(logging.Filter):
    """Thins out what one thread logs; other users of aiokafka in the process are left alone."""

    def __init__(self, thread_id: int) -> None:
        super().__init__()
        self._thread_id = thread_id
        self._limit = RateLimit(_PERIOD)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread_id:
            return True
        held = self._limit.allow((record.name, record.levelno, record.msg), time.monotonic())
        if held:
            record.msg = f"{record.msg} [{held} more like this]"
        return held is not None


@contextmanager
def quiet_driver() -> Iterator[None]:
    """Let through one line of each kind per 30 s of what aiokafka logs on this thread."""
    thinned = _ThreadFilter(threading.get_ident())
    # A filter on a parent logger does not see what its children log.
    loggers = [logging.getLogger(name) for name in _NAMES]
    for logger in loggers:
        logger.addFilter(thinned)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(thinned)

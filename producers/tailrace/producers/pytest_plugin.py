"""A pytest plugin: the fixture ``captured_events`` sees what the code under test has emitted."""

from collections.abc import Iterator

import pytest

from tailrace.producers.emit import substitute
from tailrace.producers.emitter import Emitter
from tailrace.producers.settings import ProducerSettings
from tailrace.producers.sinks import CallingProducer
from tailrace.schemas import Event

__all__ = ["CapturedEvents", "captured_events"]


class CapturedEvents:
    """The events emitted so far in this test, in order."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self.emitter = Emitter(
            ProducerSettings(sink="memory", linger_ms=0),
            connect=lambda _: CallingProducer(self._events.append),
        )

    def all(self) -> list[Event]:
        """Return every event emitted before this call, each validated as for Kafka."""
        assert self.emitter.flush(60), "the emitter stands still"
        return list(self._events)

    def types(self) -> list[str]:
        """Return the types of `all`."""
        return [event.type for event in self.all()]


@pytest.fixture
def captured_events() -> Iterator[CapturedEvents]:
    """Take what this test emits by the emit functions; nothing of it goes anywhere else."""
    captured = CapturedEvents()
    before = substitute(captured.emitter)
    yield captured
    substitute(before)
    captured.emitter.close()

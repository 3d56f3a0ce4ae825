import math
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from strategies import PROPERTY

from tailrace.batching import Windows


@dataclass(eq=False)
class _Channel:
    """Something to flush; it was never flushed."""

    window: float = 1.0
    flushed_at: float = -math.inf
    deadline: float | None = None


def test_nothing_is_due_while_nothing_waits() -> None:
    windows: Windows[_Channel] = Windows()
    assert windows.next() is None
    assert windows.due(1e9) == []


def test_first_state_after_silence_is_due_at_once() -> None:
    windows, channel = Windows[_Channel](), _Channel(flushed_at=5.0)
    windows.touch(channel, 6.0, urgent=False)
    assert windows.next() == 6.0
    assert windows.due(6.0) == [channel]


def test_state_soon_after_a_flush_waits_for_the_rest_of_the_window() -> None:
    windows, channel = Windows[_Channel](), _Channel(flushed_at=5.0)
    windows.touch(channel, 5.25, urgent=False)
    assert windows.next() == 6.0
    assert windows.due(5.75) == []
    assert windows.due(6.0) == [channel]


def test_more_states_do_not_put_the_flush_off() -> None:
    windows, channel = Windows[_Channel](), _Channel(flushed_at=5.0)
    for now in 5.25, 5.5, 5.75:
        windows.touch(channel, now, urgent=False)
    assert windows.next() == 6.0
    assert windows.due(7.0) == [channel]
    assert windows.due(7.0) == []


def test_fact_does_not_wait_and_takes_the_states_before_it_along() -> None:
    windows, channel = Windows[_Channel](), _Channel(flushed_at=5.0)
    windows.touch(channel, 5.25, urgent=False)
    windows.touch(channel, 5.5, urgent=True)
    assert windows.next() == 5.5
    assert windows.due(5.5) == [channel]
    assert windows.next() is None
    assert windows.due(6.0) == []


def test_state_after_a_fact_does_not_hold_it_back() -> None:
    windows, channel = Windows[_Channel](), _Channel(flushed_at=5.0)
    windows.touch(channel, 5.5, urgent=True)
    windows.touch(channel, 5.5, urgent=False)
    assert windows.due(5.5) == [channel]


def test_window_counts_from_the_flush_not_from_the_deadline() -> None:
    windows, channel = Windows[_Channel](), _Channel()
    windows.touch(channel, 5.0, urgent=False)
    assert windows.due(5.5) == [channel]
    windows.touch(channel, 5.75, urgent=False)
    assert windows.next() == 6.5


def test_deadline_that_was_moved_forward_does_not_flush_what_came_later() -> None:
    windows, channel = Windows[_Channel](), _Channel(flushed_at=5.0)
    windows.touch(channel, 5.25, urgent=False)
    windows.touch(channel, 5.5, urgent=True)
    windows.due(5.5)
    windows.touch(channel, 5.75, urgent=False)
    assert windows.due(6.0) == []
    assert windows.next() == 6.5


def test_earliest_deadline_comes_first() -> None:
    late, early, at_once = _Channel(3.0, 0.0), _Channel(2.0, 0.0), _Channel(3.0, 0.0)
    windows: Windows[_Channel] = Windows()
    windows.touch(late, 1.0, urgent=False)
    windows.touch(early, 1.0, urgent=False)
    windows.touch(at_once, 1.0, urgent=True)
    assert windows.next() == 1.0
    assert windows.due(5.0) == [at_once, early, late]


def test_channels_without_a_window_are_always_due_at_once() -> None:
    windows, channel = Windows[_Channel](), _Channel(window=0.0)
    for _ in range(3):
        windows.touch(channel, 5.0, urgent=False)
        assert windows.due(5.0) == [channel]


def test_dropped_channel_never_comes() -> None:
    gone, there = _Channel(1.0, 0.0), _Channel(2.0, 0.0)
    windows: Windows[_Channel] = Windows()
    windows.touch(gone, 0.5, urgent=False)
    windows.touch(there, 0.5, urgent=False)
    windows.drop(gone)
    assert windows.next() == 2.0
    assert windows.due(9.0) == [there]


def test_channel_that_was_dropped_and_came_back_comes_once() -> None:
    windows, channel = Windows[_Channel](), _Channel(flushed_at=0.0)
    windows.touch(channel, 0.25, urgent=False)
    windows.drop(channel)
    windows.touch(channel, 0.5, urgent=False)
    assert windows.due(1.0) == [channel]
    assert windows.next() is None


def test_asking_for_the_next_deadline_lets_go_of_dropped_channels() -> None:
    windows: Windows[_Channel] = Windows()
    channels = [_Channel(flushed_at=0.0) for _ in range(100)]
    for channel in channels:
        windows.touch(channel, 0.5, urgent=False)
        windows.drop(channel)
    assert windows.next() is None
    assert len(windows._heap) == 0


CHANNELS = st.integers(0, 1)


class WindowsMachine(RuleBasedStateMachine):
    """Channels beside a plain table of when each is due. Times are eighths: exact in floats."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: Windows[_Channel] = Windows()
        self.now = 0.0
        self.channels = [_Channel(window) for window in (0.0, 2.0)]
        self.deadlines: dict[_Channel, float] = {}
        self.flushes: dict[_Channel, float] = {}

    def _touch(self, channel: _Channel, *, urgent: bool) -> None:
        self.windows.touch(channel, self.now, urgent=urgent)
        silent_until = self.flushes.get(channel, -math.inf) + channel.window
        if urgent or silent_until <= self.now:
            self.deadlines[channel] = min(self.now, self.deadlines.get(channel, self.now))
        else:
            self.deadlines.setdefault(channel, silent_until)

    def _flush(self) -> list[_Channel]:
        ready = self.windows.due(self.now)
        expected = {c: due for c, due in self.deadlines.items() if due <= self.now}
        assert len(ready) == len(expected)
        assert set(ready) == set(expected)
        assert [expected[c] for c in ready] == sorted(expected.values())
        for channel in ready:
            del self.deadlines[channel]
            self.flushes[channel] = self.now
        assert all(deadline > self.now for deadline, _, _ in self.windows._heap)
        return ready

    @rule(channel=CHANNELS)
    def state(self, channel: int) -> None:
        self._touch(self.channels[channel], urgent=False)

    @rule(channel=CHANNELS)
    def fact(self, channel: int) -> None:
        self._touch(self.channels[channel], urgent=True)

    @rule(channel=CHANNELS)
    def drop(self, channel: int) -> None:
        self.windows.drop(self.channels[channel])
        self.deadlines.pop(self.channels[channel], None)

    @rule(eighths=st.integers(1, 5))
    def wait(self, eighths: int) -> None:
        self.now += eighths / 8

    @rule(eighths=st.integers(0, 5))
    def wait_and_flush(self, eighths: int) -> None:
        self.now += eighths / 8
        self._flush()

    @rule()
    def sleep_until_the_next_deadline(self) -> None:
        due = self.windows.next()
        assert due == min(self.deadlines.values(), default=None)
        if due is not None:
            self.now = max(self.now, due)
            assert self._flush(), "it was told to come now"

    @invariant()
    def every_waiting_channel_has_its_entry(self) -> None:
        entries = {(channel, due) for due, _, channel in self.windows._heap}
        assert entries >= self.deadlines.items()
        deadlines = {c: c.deadline for c in self.channels if c.deadline is not None}
        assert deadlines == self.deadlines


def test_channels_come_when_a_plain_table_says() -> None:
    run_state_machine_as_test(WindowsMachine, settings=PROPERTY)

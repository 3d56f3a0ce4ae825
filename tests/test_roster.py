import asyncio
from collections.abc import Callable
from random import Random

import pytest

from tailrace.edge.roster import Roster


class _Guest:
    """A connection that notes what it is told.

    Args:
        on_leave: Called when it is sent away.
    """

    def __init__(self, on_leave: Callable[[], None] = lambda: None) -> None:
        self.pings = 0
        self.told: list[int] = []
        self._on_leave = on_leave

    def ping(self) -> None:
        self.pings += 1

    def send_away(self, retry_after_ms: int) -> None:
        self.told.append(retry_after_ms)
        self._on_leave()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no time pass: what was slept is noted instead, and 50 sleeps are enough for `run`."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        if len(slept) == 50:
            raise asyncio.CancelledError
        slept.append(seconds)

    monkeypatch.setattr("tailrace.edge.roster.asyncio.sleep", sleep)
    return slept


async def _one_round(roster: Roster) -> None:
    with pytest.raises(asyncio.CancelledError):
        await roster.run()


def test_roster_counts_who_is_there() -> None:
    roster = Roster(25.0)
    guests = [_Guest() for _ in range(120)]
    for guest in guests:
        roster.enter(guest)
    assert len(roster) == 120
    for guest in guests[:100]:
        roster.leave(guest)
    assert len(roster) == 20


async def test_each_is_pinged_once_in_a_period(slept: list[float]) -> None:
    roster = Roster(25.0)
    guests = [_Guest() for _ in range(120)]
    for guest in guests:
        roster.enter(guest)

    await _one_round(roster)

    assert [guest.pings for guest in guests] == [1] * 120
    assert sum(slept) == pytest.approx(25.0)


async def test_pings_are_spread_evenly(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    roster = Roster(25.0)
    ticks: dict[int, int] = {}

    def ping(_: _Guest) -> None:
        ticks[len(slept)] = ticks.get(len(slept), 0) + 1

    monkeypatch.setattr(_Guest, "ping", ping)
    for _ in range(120):
        roster.enter(_Guest())

    await _one_round(roster)

    assert len(ticks) == 50
    assert set(ticks.values()) == {2, 3}


@pytest.mark.usefixtures("slept")
async def test_who_left_is_pinged_no_more() -> None:
    roster = Roster(25.0)
    gone, here = _Guest(), _Guest()
    roster.enter(gone)
    roster.enter(here)
    roster.leave(gone)

    await _one_round(roster)

    assert (gone.pings, here.pings) == (0, 1)


@pytest.mark.usefixtures("slept")
async def test_guest_may_leave_when_it_is_pinged() -> None:
    class Leaving(_Guest):
        def ping(self) -> None:
            super().ping()
            roster.leave(self)

    roster = Roster(25.0)
    guests = [Leaving() for _ in range(120)]
    for guest in guests:
        roster.enter(guest)

    await _one_round(roster)

    assert [guest.pings for guest in guests] == [1] * 120
    assert len(roster) == 0


async def test_drain_sends_everybody_away_once_and_spreads_their_return() -> None:
    roster = Roster(25.0)
    guests = [_Guest() for _ in range(50)]
    for guest in guests:
        roster.enter(guest)

    await roster.drain(0.0, Random(1))

    delays = [delay for guest in guests for delay in guest.told]
    assert len(delays) == 50
    assert all(0 <= delay <= 1000 for delay in delays)
    assert len(set(delays)) > 30, "spread, or all come back at once"


async def test_drain_is_paced_and_leaves_time_to_say_goodbye(slept: list[float]) -> None:
    roster = Roster(25.0)
    told_after: list[float] = []
    for _ in range(5):
        roster.enter(_Guest(lambda: told_after.append(slept[-1] if slept else 0.0)))

    await roster.drain(10.0, Random(1))

    # No time passes here: each sleep is the whole way from the beginning.
    assert told_after == pytest.approx([0.0, 1.6, 3.2, 4.8, 6.4], abs=0.1)
    assert len(slept) == 4, "nobody waits after the last one"


async def test_only_one_is_sent_away_without_waiting(slept: list[float]) -> None:
    roster = Roster(25.0)
    guest = _Guest()
    roster.enter(guest)

    await roster.drain(3600.0, Random(1))

    assert len(guest.told) == 1
    assert slept == []


async def test_drain_of_nobody_takes_no_time(slept: list[float]) -> None:
    await Roster(25.0).drain(3600.0, Random(1))

    assert slept == []


async def test_who_left_meanwhile_is_not_sent_away() -> None:
    roster = Roster(25.0)
    second = _Guest()
    first = _Guest(lambda: roster.leave(second))
    roster.enter(first)
    roster.enter(second)

    await roster.drain(0.0, Random(1))

    assert (len(first.told), second.told) == (1, [])

"""Everybody who is connected: asked now and then whether they are there, sent away at the end.

One timer for all: a heartbeat of each connection's own would bunch up and stall the loop.
"""

import asyncio
from collections.abc import Iterable
from itertools import cycle
from random import Random
from typing import Protocol

from tailrace.edge.garbage import settle

__all__ = ["Guest", "Roster"]

_SLOTS = 50
_CLOSE_SHARE = 0.2
"""Of the grace: left for the last ones' closing handshake."""
_SPREAD_MS = 1000
_SETTLE_EVERY = 100
"""Connections, of a few dozen objects each that stay."""


class Guest(Protocol):
    """A connection."""

    def ping(self) -> None:
        """Ask whether the peer is still there; end the connection if it did not answer before."""

    def send_away(self, retry_after_ms: int) -> None:
        """Tell the peer to connect elsewhere, and close."""


class Roster:
    """All connections, in a wheel of slots: one slot a tick is pinged.

    Args:
        period: Seconds in which each connection is pinged once.
    """

    def __init__(self, period: float) -> None:
        self._tick = period / _SLOTS
        self._slots: list[dict[Guest, None]] = [{} for _ in range(_SLOTS)]
        self._slot_of: dict[Guest, int] = {}
        self._entered = 0

    def __len__(self) -> int:
        """Return how many are connected."""
        return len(self._slot_of)

    def enter(self, guest: Guest) -> None:
        """Count a connection."""
        self._entered += 1
        if self._entered % _SETTLE_EVERY == 0:
            settle()
        slot = self._slot_of[guest] = self._entered % _SLOTS
        self._slots[slot][guest] = None

    def leave(self, guest: Guest) -> None:
        """Forget a connection, which has ended."""
        del self._slots[self._slot_of.pop(guest)][guest]

    async def run(self) -> None:
        """Ping until cancelled."""
        for slot in cycle(self._slots):
            await asyncio.sleep(self._tick)
            _ping(slot)

    async def drain(self, seconds: float, random: Random) -> None:
        """Send everybody away, evenly over most of `seconds`."""
        guests = tuple(self._slot_of)
        if not guests:
            return
        pause = seconds * (1 - _CLOSE_SHARE) / len(guests)
        begun = asyncio.get_running_loop().time()
        for count, guest in enumerate(guests):
            ahead = begun + count * pause - asyncio.get_running_loop().time()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if guest in self._slot_of:
                guest.send_away(random.randint(0, _SPREAD_MS))


def _ping(slot: Iterable[Guest]) -> None:
    """Ping all of a slot; a function of its own, so that who left is not kept alive between."""
    for guest in tuple(slot):
        guest.ping()

"""Bounded memory of what was emitted and has not left for Kafka yet. Pure."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from tailrace.producers.draft import Draft
from tailrace.producers.losses import Losses
from tailrace.producers.sequence import RunKey

__all__ = ["Buffer", "StateKey", "Waiting"]


class Waiting(NamedTuple):
    """A draft and its place in the order of emission."""

    ticket: int
    """From 1, dense over everything that was ever put."""
    draft: Draft
    size: int
    """`Draft.size`: asked for once."""


class StateKey(NamedTuple):
    """What decides whether one event may stand for another; see `Buffer`."""

    run: RunKey
    entity: tuple[str, str | None]
    """Event type and entity id."""
    value: str
    """The coalesce key: entity, status and stage."""


class _State(NamedTuple):
    waiting: Waiting
    key: StateKey | None


class Buffer:
    """Drafts in the order of emission, bounded in events and in bytes.

    When it is full, these make room, the first kind that there is, the oldest first:

    1. States that a newer one stands for: the next one of the same run, type and entity has the
       same status and stage, and no fact of that run is between them. So a transition is never
       lost here, and neither is what a run looked like at a fact. Only what was put while the
       buffer was at least half full is compared: in quiet times nobody pays for it.
    2. Other states.
    3. Facts: `spill` is given them, and only what it does not take is dropped.

    Sequence numbers are given to what leaves, so that what was dropped leaves no hole in them.

    Not thread-safe: the owner locks.

    Args:
        max_events: Drafts held at most.
        max_bytes: Sum of `Draft.size` at most; a single larger draft is dropped at once.
        key_of: Tells what may stand for what; None for a draft of which that is not known.
        spill: Takes a fact that the bound no longer holds, or returns False. Facts come to it in
            the order of emission, and nothing older is held then.
    """

    def __init__(
        self,
        *,
        max_events: int,
        max_bytes: int,
        key_of: Callable[[Draft], StateKey | None] = lambda _: None,
        spill: Callable[[Waiting], bool] = lambda _: False,
    ) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._key_of = key_of
        self.spill = spill
        self._facts: deque[Waiting] = deque()
        self._states: OrderedDict[int, _State] = OrderedDict()
        self._latest: dict[RunKey, dict[tuple[str, str | None], _State]] = {}
        """The newest state of each entity since the last fact of its run: one entry per state
        held at most."""
        self._outdated: OrderedDict[int, None] = OrderedDict()
        """Tickets of the states that a newer one stands for."""
        self.bytes = 0
        """Sum of the sizes of what is held."""
        self.accepted = 0
        """Drafts ever put; the ticket of the newest one."""
        self.conflated = 0
        """States that made room because a newer one stands for them."""
        self.losses = Losses()
        """Drafts that fell to the bound."""

    def __len__(self) -> int:
        return len(self._facts) + len(self._states)

    @property
    def dropped(self) -> int:
        """How many drafts fell to the bound, those that a newer one stands for not included."""
        return self.losses.total

    @property
    def pressed(self) -> bool:
        """Whether it is at least half full."""
        held = len(self._facts) + len(self._states)
        return held * 2 >= self._max_events or self.bytes * 2 >= self._max_bytes

    def put(self, draft: Draft) -> None:
        """Append a draft, and let go of what the bound no longer holds."""
        self.accepted += 1
        size = draft.size
        if size > self._max_bytes:
            self.losses.add(draft.project_id, draft.type)
            return
        key = self._key_of(draft) if self.pressed else None
        waiting = Waiting(self.accepted, draft, size)
        self.bytes += size
        if key is None:
            self._latest.clear()  # It may stand between any two states.
        if draft.is_state:
            self._put_state(_State(waiting, key))
        else:
            self._facts.append(waiting)
            if key is not None:
                self._latest.pop(key.run, None)
        held = len(self._facts) + len(self._states)
        while held > self._max_events or self.bytes > self._max_bytes:
            self._make_room()
            held -= 1

    def take(self, max_events: int, max_bytes: int) -> list[Waiting]:
        """Remove and return the oldest drafts, in order.

        Args:
            max_events: Drafts returned at most.
            max_bytes: None is returned beyond it, except for the first one.
        """
        taken: list[Waiting] = []
        while len(taken) < max_events and (oldest := self._oldest()) is not None:
            max_bytes -= oldest.size
            if max_bytes < 0 and taken:
                break
            self._remove(oldest)
            taken.append(oldest)
        return taken

    def oldest(self) -> int | None:
        """Return the ticket of the oldest draft held."""
        oldest = self._oldest()
        return None if oldest is None else oldest.ticket

    def _put_state(self, state: _State) -> None:
        self._states[state.waiting.ticket] = state
        if state.key is None:
            return
        entities = self._latest.setdefault(state.key.run, {})
        before = entities.get(state.key.entity)
        if before is not None and before.key == state.key:
            self._outdated[before.waiting.ticket] = None
        entities[state.key.entity] = state

    def _make_room(self) -> None:
        if self._outdated:
            self._remove(self._states[next(iter(self._outdated))].waiting)
            self.conflated += 1
            return
        if self._states:
            waiting = self._oldest_state()
            kept = False
        else:
            waiting = self._facts[0]
            kept = self.spill(waiting)
        self._remove(waiting)
        if not kept:
            self.losses.add(waiting.draft.project_id, waiting.draft.type)

    def _oldest(self) -> Waiting | None:
        if not self._states:
            return self._facts[0] if self._facts else None
        state = self._oldest_state()
        return min(state, self._facts[0], key=_ticket) if self._facts else state

    def _oldest_state(self) -> Waiting:
        return next(iter(self._states.values())).waiting

    def _remove(self, waiting: Waiting) -> None:
        """Forget a state, or the oldest fact."""
        self.bytes -= waiting.size
        state = self._states.pop(waiting.ticket, None)
        if state is None:
            self._facts.popleft()
            return
        self._outdated.pop(waiting.ticket, None)
        if state.key is not None:
            self._forget_latest(state, state.key)

    def _forget_latest(self, state: _State, key: StateKey) -> None:
        entities = self._latest.get(key.run)
        if entities is not None and entities.get(key.entity) is state:
            del entities[key.entity]
            if not entities:
                del self._latest[key.run]


def _ticket(waiting: Waiting) -> int:
    return waiting.ticket

"""Fold a range of records: facts kept, states latest-wins. Used live, for slow viewers, for replay.

Pure: it sees offsets and envelopes, never a decoded event.
"""

from typing import Generic, NamedTuple, TypeVar

from tailrace.schemas import Envelope, Subject

__all__ = ["Coalescer", "Folded"]

T = TypeVar("T")

_SKIPPED_SIZE = 40
"""Bytes that the offset of a replaced state costs: an int and its place in the list."""


class Folded(NamedTuple, Generic[T]):
    """What is left of a range."""

    items: list[tuple[int, T]]
    """(offset, item), ascending: a state stands where its last update was."""
    skipped: list[int]
    """Offsets of the states that newer ones replaced, in no order."""


class Coalescer(Generic[T]):
    """Collects records in ascending offset and gives back what a viewer must see of them.

    A fact is always kept and is a barrier: states of its run that came before it are sealed. A
    state replaces the pending one of its entity only if nothing sealed that and its coalesce key
    is the same, status and stage included; so A B A stays A B A and no transition is lost.

    Memory grows with what it holds, counted in `size`; the owner takes it before that is too much.

    Args:
        every: Keep each record, coalesce nothing.
    """

    __slots__ = ("_every", "_items", "_open", "_skipped", "size")

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self._items: dict[int, tuple[T, int]] = {}
        self._open: dict[Subject, dict[tuple[str, str], tuple[str, int]]] = {}
        self._skipped: list[int] = []
        self.size = 0
        """Bytes held: the items, as the caller counted them, and the offsets skipped."""

    def __bool__(self) -> bool:
        """Tell whether anything is pending."""
        return bool(self._items)

    def __len__(self) -> int:
        """Return how many items are pending."""
        return len(self._items)

    def add(self, offset: int, envelope: Envelope, item: T, size: int = 0) -> None:
        """Take the next record.

        Args:
            offset: Greater than every offset before it.
            envelope: What its headers say.
            item: What to give back for it.
            size: Its bytes.
        """
        if not self._every:
            self._fold(offset, envelope)
        self._items[offset] = (item, size)
        self.size += size

    def replaces(self, envelope: Envelope) -> bool:
        """Tell whether a record, if it is the next one, replaces a pending state."""
        key = envelope.coalesce_key
        if key is None:
            return False
        identity = (envelope.type, key.partition("|")[0])
        pending = self._open.get(envelope.subject, {}).get(identity)
        return pending is not None and pending[0] == key

    def _fold(self, offset: int, envelope: Envelope) -> None:
        key = envelope.coalesce_key
        if key is None:
            self._open.pop(envelope.subject, None)
            return
        states = self._open.setdefault(envelope.subject, {})
        identity = (envelope.type, key.partition("|")[0])
        pending = states.get(identity)
        if pending is not None and pending[0] == key:
            self._drop(pending[1])
        states[identity] = (key, offset)

    def _drop(self, offset: int) -> None:
        _, size = self._items.pop(offset)
        self.size += _SKIPPED_SIZE - size
        self._skipped.append(offset)

    def take(self) -> Folded[T]:
        """Return what is pending and forget it."""
        folded = Folded(
            [(offset, item) for offset, (item, _) in self._items.items()], self._skipped
        )
        self._items = {}
        self._open = {}
        self._skipped = []
        self.size = 0
        return folded

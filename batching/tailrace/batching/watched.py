"""Which records of a project its viewers must not see: retries, and what proved undeliverable."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tailrace.batching.block import Logged

__all__ = ["Watched"]

R = TypeVar("R", bound=Logged)


class Watched(Generic[R]):
    """The event ids of one project in one partition, and the offsets to leave out.

    Holds at most one id and one offset for each record that it was given and not told to forget.

    Args:
        id_of: The event id of a record, from its headers; None when they do not name it.
    """

    __slots__ = ("_id_of", "_ids", "_left_out")

    def __init__(self, id_of: Callable[[R], str | None]) -> None:
        self._id_of = id_of
        self._ids: dict[str, int] = {}
        """Event id -> last offset that has it."""
        self._left_out: set[int] = set()

    def admit(self, records: Sequence[R]) -> Sequence[R]:
        """Take the next records; return them without the retries among them."""
        ids, id_of = self._ids, self._id_of
        retries: set[int] = set()
        for record in records:
            event_id = id_of(record)
            if event_id is not None:
                if event_id in ids:
                    retries.add(record.offset)
                ids[event_id] = record.offset
        if not retries:
            return records
        self._left_out |= retries
        return [record for record in records if record.offset not in retries]

    def reject(self, offset: int) -> bool:
        """Leave out the record at an offset, which was admitted; False if it was left out."""
        if offset in self._left_out:
            return False
        self._left_out.add(offset)
        return True

    def visible(self, records: Sequence[R]) -> Sequence[R]:
        """Return records that were admitted without those to leave out."""
        left_out = self._left_out
        if not left_out:
            return records
        return [record for record in records if record.offset not in left_out]

    def forget(self, records: Sequence[R]) -> None:
        """Forget the oldest records; an id that a later one has as well stays."""
        ids, id_of = self._ids, self._id_of
        for record in records:
            event_id = id_of(record)
            if event_id is not None and ids.get(event_id) == record.offset:
                del ids[event_id]
        self._left_out.difference_update([record.offset for record in records])

"""A range of the log on its way into one frame. Pure."""

from tailrace.batching import Coalescer
from tailrace.edge.chunk import Entry

__all__ = ["Fold"]

_FRAME_BYTES = 1 << 18
"""Of one frame, unless one event is larger: clients take at least a megabyte."""


class Fold(Coalescer[Entry]):
    """Coalesces records, as many as fit into a frame; then its owner takes them and goes on.

    A range is cut first and folded then: so each frame is whole in itself, and what it leaves out
    of its range is in it with a newer value.

    Args:
        every: Coalesce nothing.
        limit: Events at most.
    """

    __slots__ = ("limit",)

    def __init__(self, *, every: bool, limit: int | None = None) -> None:
        super().__init__(every=every)
        self.limit = limit

    def fits(self, entry: Entry) -> bool:
        """Tell whether the next record may be added; the first one always may."""
        if not self:
            return True
        if self.limit is not None and len(self) >= self.limit and not self.replaces(entry.envelope):
            return False
        return self.size + entry.size <= _FRAME_BYTES

    def take_in(self, entry: Entry) -> None:
        """Add the next record."""
        self.add(entry.record.offset, entry.envelope, entry, entry.size)

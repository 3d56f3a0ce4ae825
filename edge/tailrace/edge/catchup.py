"""One pass over a range of the log for all who wait at the same place of a channel. Pure."""

from typing import NamedTuple

from tailrace.edge.channel import Channel, Viewer
from tailrace.edge.chunk import Chunk, Record
from tailrace.edge.fold import Fold
from tailrace.edge.hub import Hub
from tailrace.schemas import Position

__all__ = ["Catchup", "Place", "place_of"]


class Place(NamedTuple):
    """What viewers have in common whom one pass serves."""

    channel: Channel
    position: Position
    limit: int | None


def place_of(viewer: Viewer) -> Place:
    """Return where a viewer waits."""
    return Place(viewer.channel, viewer.position, viewer.limit)


class Catchup:
    """Folds what viewers of a channel have missed, fed from the journal or from Kafka.

    Args:
        hub: Makes chunks of what was folded.
        place: Where they wait.
        viewers: Who waits there.
    """

    __slots__ = ("_fold", "_hub", "careful", "channel", "prev", "reached", "viewers")

    def __init__(self, hub: Hub, place: Place, viewers: list[Viewer]) -> None:
        self._hub = hub
        self.channel = place.channel
        self.prev = place.position
        """What they have been served."""
        self.viewers = viewers
        self.reached = self.prev
        """The last record looked at."""
        self.careful = False
        """Whether each record is decoded before it may replace another. From the moment on in
        which `hand_over` found that a bad one had: feed it again what comes after `prev`."""
        self._fold = Fold(every=self.channel.key.every, limit=place.limit)

    def feed(self, record: Record) -> bool:
        """Look at the next record of the project; False: `hand_over` first, it does not fit."""
        partition = self.prev.partition
        entry = self._hub.entry(partition, record)
        if (
            entry is not None
            and self.channel.wants(entry.envelope)
            and (not self.careful or self._hub.readable(partition, entry))
        ):
            if not self._fold.fits(entry):
                return False
            self._fold.take_in(entry)
        self.reached = self.prev._replace(offset=record.offset, timestamp_ms=record.timestamp)
        return True

    def hand_over(self, cursor: Position) -> Chunk | None:
        """Deliver what was folded, as the range up to `cursor`, to all who have room.

        Those who have none, or are gone, are left where they are and leave the pass.

        Returns:
            What was delivered; None when nobody was left, or a bad record has replaced a good one
            that the journal holds no more: then it is `careful` from now on and back at `prev`.
        """
        self._retain()
        if not self.viewers:
            return None
        chunk = self._hub.chunk(self.channel, self._fold.take(), self.prev, cursor)
        if chunk is None:
            self.careful = True
            self.reached = self.prev
            return None
        for viewer in self.viewers:
            self._hub.hand(viewer, chunk)
        self._fold.limit = self.viewers[0].limit  # what is left of it, the same for all
        self.prev = self.reached = cursor
        return chunk

    def _retain(self) -> None:
        """Keep those who can be served."""
        staying = []
        for viewer in self.viewers:
            if viewer.open and viewer.full():
                self._hub.counts.overrun += 1
                viewer.wait_for_room()
            elif viewer.open:
                staying.append(viewer)
        self.viewers = staying

"""Viewers who are behind, served from the journal in turn until they are live. Pure."""

from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum, auto

from tailrace.edge.catchup import Catchup, Place, place_of
from tailrace.edge.channel import ChannelKey, Viewer
from tailrace.edge.chunk import Chunk
from tailrace.edge.hub import Hub
from tailrace.schemas import Position

__all__ = ["Backlog"]

_CACHE_BYTES = 8 << 20
_CHUNK_BYTES = 500
_EVENT_BYTES = 250
"""What a cached chunk and each of its events cost beside their bytes."""


class _Fed(Enum):
    """How far a turn has brought a pass."""

    ALL = auto()
    """Up to the channel's cursor."""
    FULL = auto()
    """The next record does not fit any more."""
    MORE = auto()
    """Its turn is over."""


class Backlog:
    """All who are behind, each a position and no queue.

    Viewers at the same position of a channel are served by one pass over the journal, also when
    they come one after the other: they join one that is there, and what it has made is kept for a
    while. A pass makes one chunk; the passes take turns, so that a long one delays nobody.

    Args:
        hub: Whose channels and journal.
        cache_bytes: Bound of what is kept; the least recently used is forgotten.
    """

    def __init__(self, hub: Hub, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._hub = hub
        self._waiting: dict[Viewer, None] = {}
        self._passes: OrderedDict[Place, Catchup] = OrderedDict()
        self._cache: OrderedDict[tuple[ChannelKey, Position], tuple[Chunk, int]] = OrderedDict()
        self._cache_max_bytes = cache_bytes
        self._cache_bytes = 0

    def __bool__(self) -> bool:
        """Tell whether there is anything to do now."""
        return bool(self._waiting or self._passes)

    def add(self, viewer: Viewer) -> None:
        """Serve a viewer who is behind, at the next turn."""
        self._waiting[viewer] = None

    def clear(self) -> None:
        """Forget everybody and everything: the log is another one."""
        self._waiting.clear()
        self._passes.clear()
        self._cache.clear()
        self._cache_bytes = 0

    def turn(self, records: int) -> list[Viewer]:
        """Do a slice of the work.

        Args:
            records: How many records one pass may look at.

        Returns:
            Viewers whose next record the journal holds no more: replay it to them from Kafka.
        """
        lost = self._admit()
        if self._passes:
            lost += self._advance(*self._passes.popitem(last=False), records)
        return lost

    def _admit(self) -> list[Viewer]:
        """Let those who wait join a pass; return whom the journal cannot serve."""
        lost: list[Viewer] = []
        waiting, self._waiting = self._waiting, {}
        for viewer in waiting:
            if not viewer.open or viewer.live:
                continue
            if viewer.full():
                self._hub.counts.overrun += 1
                viewer.wait_for_room()
                continue
            if viewer.gap is not None:
                gap, viewer.gap = viewer.gap, None
                viewer.tell(gap)
            if not self._from_cache(viewer) or self._settled(viewer):
                continue
            if viewer.position.offset < self._hub.journal.floor(viewer.position.partition):
                lost.append(viewer)
            else:
                self._join(viewer)
        return lost

    def _join(self, viewer: Viewer) -> None:
        """Let a viewer be served by the pass at its place."""
        place = place_of(viewer)
        catchup = self._passes.get(place)
        if catchup is None:
            self._hub.counts.passes += 1
            self._passes[place] = Catchup(self._hub, place, [viewer])
        else:
            catchup.viewers.append(viewer)

    def _settled(self, viewer: Viewer) -> bool:
        """Tell whether there is nothing to catch up with, and put the viewer where it belongs."""
        channel, position = viewer.channel, viewer.position
        if position == channel.cursor:
            viewer.arrive()
        elif position.offset > channel.cursor.offset:
            # Of a node that is ahead of this one, or of this one while the channel was idle.
            channel.parked[viewer] = None
            self._hub.hasten(channel, position)
        else:
            return False
        return True

    def _from_cache(self, viewer: Viewer) -> bool:
        """Deliver what earlier passes have made of the same range; False if the socket is full."""
        channel = viewer.channel
        if viewer.limit is not None:
            return True
        for chunk in self._cached(channel.key, viewer):
            built = len(chunk.frames)
            self._hub.hand(viewer, chunk)
            if len(chunk.frames) > built:
                self._keep(channel.key, chunk)
            if not viewer.open:
                return False
            if viewer.full():
                self._hub.counts.overrun += 1
                viewer.wait_for_room()
                return False
        return True

    def _cached(self, key: ChannelKey, viewer: Viewer) -> Iterator[Chunk]:
        while (kept := self._cache.get((key, viewer.position))) is not None:
            self._cache.move_to_end((key, viewer.position))
            yield kept[0]

    def _advance(self, place: Place, catchup: Catchup, records: int) -> list[Viewer]:
        """Go on with a pass; return its viewers if the journal has forgotten what they need."""
        if not any(viewer.open for viewer in catchup.viewers):
            return []
        if catchup.reached.offset < self._hub.journal.floor(place.position.partition):
            return catchup.viewers
        fed = self._feed(catchup, records)
        if fed is _Fed.MORE:
            self._passes[place] = catchup
            return []
        channel = place.channel
        chunk = catchup.hand_over(channel.cursor if fed is _Fed.ALL else catchup.reached)
        if catchup.careful:
            return catchup.viewers
        if chunk is not None and place.limit is None:
            self._keep(channel.key, chunk)
        for viewer in catchup.viewers:
            if fed is _Fed.ALL:
                viewer.arrive()
            else:
                self.add(viewer)  # others may have been before where it is now
        return []

    def _feed(self, catchup: Catchup, records: int) -> _Fed:
        """Feed a pass with the records up to the channel's cursor, but not more than `records`."""
        channel = catchup.channel
        project = channel.key.project_id.encode()
        after = catchup.reached.offset
        for record in self._hub.journal.range(catchup.prev.partition, project, after):
            if record.offset > channel.cursor.offset:
                return _Fed.ALL
            if not catchup.feed(record):
                return _Fed.FULL
            records -= 1
            if not records:
                return _Fed.MORE
        return _Fed.ALL

    def _keep(self, key: ChannelKey, chunk: Chunk) -> None:
        """Keep a chunk, or count anew one that is kept: with the frames built since."""
        chunk, before = self._cache.pop((key, chunk.prev), (chunk, 0))
        cost = _cost(chunk)
        self._cache[key, chunk.prev] = chunk, cost
        self._cache_bytes += cost - before
        while self._cache_bytes > self._cache_max_bytes:
            _, (_, oldest) = self._cache.popitem(last=False)
            self._cache_bytes -= oldest


def _cost(chunk: Chunk) -> int:
    """Return about what a chunk takes, with the frames that are built of it."""
    frames = sum(map(len, chunk.frames.values()))
    return _CHUNK_BYTES + chunk.size + _EVENT_BYTES * len(chunk.events) + frames

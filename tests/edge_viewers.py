"""Viewers without a connection, and a hub, its backlog and a log that serve them in memory."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import orjson
from edge_harness import make_event, record_of
from memory_topic import StubRecord

from tailrace.edge.backlog import Backlog
from tailrace.edge.catchup import Catchup, place_of
from tailrace.edge.channel import Channel, ChannelKey, Viewer
from tailrace.edge.chunk import Chunk
from tailrace.edge.dialect import Break, Dialect, frame_of
from tailrace.edge.direct import Socket, broadcast
from tailrace.edge.hub import Hub, Log
from tailrace.schemas import Position, RecordError, Subject, parse_cursor

LOG = Log(topic_id=7, partitions=4)
PARTITION = 2
"""Of everything that is published here unless it says otherwise."""

_ENDLESS = 1 << 62


class Heard(NamedTuple):
    """One batch, as a viewer reads it."""

    prev: Position
    cursor: Position
    skipped: int
    ns: list[int]
    """The `n` of each event: its offset."""


class Skipped(NamedTuple):
    """A record that could not be delivered."""

    partition: int
    offset: int
    reason: str


class _Batch(TypedDict):
    prev: str
    cursor: str
    skipped: int
    events: list[dict[str, dict[str, int]]]


def place(offset: int, timestamp_ms: int | None = None) -> Position:
    """Return the place of a record that `state` or `fact` made, or with another timestamp."""
    known = 1000 + offset if offset >= 0 else -1
    return LOG.position(PARTITION, offset, known if timestamp_ms is None else timestamp_ms)


def state(
    offset: int,
    status: str = "A",
    *,
    project: str = "p1",
    run: str = "j1",
    entity: str | None = None,
    type: str = "ingest.job.updated",  # noqa: A002
    padding: int = 0,
    headers: bool = True,
) -> StubRecord:
    """Return the record of a state; `padding` makes its event so many bytes larger."""
    event = make_event(project, type, run, data=_data(offset, padding))._replace(
        status=status, entity_id=entity or run
    )
    return record_of(event, offset, headers=headers)


def fact(
    offset: int,
    *,
    project: str = "p1",
    run: str = "j1",
    type: str = "ingest.job.created",  # noqa: A002
    padding: int = 0,
    headers: bool = True,
) -> StubRecord:
    """Return the record of a fact."""
    return record_of(
        make_event(project, type, run, data=_data(offset, padding)), offset, headers=headers
    )


def _data(offset: int, padding: int) -> str:
    filler = f',"filler":"{"x" * padding}"' if padding else ""
    return f'{{"body":{{"n":{offset}{filler}}}}}'


def spoilt(record: StubRecord) -> StubRecord:
    """Return a record whose headers are well and whose value cannot be decoded."""
    return record._replace(value=b"cut")


def states_of_one_key(first: int, count: int) -> list[StubRecord]:
    """Return states that each replace the one before."""
    return [state(offset) for offset in range(first, first + count)]


def heard_in(frame: bytes) -> Heard:
    """Read one `tailrace.v1.json` batch from its WebSocket frame."""
    start = {126: 4, 127: 10}.get(frame[1], 2)
    batch: _Batch = orjson.loads(frame[start:])
    return Heard(
        parse_cursor(batch["prev"]),
        parse_cursor(batch["cursor"]),
        batch["skipped"],
        [event["body"]["n"] for event in batch["events"]],
    )


class Witness:
    """A viewer who speaks `tailrace.v1.json` and remembers everything.

    Args:
        channel: What it follows.
        position: Where it begins.
        room: How many frames it takes before it is full.
        limit: Events per chunk at most.
    """

    def __init__(
        self,
        channel: Channel,
        position: Position,
        *,
        room: int = _ENDLESS,
        limit: int | None = None,
    ) -> None:
        self.channel = channel
        self.position = position
        self.live = False
        self.gap: Break | None = None
        self.open = True
        self.limit = limit
        self.began = position
        self.frames: list[bytes] = []
        self.gaps: list[Break] = []
        self.waits = 0
        """How often it was told to come back when there is room."""
        self.given_up = False
        self._room = room
        self.session = Socket(self._take, self.full, max_buffered=0)

    @property
    def heard(self) -> list[Heard]:
        return [heard_in(frame) for frame in self.frames]

    @property
    def ns(self) -> list[int]:
        """Everything heard so far, in order."""
        return [n for heard in self.heard for n in heard.ns]

    def full(self) -> bool:
        return self._room <= 0

    def stall(self, room: int = 0) -> None:
        """Take `room` more frames and no further one."""
        self._room = room

    def drain(self) -> None:
        """Take everything again; put it back into the backlog if it `waits`."""
        self._room = _ENDLESS

    def _take(self, frame: bytes) -> None:
        assert self.open, "gone"
        self._room -= 1
        self.frames.append(frame)

    def wait_for_room(self) -> None:
        self.waits += 1

    def deliver(self, chunk: Chunk) -> None:
        assert chunk.prev == self.position, "an unbroken chain"
        assert not self.live, "served twice"
        assert self.session.offer(frame_of(chunk, Dialect.V1)), "asked before it is written to"
        self.position = chunk.cursor

    def tell(self, gap: Break) -> None:
        self.gaps.append(gap)
        self.position = gap.cursor

    def arrive(self) -> None:
        self.live = True
        self.channel.live.setdefault(Dialect.V1, {})[self] = None

    def give_up(self) -> None:
        self.given_up = True


class Stage:
    """What a node is made of, but for its loops: the test turns each wheel by itself.

    Args:
        journal_max_bytes: Of the hub's journal; a record takes about 2 KB.
    """

    def __init__(self, *, journal_max_bytes: int = 1 << 22, cache_bytes: int = 1 << 20) -> None:
        self.skipped: list[Skipped] = []
        self.hub = Hub(journal_max_bytes=journal_max_bytes, skip=self._skip)
        self.hub.begin(LOG, dict.fromkeys(range(LOG.partitions), (-1, -1)))
        self.backlog = Backlog(self.hub, cache_bytes=cache_bytes)
        self.log: list[StubRecord] = []
        """What Kafka holds of the partition."""
        self.lost: list[Viewer] = []
        """Who waits for a replay from it."""
        self.now = 0.0

    def _skip(self, partition: int, offset: int, error: RecordError) -> None:
        self.skipped.append(Skipped(partition, offset, error.reason))

    def publish(self, *records: StubRecord) -> None:
        """Let the node read the next records of the partition."""
        self.log += records
        self.hub.publish(PARTITION, records, self.now)

    def watch(
        self,
        key: ChannelKey,
        position: Position | None = None,
        *,
        room: int = _ENDLESS,
        limit: int | None = None,
    ) -> Witness:
        """Let a viewer come: live, or after a position."""
        channel = self.hub.open(key, PARTITION, self.now)
        viewer = Witness(channel, position or channel.cursor, room=room, limit=limit)
        self.seat(viewer)
        return viewer

    def seat(self, viewer: Viewer) -> None:
        """Serve a viewer from where it is."""
        self.hub.enter(viewer)
        if viewer.position == viewer.channel.cursor:
            viewer.arrive()
        else:
            self.backlog.add(viewer)

    def leave(self, viewer: Witness) -> None:
        """Let a viewer go."""
        viewer.open = False
        self.hub.leave(viewer)

    def drain(self, viewer: Witness) -> None:
        """Let a viewer have room again."""
        viewer.drain()
        if not viewer.live and viewer.waits:
            viewer.waits = 0
            self.backlog.add(viewer)

    def flush(self, seconds: float = 60.0) -> list[Chunk]:
        """Let time pass, then broadcast what is due by then; return it."""
        self.now += seconds
        chunks: list[Chunk] = []
        for channel in self.hub.due(self.now):
            chunks += self._broadcast(channel)
        return chunks

    def beat(self) -> list[Chunk]:
        """Broadcast on all channels with a live viewer, as a heartbeat does."""
        self.now += 60.0
        self.hub.beat(self.now, 25.0, 10.0)
        return self.flush(0.0)

    def _broadcast(self, channel: Channel) -> list[Chunk]:
        chunks = self.hub.flush(channel)
        for viewer in channel.parked:
            self.backlog.add(viewer)
        channel.parked.clear()
        for chunk in chunks:
            live = tuple(channel.live.get(Dialect.V1, ()))
            _, full = broadcast(live, frame_of(chunk, Dialect.V1))
            for viewer in full:
                self.hub.fall_behind(viewer, chunk.prev)
                viewer.wait_for_room()
        return chunks

    def turn(self, records: int = 500) -> list[Viewer]:
        """Give the backlog a turn; return who is to be served from Kafka."""
        lost = self.backlog.turn(records)
        self.lost += lost
        return lost

    def catch_up(self, records: int = 500) -> int:
        """Serve all who are behind, from Kafka too, until nobody can be; return the turns taken."""
        turns = 0
        while self.backlog or self.lost:
            self.turn(records)
            self.replay()
            turns += 1
            assert turns < 10_000, "it never ends"
        return turns

    def replay(self) -> None:
        """Be Kafka: serve those who are lost up to where the journal begins."""
        lost, self.lost = self.lost, []
        for viewer in lost:
            if viewer.open:
                self._replay(viewer)

    def _replay(self, viewer: Viewer) -> None:
        catchup = Catchup(self.hub, place_of(viewer), [viewer])
        while not self._scan(catchup):
            assert catchup.careful, "it reads once more for this reason alone"
        for left in catchup.viewers:
            self.backlog.add(left)

    def _scan(self, catchup: Catchup) -> bool:
        """Read the log to a pass, up to where the journal begins; False: once more, carefully."""
        key = catchup.channel.key.project_id.encode()
        floor = self.hub.at(PARTITION, self.hub.journal.floor(PARTITION))
        careful = catchup.careful
        for record in self.log:
            if record.key != key or not catchup.reached.offset < record.offset <= floor.offset:
                continue
            if not catchup.feed(record):
                catchup.hand_over(catchup.reached)
                if catchup.careful != careful:
                    return False
                catchup.feed(record)
        catchup.hand_over(floor)
        return catchup.careful == careful


def key_of(
    project: str = "p1", run: str | None = None, *, every: bool = False, kind: str = "ingest"
) -> ChannelKey:
    """Return the channel of a project or of one of its runs."""
    return ChannelKey(project, None if run is None else Subject(kind, run), every=every)


def chained(heard: Sequence[Heard], start: Position) -> bool:
    """Tell whether each range begins where the one before ended."""
    ends = [start, *(batch.cursor for batch in heard)]
    return all(batch.prev == end for batch, end in zip(heard, ends, strict=False))

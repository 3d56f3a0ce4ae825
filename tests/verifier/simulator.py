"""An honest edge without I/O: slow, obvious, and written from docs/protocol.md alone. Pure.

It gives the lines that a viewer would record, in any dialect, with random frames, drops and
resumes; the judge must find nothing wrong with them.
"""

import random
import struct
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import orjson

from verifier.dialects import Dialect
from verifier.expectation import Watch
from verifier.record import Entry, Record, read_entry
from verifier.recording import Line

__all__ = ["Fold", "Simulator", "cursor_at"]


def cursor_at(partition: int, offset: int) -> str:
    """Return the cursor of a position in a topic of 4 partitions."""
    body = struct.pack(">BIIIqq", 1, 7, partition, 4, offset, 1000 + offset)
    return urlsafe_b64encode(body + b"xxxx").decode()


_ANSWER: Final = {"gap": None, "more": True}


def _text(**members: Any) -> str:
    return orjson.dumps(members).decode()


class Fold(NamedTuple):
    """What a viewer is shown of the range (low, high]."""

    low: int
    high: int
    shown: list[Entry]
    skipped: int


class Simulator:
    """Serves one viewer from a finished log.

    Args:
        records: Of the project, in ascending offset; markers last.
        watch: What the viewer asked for.
        dialect: How it is told.
        seed: Of frames and drops.
    """

    def __init__(
        self, records: Sequence[Record], watch: Watch, dialect: Dialect, seed: int
    ) -> None:
        self._random = random.Random(seed)
        self._watch = watch
        self._dialect = dialect
        self._partition = records[0].partition
        self._wanted = [entry for entry in _events(records) if watch.wants(entry)]
        self.last = self._wanted[-1].offset

    def lines(self) -> Iterator[Line]:
        """Return what the viewer records."""
        watch = self._watch._asdict()
        yield "viewer", {"id": "v", "watch": watch, "dialect": self._dialect}
        at = self.begin()
        after = None
        while at < self.last:
            yield "open", after
            if self._dialect == "v1":
                yield "got", self.subscribed(at, resumed=after is not None)
                after = self.cursor(at)
            for high, message in self._until_dropped(at):
                yield "got", message
                at, after = high, self.cursor(high)
        yield "end", "marker"

    def _until_dropped(self, at: int) -> Iterator[tuple[int, Any]]:
        """Yield messages until the viewer drops out, be it in the middle of a frame."""
        for frame in self.frames(at):
            for high, message in self.told(frame):
                yield high, message
                if self._random.random() < 0.1:
                    return
            if self._dialect == "json":
                return

    def begin(self) -> int:
        """Return where a first subscription begins."""
        return -1 if self._watch.start == "start" else self._random.randint(-1, self.last // 2)

    def cursor(self, offset: int) -> str:
        """Return the cursor of a position in this project's partition."""
        return cursor_at(self._partition, offset)

    def subscribed(self, at: int, *, resumed: bool, **more: Any) -> str:
        """Return v1's answer to subscribe."""
        members = {"ch": self.channel, "cursor": self.cursor(at), "resumed": resumed, "gap": None}
        return _text(t="subscribed", **members, **more)

    @property
    def channel(self) -> str:
        """The channel's name, with what is not its default."""
        query = {"delivery": self._watch.delivery, "types": self._watch.types}
        asked = {n: v for n, v in query.items() if v not in {"latest", "*"}}
        return self._watch.channel + (f"?{urlencode(asked)}" if asked else "")

    def frames(self, at: int) -> Iterator[Fold]:
        """Yield what the log holds after a position, cut at random."""
        while at < self.last:
            high = min(at + self._random.randint(1, 40), self.last)
            yield self._fold(at, high)
            at = high

    def _fold(self, low: int, high: int) -> Fold:
        """Look at each record of (low, high] and ask whether it has to be shown."""
        inside = [entry for entry in self._wanted if low < entry.offset <= high]
        every = self._watch.delivery == "every"
        shown = [e for n, e in enumerate(inside) if every or not _stood_for(e, inside[n + 1 :])]
        return Fold(low, high, shown, len(inside) - len(shown))

    def told(self, frame: Fold) -> Iterator[tuple[int, Any]]:
        """Return what is sent of a frame, each message with the position after it."""
        events = [orjson.loads(entry.text or b"") for entry in frame.shown]
        match self._dialect:
            case "v1" | "json":
                text = _text(
                    **({"t": "batch", "ch": self.channel} if self._dialect == "v1" else _ANSWER),
                    prev=self.cursor(frame.low),
                    cursor=self.cursor(frame.high),
                    skipped=frame.skipped,
                    events=events,
                )
                yield frame.high, text
            case "plain":
                for entry, event in zip(frame.shown, events, strict=True):
                    event["cursor"] = self.cursor(entry.offset)
                    yield entry.offset, _text(**event)
            case _:
                for entry, event in zip(frame.shown, events, strict=True):
                    block = {"id": self.cursor(entry.offset), "data": _text(**event)}
                    yield entry.offset, block
                yield frame.high, {"id": self.cursor(frame.high)}


def _events(records: Sequence[Record]) -> Iterator[Entry]:
    """Return the project's records without bad ones and retries."""
    ids = set()
    for entry in map(read_entry, records):
        if entry is not None and entry.text is not None and entry.event_id not in ids:
            ids.add(entry.event_id)
            yield entry


def _stood_for(entry: Entry, later: Sequence[Entry]) -> bool:
    """Whether a later record of the range may be shown in a state's place."""
    if entry.key is None:
        return False
    for other in later:
        if other.run != entry.run:
            continue
        if other.key is None:
            return False
        same = other.type == entry.type and other.key.split("|")[0] == entry.key.split("|")[0]
        if same:
            return other.key == entry.key
    return False

"""The log of one channel: which records a viewer must see, and which may be left out. Pure."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple
from urllib.parse import quote

from verifier.record import Entry, Record, Run, read_entry

__all__ = ["Expectation", "Expected", "Log", "Watch"]

_SEGMENTS = {"ingest": "ingest", "agent": "agent-runs", "workflow": "workflows/runs"}


class Watch(NamedTuple):
    """What a viewer asked for."""

    project: str
    kind: str | None = None
    """None: everything of the project."""
    run: str | None = None
    types: str = "*"
    start: Literal["start", "live"] = "live"
    delivery: Literal["latest", "every"] = "latest"

    @property
    def path(self) -> str:
        """The path of its URL (§2)."""
        path = f"/api/stream/projects/{quote(self.project, safe='')}"
        if self.kind is None:
            return path
        return f"{path}/{_SEGMENTS[self.kind]}/{quote(self.run or '', safe='')}"

    @property
    def channel(self) -> str:
        """The channel's canonical name, without its filters (§3.2)."""
        parts = (self.project, self.kind, self.run)
        return "/".join(quote(part, safe="") for part in parts if part is not None)

    def wants(self, entry: Entry) -> bool:
        """Whether a record of the project belongs to the channel."""
        if self.kind is not None and entry.run != Run(self.kind, self.run):
            return False
        return any(fnmatchcase(entry.type, item) for item in self.types.split(","))


class Expected(NamedTuple):
    """A record of the channel that every viewer sees, or sees replaced."""

    offset: int
    entry: Entry
    replaced_by: int | None
    """Offset of the next state of its identity, if that may stand for this one: the same status
    and stage, and no fact of the run between. None: it must be delivered."""


class Expectation:
    """What the log holds for one channel.

    Args:
        watch: The channel.
        entries: All of its project's, in ascending offset.
        held: A retry that comes so many offsets after its original, or more, may be delivered: a
            node need not hold that any more (§1.3). None: each must be known.

    Raises:
        ValueError: Two different records of the channel have the same event JSON, so that none
            could tell which of them a viewer saw.
    """

    def __init__(self, watch: Watch, entries: Sequence[Entry], held: int | None = None) -> None:
        self.watch = watch
        self._held = held
        self._followed: dict[int, int] = {}
        """Offset of a state -> of the next one that may stand for it, be it a retry."""
        self._originals: dict[int, int] = {}
        """Offset of a retry -> of the copy before it; ascending."""
        self.partition = entries[0].partition if entries else 0
        self.records: list[Expected] = []
        """Ascending in offset, without bad ones, and of each event the first copy only."""
        self.copies: dict[bytes, list[int]] = {}
        """Event JSON -> offsets of the record and of its retries."""
        self.bad: list[int] = []
        """Offsets of records that may count as skipped, and nobody may see."""
        self._collect([entry for entry in entries if watch.wants(entry)])
        self._offsets = [record.offset for record in self.records]
        self._by_offset = {record.offset: record for record in self.records}
        self._retries = list(self._originals)
        self._copies_of = {o: offsets for offsets in self.copies.values() for o in offsets}

    @property
    def forgetful(self) -> bool:
        """Whether a node may have forgotten a record while its viewers are still behind."""
        return self._held is not None

    def between(self, after: int, upto: int) -> Sequence[Expected]:
        """Return the records in the range (after, upto]."""
        low, high = bisect_right(self._offsets, after), bisect_right(self._offsets, upto)
        return self.records[low:high]

    def at(self, offset: int) -> Expected | None:
        """Return the record at an offset; None for a retry or another channel's record."""
        return self._by_offset.get(offset)

    def bad_between(self, after: int, upto: int) -> int:
        """Return how many bad records the range (after, upto] holds."""
        return bisect_right(self.bad, upto) - bisect_right(self.bad, after)

    def repeatable(self, offset: int, since: int) -> bool:
        """Whether a retry may be delivered to who is served since the offset `since`."""
        original = self._originals.get(offset)
        if original is None:
            return False
        return original <= since or (self._held is not None and offset - original >= self._held)

    def repeatable_between(self, after: int, upto: int, since: int) -> int:
        """Return how many retries in (after, upto] may be delivered."""
        low, high = bisect_right(self._retries, after), bisect_right(self._retries, upto)
        return sum(self.repeatable(offset, since) for offset in self._retries[low:high])

    def retries_for(self, offset: int) -> Iterator[int]:
        """Yield the retries that may stand for a state, as a node need not know them as such."""
        following = None if self._held is None else self._followed.get(offset)
        while following in self._originals:
            yield following
            following = self._followed.get(following)

    def copies_of(self, offset: int) -> Sequence[int]:
        """Return the offsets of a record and its retries, of any of them."""
        return self._copies_of[offset]

    def _collect(self, entries: Sequence[Entry]) -> None:
        texts: dict[str, bytes] = {}
        good: list[Entry] = []
        for entry in entries:
            if entry.text is None:
                self.bad.append(entry.offset)
            elif entry.event_id in texts:
                copies = self.copies[texts[entry.event_id]]
                self._originals[entry.offset] = copies[-1]
                copies.append(entry.offset)
            elif entry.text in self.copies:
                raise ValueError(f"offset {entry.offset} looks like another: {entry.text[:200]!r}")
            else:
                texts[entry.event_id] = entry.text
                self.copies[entry.text] = [entry.offset]
                good.append(entry)
        replaced: dict[int, int] = {}
        if self.watch.delivery == "latest":
            replaced = _replacements(good)
            self._followed = _replacements(e for e in entries if e.text is not None)
        self.records = [Expected(e.offset, e, replaced.get(e.offset)) for e in good]


def _replacements(entries: Iterable[Entry]) -> dict[int, int]:
    """Return, for each state that a later one may stand for, the offset of that one."""
    found: dict[int, int] = {}
    pending: dict[Run, dict[tuple[str, str], Entry]] = defaultdict(dict)
    for entry in entries:
        if entry.key is None:
            pending.pop(entry.run, None)
            continue
        identity = (entry.type, entry.key.partition("|")[0])
        before = pending[entry.run].get(identity)
        if before is not None and before.key == entry.key:
            found[before.offset] = entry.offset
        pending[entry.run][identity] = entry
    return found


class Log:
    """The topic, as far as viewers can see it.

    Memory grows with the topic: it is for topics that a test has written.

    Args:
        records: In ascending offset per partition.
        held: See `Expectation`.
    """

    def __init__(self, records: Iterable[Record], held: int | None = None) -> None:
        self._held = held
        self.projects: dict[str, list[Entry]] = defaultdict(list)
        self._expectations: dict[Watch, Expectation] = {}
        for record in records:
            entry = read_entry(record)
            if entry is not None:
                self.projects[entry.project].append(entry)

    def expectation(self, watch: Watch) -> Expectation:
        """Return what the log holds for a channel; viewers of one channel share it."""
        channel = watch._replace(start="live")
        if channel not in self._expectations:
            entries = self.projects.get(watch.project, [])
            self._expectations[channel] = Expectation(channel, entries, self._held)
        return self._expectations[channel]

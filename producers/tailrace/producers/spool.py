"""What memory could not hold and Kafka does not have yet: a queue of records on disk.

Each process writes segments of its own, in a folder of its queue (see `spool_folder`), and holds a
lock (``flock``) in there for as long as it lives. A folder whose lock is free belongs to a dead
process: whoever gets the lock adopts its segments and sends them. A segment is removed once Kafka
has all of its records; a process that dies before that leaves it to be sent again, with the same
event ids.
"""

import fcntl
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path

import structlog

from tailrace.logs import RateLimit
from tailrace.producers.lanes import Outgoing
from tailrace.producers.segment import frame_of, scan
from tailrace.producers.spool_folder import LOCK, SEGMENT_SUFFIX, claim

__all__ = ["Spool", "sync"]

_RETRY_SECONDS = 1.0
_LOG_PERIOD = 60.0
_OPEN_FILES = 16

_log = structlog.get_logger("tailrace.producers")


class _Segment:
    """One file of records, in the order of their tickets."""

    __slots__ = ("adopted", "bytes", "events", "first", "last", "path")

    def __init__(self, path: Path, *, adopted: bool) -> None:
        self.path = path
        self.adopted = adopted
        self.bytes = 0
        self.events = 0
        self.first = 0
        """Ticket of its first record; of an adopted one once it is read."""
        self.last = 0


class Spool:
    """Records on disk, first in, first out.

    No method raises for what the disk does. Not thread-safe: the owner locks.

    Args:
        queue: Folder of all records that go the same way, shared by any number of processes; made
            when it is needed.
        max_bytes: Kept on disk at most by this process, adopted segments included. Beyond it
            nothing more is taken. 0 takes nothing at all.
        segment_bytes: Size of a segment: what is read, and removed, at once.
    """

    def __init__(self, queue: Path, *, max_bytes: int, segment_bytes: int = 1 << 20) -> None:
        self._parent = queue
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._own: Path | None = None
        self._locks: list[tuple[Path, int]] = []
        self._number = 0
        self._unread: deque[_Segment] = deque()
        self._read: deque[_Segment] = deque()
        """Segments whose records were all handed out or are in `_loaded`."""
        self._loaded: deque[Outgoing] = deque()
        self._adopted_ticket = -(1 << 62)
        self._file: int | None = None
        """The segment that is being written: the last one of `_unread`."""
        self._unsynced: list[int] = []
        self._dirty = False
        self._retry_at = float("-inf")
        self._limit = RateLimit(_LOG_PERIOD)
        self.on_dirty: Callable[[], None] = _nobody
        """Called when something was written and `sync` is due some time later."""
        self.bytes = 0
        """Size of what is on disk."""
        self.spooled = 0
        """Records that this process has put in."""
        self.replayed = 0
        """Records that have left again because Kafka has them."""
        self.lost = 0
        """Frames that did not read back as they were written."""

    def __bool__(self) -> bool:
        """Tell whether it holds a record that Kafka does not have."""
        return bool(self._unread or self._read)

    @property
    def events(self) -> int:
        """Records that Kafka may not have; an adopted segment that is not read counts as one."""
        return sum(segment.events or 1 for segment in chain(self._read, self._unread))

    # Taking over.

    def adopt(self) -> None:
        """Take over the segments of dead processes, before anything else is read or written."""
        found: list[_Segment] = []
        with suppress(OSError):
            for folder in sorted(self._parent.iterdir()):
                with suppress(OSError):
                    found += self._adopted(folder)
        self._unread.extendleft(reversed(found))
        self.bytes += sum(segment.bytes for segment in found)
        if found:
            _log.info("spool_adopted", segments=len(found), bytes=self.bytes)

    def _adopted(self, folder: Path) -> list[_Segment]:
        if folder == self._own or folder.name.startswith("."):
            return []
        lock = claim(folder)
        if lock is None:
            return []
        self._locks.append((folder, lock))
        found = []
        for path in sorted(folder.glob(f"*{SEGMENT_SUFFIX}")):
            segment = _Segment(path, adopted=True)
            segment.bytes = path.stat().st_size
            found.append(segment)
        return found

    # Writing.

    def ready(self) -> bool:
        """Tell whether it is worth trying to `append`: the disk did not fail just now."""
        return 0 <= self.bytes < self._max_bytes and time.monotonic() >= self._retry_at

    def append(self, record: Outgoing) -> bool:
        """Write a record behind all others; False: full, or the disk did not take it."""
        frame = frame_of(record)
        if self.bytes + len(frame) > self._max_bytes:
            self._complain("spool_full", max_bytes=self._max_bytes)
            return False
        try:
            segment = self._writable()
            assert self._file is not None
            _write(self._file, frame, segment.bytes)
        except OSError as exc:
            self._seal()
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._complain("spool_not_writable", folder=str(self._parent), detail=str(exc))
            return False
        segment.first = segment.first or record.ticket
        segment.last = record.ticket
        self._count(segment, len(frame))
        if not self._dirty:
            self._dirty = True
            self.on_dirty()
        return True

    def put_first(self, records: Iterable[Outgoing]) -> int:
        """Write records before all others of this process, at its end; return how many it took."""
        self._retry_at = float("-inf")
        kept, segment = 0, None
        try:
            for record in records:
                frame = frame_of(record)
                if self.bytes + len(frame) > self._max_bytes:
                    self._complain("spool_full", max_bytes=self._max_bytes)
                    break
                if segment is None:
                    segment = _Segment(self._folder() / f"{0:08}{SEGMENT_SUFFIX}", adopted=False)
                    file = _create(segment.path)
                    self._unsynced.append(file)
                    self._unread.appendleft(segment)
                _write(self._unsynced[-1], frame, segment.bytes)
                self._count(segment, len(frame))
                kept += 1
        except OSError as exc:
            self._complain("spool_not_writable", folder=str(self._parent), detail=str(exc))
        return kept

    def _count(self, segment: _Segment, size: int) -> None:
        segment.bytes += size
        segment.events += 1
        self.bytes += size
        self.spooled += 1

    def _writable(self) -> _Segment:
        if self._file is not None and self._unread[-1].bytes >= self._segment_bytes:
            self._seal()
        if self._file is None:
            path = self._folder() / f"{self._number + 1:08}{SEGMENT_SUFFIX}"
            self._file = _create(path)
            self._number += 1
            self._unread.append(_Segment(path, adopted=False))
        return self._unread[-1]

    def _seal(self) -> None:
        """Write no more to the present segment; an empty one is taken out."""
        if self._file is None:
            return
        self._unsynced.append(self._file)
        self._file = None
        if len(self._unsynced) > _OPEN_FILES:
            os.close(self._unsynced.pop(0))  # The kernel writes it out in its own time.
        if not self._unread[-1].events:
            self._remove(self._unread.pop())

    def _folder(self) -> Path:
        """Return this process's folder; it gets its name only when it is locked."""
        if self._own is None:
            name = f"{time.time_ns() // 1000:016}-{os.getpid()}-{secrets.token_hex(4)}"
            making = self._parent / f".{name}"
            making.mkdir(parents=True, mode=0o700)
            try:
                lock = _create(making / LOCK)
            except OSError:
                making.rmdir()
                raise
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._own = making.rename(self._parent / name)
            self._locks.append((self._own, lock))
        return self._own

    def _complain(self, event: str, **fields: object) -> None:
        # Logging runs the host's own handlers and streams, which may fail as well.
        with suppress(Exception):
            held = self._limit.allow(event, time.monotonic())
            if held is not None:
                _log.error(event, more=held, **fields)

    # Reading.

    def take(self, max_events: int, max_bytes: int) -> list[Outgoing]:
        """Return the next records, oldest first; they stay on disk until they are settled."""
        taken: list[Outgoing] = []
        while len(taken) < max_events and max_bytes > 0 and (self._loaded or self._load()):
            taken.append(self._loaded.popleft())
            max_bytes -= taken[-1].size
        return taken

    def unread(self) -> bool:
        """Tell whether `take` has more."""
        return bool(self._loaded or self._unread)

    def oldest(self) -> int | None:
        """Return the ticket of the oldest record that was not taken; negative when adopted."""
        if self._loaded:
            return self._loaded[0].ticket
        if not self._unread:
            return None
        return self._adopted_ticket if self._unread[0].adopted else self._unread[0].first

    def first_own(self) -> int | None:
        """Return the lowest ticket of this process that is on disk."""
        held = (s.first for s in chain(self._read, self._unread) if not s.adopted)
        return next(held, None)

    def settle(self, oldest: int | None) -> None:
        """Remove the segments that Kafka has: `oldest` is what is not acknowledged of the taken."""
        while self._read and (len(self._read) > 1 or not self._loaded):
            segment = self._read[0]
            if oldest is not None and oldest <= segment.last:
                break
            self.replayed += segment.events
            self._remove(self._read.popleft())
        if not self:
            self._release(keep=self._own)

    def _load(self) -> bool:
        """Read the next segment that holds something."""
        while self._unread and not self._loaded:
            if len(self._unread) == 1:
                self._seal()
                if not self._unread:
                    return False
            # It is in one of the two rows at any moment: `events` is asked for by other threads.
            segment = self._unread[0]
            if self._scan(segment):
                self._read.append(segment)
            else:
                self.bytes -= segment.bytes  # It stays on disk for the next process.
            self._unread.popleft()
        return bool(self._loaded)

    def _scan(self, segment: _Segment) -> bool:
        try:
            content = segment.path.read_bytes()
        except OSError as exc:
            self._complain("spool_not_readable", path=str(segment.path), detail=str(exc))
            return False
        found = list(scan(content))
        records = [scanned.record for scanned in found if scanned.record is not None]
        damaged = len(found) - len(records)
        if segment.adopted:
            records = [self._renumbered(record) for record in records]
            segment.first = records[0].ticket if records else self._adopted_ticket
            segment.last = records[-1].ticket if records else self._adopted_ticket
        else:
            damaged = segment.events - len(records)
        segment.events = len(records)
        if damaged:
            self.lost += damaged
            _log.error("spool_damaged", path=str(segment.path), events=damaged)
        self._loaded.extend(records)
        return True

    def _renumbered(self, record: Outgoing) -> Outgoing:
        """Give an adopted record a ticket before all of ours; its event stays as it is."""
        self._adopted_ticket += 1
        return record._replace(ticket=self._adopted_ticket)

    # Ending.

    def unsynced(self) -> list[int]:
        """Return the files that `sync` is due for; they are the caller's to hand to it."""
        self._dirty = False
        files, self._unsynced = self._unsynced, []
        if self._file is not None:
            # A copy: it may be sealed and closed meanwhile.
            with suppress(OSError):
                files.append(os.dup(self._file))
        return files

    def close(self) -> None:
        """Write everything out and let others adopt what is left."""
        self._seal()
        sync(self.unsynced())
        self._release()

    def abandon(self) -> None:
        """Close a parent's files in its forked child: its lock must end with the parent."""
        files = [lock for _, lock in self._locks] + self._unsynced
        for file in files if self._file is None else [*files, self._file]:
            with suppress(OSError):
                os.close(file)
        self._locks.clear()
        self._unsynced.clear()
        self._file = None

    def _remove(self, segment: _Segment) -> None:
        self.bytes -= segment.bytes
        with suppress(OSError):
            segment.path.unlink()

    def _release(self, keep: Path | None = None) -> None:
        """Give up our locks, and remove the folders that are empty."""
        for folder, lock in [held for held in self._locks if held[0] != keep]:
            with suppress(OSError):
                if not any(folder.glob(f"*{SEGMENT_SUFFIX}")):
                    shutil.rmtree(folder)
            os.close(lock)
        self._locks = [held for held in self._locks if held[0] == keep]


def sync(files: Iterable[int]) -> None:
    """Make files survive a power failure, and close them. Takes as long as the disk takes."""
    for file in files:
        with suppress(OSError):
            os.fsync(file)
        with suppress(OSError):
            os.close(file)


def _nobody() -> None:
    """Nobody to tell yet."""


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _write(file: int, frame: bytes, at: int) -> None:
    """Write a frame whole at an offset, or leave nothing of it."""
    try:
        written = os.pwrite(file, frame, at)
        while written < len(frame):
            written += os.pwrite(file, frame[written:], at + written)
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, at)
        raise

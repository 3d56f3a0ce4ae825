"""Records of one partition that are held and forgotten together, with an index by key."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

__all__ = ["Block", "Logged"]

_RECORD_BYTES = 210
_HEADER_BYTES = 150
_KEY_BYTES = 130
"""What objects cost beside their text, as tracemalloc sees it of a record that aiokafka has read,
on CPython 3.11: the record, its key, value, list of headers and places in two lists (205); a
header's tuple, str and bytes (142 to 154); a key's list and place in the index (100 to 152)."""


class Logged(Protocol):
    """What is read of a record; aiokafka's records have all of it."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch, or -1."""

    @property
    def key(self) -> bytes | None:
        """The project, where the producer gave one."""

    @property
    def value(self) -> bytes | None:
        """None in a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Names and values; a foreign producer may write None for a value."""


R = TypeVar("R", bound=Logged)

_offset_of = attrgetter("offset")
_value_of = attrgetter("value")


def _text(records: Iterable[Logged]) -> int:
    """Return the bytes of all headers, with their objects, and of all values.

    A list of lengths and one `sum` over it, not a running sum: that would be a new int for each
    header.
    """
    headers = [
        len(name) + len(content or b"") for record in records for name, content in record.headers
    ]
    values = map(len, filter(None, map(_value_of, records)))
    return _HEADER_BYTES * len(headers) + sum(headers) + sum(values)


class Block(Generic[R]):
    """Consecutive records of one partition, at least one, ascending by offset.

    The lists of `by_key` are never changed in place: who was given one may keep it.
    """

    __slots__ = ("by_key", "records", "size")

    def __init__(self, records: Sequence[R]) -> None:
        by_key: defaultdict[bytes | None, list[R]] = defaultdict(list)
        for record in records:
            by_key[record.key].append(record)
        self.records = list(records)
        self.by_key: dict[bytes | None, list[R]] = dict(by_key)
        keys = sum([len(key) * len(held) for key, held in by_key.items() if key])
        objects = _RECORD_BYTES * len(records) + _KEY_BYTES * len(by_key)
        self.size = objects + keys + _text(records)
        """Bytes, with what the objects cost beside their payload."""

    def cut(self, max_records: int, max_bytes: int) -> "Iterator[Block[R]]":
        """Yield blocks of the same records within both bounds; a larger record has its own."""
        count = len(self.records)
        if count == 1 or (count <= max_records and self.size <= max_bytes):
            yield self
            return
        step = max(1, min(max_records, count - 1, count * max_bytes // self.size))
        for start in range(0, count, step):
            yield from Block(self.records[start : start + step]).cut(max_records, max_bytes)

    def extend(self, later: "Block[R]") -> None:
        """Take over the records of a block that comes after this one."""
        by_key = self.by_key
        self.size += later.size
        for key, records in later.by_key.items():
            if key in by_key:
                by_key[key] = by_key[key] + records
                self.size -= _KEY_BYTES
            else:
                by_key[key] = records
        self.records += later.records

    def at(self, offset: int) -> R | None:
        """Return the record at an offset, if there is one."""
        index = bisect_left(self.records, offset, key=_offset_of)
        if index < len(self.records) and self.records[index].offset == offset:
            return self.records[index]
        return None

    def after(self, key: bytes, offset: int) -> Sequence[R]:
        """Return the records of a key after an offset, ascending."""
        records = self.by_key.get(key, [])
        if not records or records[0].offset > offset:
            return records
        return records[bisect_right(records, offset, key=_offset_of) :]

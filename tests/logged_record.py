"""Records as a journal reads them, and ones as aiokafka makes them."""

from collections.abc import Sequence
from typing import NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from tailrace.batching import Logged

HEADERS = [
    ("content-type", b"application/avro"),
    ("ce_specversion", b"1.0"),
    ("ce_id", b"01890a5d-ac96-774b-bcce-b302099a8057"),
    ("ce_source", b"agent@node-3"),
    ("ce_type", b"agent.step.updated"),
    ("ce_subject", b"agent/01890a5d-ac96-774b-bcce-b302099a8057"),
    ("ce_coalescekey", b"step-12|running|plan"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]


class LoggedRecord(NamedTuple):
    """What a journal reads of a record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def logged(
    offset: int,
    event_id: str | None = None,
    key: bytes | None = b"p",
    value: bytes | None = b"value",
    timestamp: int | None = None,
) -> LoggedRecord:
    """Return a record whose timestamp is 100 times its offset unless it is given."""
    headers = [] if event_id is None else [("ce_id", event_id.encode())]
    return LoggedRecord(
        offset, offset * 100 if timestamp is None else timestamp, key, value, headers
    )


def id_of(record: LoggedRecord) -> str | None:
    """Return the event id that the headers name."""
    found = dict(record.headers).get("ce_id")
    return None if found is None else found.decode()


def fetch(
    offset: int, count: int, *, keys: int, value_bytes: int, headers: int = 7
) -> list[Logged]:
    """Return records as aiokafka reads them from a batch: each has its own objects."""
    batch = DefaultRecordBatchBuilder(2, 0, 1, -1, -1, -1, 1 << 30)
    for place in range(offset, offset + count):
        key = f"project-{place % keys:05}".encode()
        batch.append(place, 1_790_000_000_000 + place, key, bytes(value_bytes), HEADERS[:headers])
    reader = MemoryRecords(bytes(batch.build()))
    records: list[Logged] = []
    while reader.has_next():
        records += reader.next_batch()
    return records

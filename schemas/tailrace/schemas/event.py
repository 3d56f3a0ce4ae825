"""The values that flow between components.

NamedTuples: they cost a third of a frozen dataclass to build, and an edge builds one per record.
"""

from typing import NamedTuple

__all__ = ["Envelope", "Event", "Position", "Subject"]


class Subject(NamedTuple):
    """Which run of a project an event is about. Equal ids of different kinds are different runs."""

    kind: str
    """``ingest``, ``agent``, ``workflow`` or ``custom``."""
    run_id: str | None
    """Job id or run id; None for an event of the project as a whole."""


class Position(NamedTuple):
    """A place in the log: just after the record at `offset`."""

    partition: int
    offset: int
    """Offset of the last record covered; -1 is before the first record."""
    timestamp_ms: int
    """Timestamp of the record at `offset`, which proves that the log is still the same one; -1
    where it was not seen."""
    partitions: int
    """Partition count of the topic when the position was taken."""
    topic_id: int = 0
    """First four bytes of Kafka's id of the topic, which differs for a topic deleted and created
    again (KIP-516); 0 where the broker gives none."""


class Envelope(NamedTuple):
    """What the headers of a record say: enough to route and coalesce without decoding it."""

    type: str
    subject: Subject
    event_id: str
    coalesce_key: str | None
    """On states only: ``entity|status|stage``, each part percent-encoded."""


class Event(NamedTuple):
    """One event, column for column the Avro record `Event` of ``event.v1.avsc``."""

    event_id: str
    """UUIDv7, the same on every retry and replay."""
    type: str
    occurred_at: int
    """Moment of `emit`, microseconds since the epoch, UTC."""
    project_id: str
    kind: str
    run_id: str | None
    entity_id: str | None
    source: str
    seq: int
    """Per source and (project, kind, run), from 1, dense."""
    status: str | None
    stage: str | None
    progress: float | None
    """0 … 1."""
    error_message: str | None
    data: str
    """The body members of the event JSON, as the text of a JSON object."""

    @property
    def subject(self) -> Subject:
        """The run that the event is about; an empty run id is none."""
        return Subject(self.kind, self.run_id or None)

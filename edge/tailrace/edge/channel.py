"""A channel: the events of a project that match one filter, and who watches them. Pure."""

from typing import NamedTuple

from tailrace.edge.protocol import Types
from tailrace.edge.session import Session
from tailrace.schemas import Envelope, Event, Subject

__all__ = ["Channel", "ChannelKey", "Pending"]


class ChannelKey(NamedTuple):
    """What makes two viewers share a channel and so its frames."""

    project_id: str
    subject: Subject | None
    """None: everything of the project."""
    types: Types = Types()


class Pending(NamedTuple):
    """A record on its way to a channel's viewers."""

    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes
    event: Event | None
    """Decoded already because the record has no usable headers."""


class Channel:
    """What waits to be sent to the viewers of one `ChannelKey`, and those viewers.

    `pending` is emptied by every flush, which follows each fetch, so it holds at most one fetch.
    """

    __slots__ = ("_matches", "cursor", "key", "pending", "sessions")

    def __init__(self, key: ChannelKey) -> None:
        self.key = key
        self.sessions: set[Session] = set()
        self.pending: list[Pending] = []
        self.cursor = ""
        """Of the last event flushed."""
        self._matches: dict[str, bool] = {}

    _MAX_MATCHES = 1024

    def wants(self, envelope: Envelope) -> bool:
        """Tell whether a record of the project belongs to this channel."""
        subject = self.key.subject
        if subject is not None and subject != envelope.subject:
            return False
        match = self._matches.get(envelope.type)
        if match is None:
            if len(self._matches) >= self._MAX_MATCHES:  # foreign producers can make up types
                self._matches.clear()
            match = self._matches[envelope.type] = self.key.types.match(envelope.type)
        return match

    def take(self) -> list[Pending]:
        """Return what is pending, in ascending offset, and forget it."""
        taken, self.pending = self.pending, []
        return taken

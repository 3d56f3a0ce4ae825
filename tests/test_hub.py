import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from edge_harness import MOMENT, MOMENT_TEXT, StubRecord, make_event, record_of

from tailrace.edge.channel import ChannelKey
from tailrace.edge.hub import Broadcast, Hub
from tailrace.edge.protocol import Types
from tailrace.edge.session import Session
from tailrace.schemas import Position, RecordError, Subject, encode, headers_of, parse_cursor

JOB = ChannelKey("p1", Subject("ingest", "j1"))
PROJECT = ChannelKey("p1", None)


class Skipped(NamedTuple):
    partition: int
    offset: int
    reason: str


class Stage:
    """A hub, what it skipped, and what it tells each of its viewers."""

    def __init__(self) -> None:
        self.skipped: list[Skipped] = []
        self.hub = Hub(skip=self._skip)

    def _skip(self, partition: int, offset: int, error: RecordError) -> None:
        self.skipped.append(Skipped(partition, offset, error.reason))

    def watch(self, *keys: ChannelKey) -> list[Session]:
        sessions = [Session(_never, _nothing_buffered, _never) for _ in keys]
        for key, session in zip(keys, sessions, strict=True):
            self.hub.subscribe(key, session)
        return sessions

    def publish(self, *records: StubRecord, partition: int = 2) -> list[Broadcast]:
        self.hub.publish(partition, records)
        return self.hub.flush(4)

    def told(self, broadcasts: Sequence[Broadcast], session: Session) -> list[dict[str, Any]]:
        """Return the messages that go to one viewer."""
        frames = b"".join(b.frames for b in broadcasts if session in b.sessions)
        return [json.loads(message) for message in _messages(frames)]


def _never(*_: object) -> None:
    raise AssertionError("the hub performs nothing")


def _nothing_buffered() -> int:
    return 0


def _messages(frames: bytes) -> list[bytes]:
    """Split short frames."""
    messages = []
    while frames:
        size, start = frames[1], 2
        if size == 126:
            size, start = int.from_bytes(frames[2:4], "big"), 4
        messages.append(frames[start : start + size])
        frames = frames[start + size :]
    return messages


def _ns(messages: Sequence[dict[str, Any]]) -> list[int]:
    return [message["job"]["n"] for message in messages]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_viewer_gets_the_event_json_and_its_cursor(stage: Stage) -> None:
    [session] = stage.watch(JOB)

    broadcasts = stage.publish(record_of(make_event(error="disk full"), 41))

    [message] = stage.told(broadcasts, session)
    assert parse_cursor(message.pop("cursor")) == Position(2, 41, 1041, 4)
    assert message == {
        "type": "ingest.job.updated",
        "timestamp": MOMENT_TEXT,
        "job": {"id": "j1", "n": 1},
        "errorMessage": "disk full",
    }
    assert [b.occurred_at for b in broadcasts] == [(MOMENT,)]


def test_unwatched_project_is_counted_and_never_decoded(stage: Stage) -> None:
    stage.watch(JOB)
    garbage = StubRecord(1, 0, b"p2", b"garbage", [])

    broadcasts = stage.publish(record_of(make_event("p2")), garbage)

    assert broadcasts == []
    assert stage.hub.counts.records == 2
    assert stage.hub.counts.decoded == 0
    assert stage.skipped == []


def test_unwatched_run_of_a_watched_project_is_never_decoded(stage: Stage) -> None:
    stage.watch(JOB)

    assert stage.publish(record_of(make_event(run="j2"))) == []
    assert stage.hub.counts.decoded == 0


def test_two_projects_and_equal_ids_of_different_kinds_never_mix(stage: Stage) -> None:
    kinds = ["ingest.job.updated", "agent.run.updated", "workflow.run.updated"]
    places = [(project, type_) for project in ("p1", "p2") for type_ in kinds]
    keys = [ChannelKey(p, Subject(type_.partition(".")[0], "7")) for p, type_ in places]
    sessions = stage.watch(*keys)

    records = [
        record_of(make_event(project, type_, "7", data=f'{{"from":"{project} {type_}"}}'), offset)
        for offset, (project, type_) in enumerate(places)
    ]
    broadcasts = stage.publish(*records)

    told = [[m["from"] for m in stage.told(broadcasts, session)] for session in sessions]
    assert told == [[f"{project} {type_}"] for project, type_ in places]


def test_project_channel_gets_every_run_in_the_order_of_the_log(stage: Stage) -> None:
    [session] = stage.watch(PROJECT)

    broadcasts = stage.publish(
        record_of(make_event(type="ingest.job.created", run="a", n=1), 5),
        record_of(make_event(type="ingest.job.updated", run="b", n=2), 6),
        record_of(make_event(type="ingest.job.updated", run="a", n=3), 9),
    )

    assert _ns(stage.told(broadcasts, session)) == [1, 2, 3]


def test_types_filter_leaves_the_others_out(stage: Stage) -> None:
    key = PROJECT._replace(types=Types(("ingest.job.failed",), ("agent.",)))
    [session] = stage.watch(key)

    broadcasts = stage.publish(
        record_of(make_event(type="ingest.job.created"), 0),
        record_of(make_event(type="ingest.job.failed"), 1),
        record_of(make_event(type="agent.run.created"), 2),
        record_of(make_event(type="workflow.run.created"), 3),
    )

    types = [message["type"] for message in stage.told(broadcasts, session)]
    assert types == ["ingest.job.failed", "agent.run.created"]
    assert stage.hub.counts.decoded == 2


def test_record_without_headers_is_decoded_and_delivered(stage: Stage) -> None:
    [session] = stage.watch(JOB)

    broadcasts = stage.publish(
        record_of(make_event(n=1), 0, headers=False),
        record_of(make_event(n=2, run="j2"), 1, headers=False),
        record_of(make_event(n=3, type="ingest.job.completed"), 2, headers=False),
    )

    assert _ns(stage.told(broadcasts, session)) == [1, 3]
    assert stage.hub.counts.decoded == 3


def test_record_without_headers_is_decoded_once_however_many_channels_want_it(stage: Stage) -> None:
    stage.watch(JOB, PROJECT)

    stage.publish(record_of(make_event(), headers=False))

    assert stage.hub.counts.decoded == 1


@pytest.mark.parametrize("headers", [True, False], ids=["headers", "no headers"])
@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("no_key", lambda record: record._replace(key=None)),
        ("no_key", lambda record: record._replace(key=b"")),
        ("undecodable", lambda record: record._replace(value=b"")),
        ("undecodable", lambda record: record._replace(value=b"{}")),
        ("undecodable", lambda record: record._replace(value=record.value[:-3])),
        (
            "project_mismatch",
            lambda record: record._replace(value=encode(make_event("p2", n=2))),
        ),
        (
            "data_not_object",
            lambda record: record._replace(value=encode(make_event(n=2, data="[1]"))),
        ),
        (
            "data_not_object",
            lambda record: record._replace(value=encode(make_event(n=2, data='{"a":'))),
        ),
    ],
)
def test_bad_record_is_skipped_and_its_neighbours_arrive(
    stage: Stage, reason: str, spoil: Callable[[StubRecord], StubRecord], *, headers: bool
) -> None:
    [session] = stage.watch(JOB)

    broadcasts = stage.publish(
        record_of(make_event(n=1), 10),
        spoil(record_of(make_event(n=2), 11, headers=headers)),
        record_of(make_event(n=3), 12),
    )

    assert _ns(stage.told(broadcasts, session)) == [1, 3]
    assert stage.skipped == [Skipped(2, 11, reason)]
    assert [len(b.occurred_at) for b in broadcasts] == [2]


def test_bad_record_that_two_channels_want_is_skipped_once(stage: Stage) -> None:
    stage.watch(JOB, PROJECT)
    event = make_event()

    broadcasts = stage.publish(StubRecord(8, 0, b"p1", b"cut", headers_of(event)))

    assert broadcasts == []
    assert stage.skipped == [Skipped(2, 8, "undecodable")]


def test_tombstone_is_ignored(stage: Stage) -> None:
    stage.watch(PROJECT)

    broadcasts = stage.publish(StubRecord(0, 0, b"p1", None, []))

    assert broadcasts == []
    assert stage.skipped == []
    assert stage.hub.counts.records == 1


def test_one_rendering_serves_all_channels_and_viewers(stage: Stage) -> None:
    first, second, whole = stage.watch(JOB, JOB, PROJECT)

    broadcasts = stage.publish(record_of(make_event()))

    assert stage.hub.counts.decoded == 1
    assert [set(b.sessions) for b in broadcasts] == [{first, second}, {whole}]
    assert broadcasts[0].frames == broadcasts[1].frames


def test_equal_offsets_of_two_partitions_are_two_records(stage: Stage) -> None:
    p1, p2 = stage.watch(PROJECT, ChannelKey("p2", None))
    stage.hub.publish(0, [record_of(make_event("p1", n=1), 5)])
    stage.hub.publish(1, [record_of(make_event("p2", n=2), 5)])

    broadcasts = stage.hub.flush(4)

    assert [_ns(stage.told(broadcasts, session)) for session in (p1, p2)] == [[1], [2]]


def test_cursors_ascend_and_name_the_record_they_stand_after(stage: Stage) -> None:
    [session] = stage.watch(JOB)

    first = stage.publish(record_of(make_event(n=1), 3), record_of(make_event(n=2), 4))
    second = stage.publish(record_of(make_event(n=3), 900_000))

    cursors = [parse_cursor(m["cursor"]) for m in stage.told([*first, *second], session)]
    assert cursors == [
        Position(2, 3, 1003, 4),
        Position(2, 4, 1004, 4),
        Position(2, 900_000, 901_000, 4),
    ]


def test_broadcast_names_the_cursor_of_the_one_before(stage: Stage) -> None:
    [session] = stage.watch(JOB)

    [first] = stage.publish(record_of(make_event(n=1), 3), record_of(make_event(n=2), 4))
    [second] = stage.publish(record_of(make_event(n=3), 5))

    assert first.prev == ""
    assert second.prev == stage.told([first], session)[-1]["cursor"]


def test_flush_leaves_nothing_behind(stage: Stage) -> None:
    stage.watch(JOB)
    stage.publish(record_of(make_event()))

    assert stage.hub.flush(4) == []


def test_who_joins_after_the_flush_is_not_told(stage: Stage) -> None:
    [early] = stage.watch(JOB)
    [broadcast] = stage.publish(record_of(make_event()))
    stage.watch(JOB)

    assert broadcast.sessions == (early,)


def test_channel_is_dropped_with_its_last_viewer(stage: Stage) -> None:
    first, second, other = stage.watch(JOB, JOB, PROJECT)
    assert len(stage.hub) == 2

    stage.hub.unsubscribe(JOB, first)
    assert len(stage.hub) == 2
    stage.hub.unsubscribe(JOB, second)
    assert len(stage.hub) == 1
    stage.hub.unsubscribe(PROJECT, other)
    assert len(stage.hub) == 0
    assert stage.hub._projects == {}


def test_what_was_pending_goes_with_the_last_viewer(stage: Stage) -> None:
    [session] = stage.watch(JOB)
    stage.hub.publish(0, [record_of(make_event())])

    stage.hub.unsubscribe(JOB, session)

    assert stage.hub.flush(4) == []
    assert stage.hub.counts.decoded == 0


def test_project_is_unwatched_again_after_its_last_viewer(stage: Stage) -> None:
    [session] = stage.watch(JOB)
    stage.hub.unsubscribe(JOB, session)

    stage.publish(record_of(make_event()))

    assert stage.hub.counts.decoded == 0


def test_project_id_outside_ascii_is_matched_by_its_utf8(stage: Stage) -> None:
    [session] = stage.watch(ChannelKey("café/🌊", None))

    broadcasts = stage.publish(record_of(make_event("café/🌊")))

    assert _ns(stage.told(broadcasts, session)) == [1]

from uuid import UUID

import pytest
from edge_harness import make_event, record_of
from memory_topic import StubRecord

from tailrace.edge.channel import ChannelKey
from tailrace.edge.hub import Hub, Log
from tailrace.edge.locate import Locator, Start, uuid_time_ms
from tailrace.edge.protocol import Gap
from tailrace.edge.request import StreamRequest
from tailrace.schemas import Position, Subject, UnavailableError, format_cursor

TOPIC = 7
PARTITIONS = 4
PARTITION = 2
MOMENT_MS = 1_700_000_000_000
RUN_V7 = str(UUID(int=(MOMENT_MS << 80) | (7 << 76) | (2 << 62) | 5))
RUN_V4 = "0e1c7f0e-6d0f-4c53-8f5e-3d6c1b7a9a10"

PROJECT = ChannelKey("p1", None)
FLOOR = 100
"""The journal of `Place` holds what comes after this offset, up to 110."""
HEAD = 110


class FakeOffsets:
    """What Kafka answers, and what it was asked."""

    def __init__(self, earliest: int, end: int, at: int) -> None:
        self.answers = {"earliest": earliest, "end": end, "offset_at": at}
        self.asked: list[tuple[str, int]] = []
        self.times: list[int] = []
        self.down = False

    async def earliest(self, partition: int) -> int:
        return self._answer("earliest", partition)

    async def reaches(self, partition: int, end: int) -> bool:
        return end <= self._answer("end", partition)

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        self.times.append(timestamp_ms)
        return self._answer("offset_at", partition)

    def _answer(self, question: str, partition: int) -> int:
        self.asked.append((question, partition))
        if self.down:
            raise UnavailableError("Kafka does not answer: told so")
        return self.answers[question]


class Place:
    """A node that holds the records 101 to 110 of a partition, of which Kafka has 10 to 120."""

    def __init__(
        self,
        *,
        earliest: int = 10,
        end: int = 121,
        at: int = 50,
        topic_id: int = TOPIC,
        floor: tuple[int, int] = (FLOOR, 1000 + FLOOR),
        records: int = HEAD - FLOOR,
        replay_max_bytes: int = 1 << 30,
    ) -> None:
        self.hub = Hub(journal_max_bytes=1 << 20, skip=_never)
        starts = dict.fromkeys(range(PARTITIONS), (-1, -1)) | {PARTITION: floor}
        self.hub.begin(Log(topic_id, PARTITIONS), starts)
        self.offsets = FakeOffsets(earliest, end, at)
        self.locator = Locator(self.hub, self.offsets, replay_max_bytes=replay_max_bytes)
        first = floor[0] + 1
        self.publish(*(_record(offset) for offset in range(first, first + records)))

    def publish(self, *records: StubRecord) -> None:
        self.hub.publish(PARTITION, records, 0.0)

    async def resume(self, position: Position, key: ChannelKey = PROJECT) -> Start:
        return await self.after(format_cursor(position), key)

    async def after(self, cursor: str, key: ChannelKey = PROJECT) -> Start:
        return await self.locator.locate(StreamRequest(key, cursor, start=True), PARTITION)

    async def start(self, key: ChannelKey = PROJECT) -> Start:
        return await self.locator.locate(StreamRequest(key, None, start=True), PARTITION)

    async def live(self, key: ChannelKey = PROJECT) -> Start:
        return await self.locator.locate(StreamRequest(key, None, start=False), PARTITION)


def _never(*_: object) -> None:
    raise AssertionError("all records are good")


def _record(offset: int, type_: str = "ingest.job.updated", run: str = "j1") -> StubRecord:
    return record_of(make_event("p1", type_, run), offset)


def _run(run: str = "j1", kind: str = "ingest") -> ChannelKey:
    return ChannelKey("p1", Subject(kind, run))


def _at(offset: int, timestamp_ms: int | None = None, *, topic_id: int = TOPIC) -> Position:
    """Return a place of the log, with the timestamp that its record has."""
    known = 1000 + offset if timestamp_ms is None else timestamp_ms
    return Position(PARTITION, offset, known, PARTITIONS, topic_id)


# A cursor that the journal reaches


@pytest.mark.parametrize("offset", [FLOOR, 101, 105, HEAD])
async def test_cursor_that_the_journal_reaches_resumes_and_kafka_is_not_asked(offset: int) -> None:
    place = Place()

    assert await place.resume(_at(offset)) == Start(_at(offset), None, resumed=True)
    assert place.offsets.asked == []


async def test_live_is_the_channels_own_cursor_and_kafka_is_not_asked() -> None:
    place = Place()

    assert await place.live() == Start(None, None, resumed=False)
    assert await place.live(_run()) == Start(None)
    assert place.offsets.asked == []


async def test_cursor_without_a_timestamp_is_taken_at_its_offset() -> None:
    assert (await Place().resume(_at(105, -1))).resumed


async def test_cursor_at_an_offset_that_holds_no_record_is_taken() -> None:
    place = Place()
    place.publish(_record(115))

    assert await place.resume(_at(112, 5)) == Start(_at(112, 5), resumed=True)


async def test_cursor_whose_topic_id_is_not_known_is_proved_by_its_timestamp() -> None:
    known = Place()
    assert (await known.resume(_at(105, topic_id=0))).resumed
    assert (await known.resume(_at(105, 1, topic_id=0))).gap is Gap.RESET
    unknown = Place(topic_id=0)
    assert (await unknown.resume(_at(105))).resumed
    assert (await unknown.resume(_at(105, 1))).gap is Gap.RESET


# A cursor before the journal


@pytest.mark.parametrize("offset", [9, 10, 99])
async def test_cursor_before_the_journal_resumes_while_kafka_has_its_next_record(
    offset: int,
) -> None:
    place = Place()

    assert await place.resume(_at(offset)) == Start(_at(offset), resumed=True)
    assert place.offsets.asked == [("earliest", PARTITION)]


@pytest.mark.parametrize("key", [PROJECT, _run()], ids=["project", "run"])
async def test_cursor_whose_next_record_kafka_has_deleted_goes_on_from_the_earliest_left(
    key: ChannelKey,
) -> None:
    assert await Place().resume(_at(8), key) == Start(_at(9, -1), Gap.RETENTION)


async def test_earliest_left_inside_the_journal_is_never_before_it() -> None:
    place = Place(earliest=105)

    assert await place.resume(_at(50)) == Start(_at(FLOOR), Gap.RETENTION)


async def test_cursor_past_the_replay_bound_goes_on_from_the_oldest_inside_it() -> None:
    average = _average()
    place = Place(replay_max_bytes=int(60 * average) + 1)

    assert await place.resume(_at(50)) == Start(_at(50), resumed=True)
    assert await place.resume(_at(49)) == Start(_at(50, -1), Gap.TOO_FAR)


def _average() -> float:
    measured = Place().hub.record_bytes(PARTITION)
    assert measured is not None
    return measured


async def test_replay_bound_of_a_partition_without_records_assumes_small_ones() -> None:
    place = Place(records=0, replay_max_bytes=40 * 256)

    assert (await place.resume(_at(60))).resumed
    assert await place.resume(_at(59)) == Start(_at(60, -1), Gap.TOO_FAR)


async def test_cursor_that_the_journal_reaches_is_never_too_far() -> None:
    assert (await Place(replay_max_bytes=1).resume(_at(FLOOR))).resumed


def test_those_who_were_inside_the_bound_when_they_came_have_a_quarter_more() -> None:
    locator = Place(records=0, replay_max_bytes=40 * 256).locator

    assert locator.within_bound(_at(50))
    assert not locator.within_bound(_at(49))
    assert locator.within_bound(_at(60), slack=1.0)
    assert not locator.within_bound(_at(59), slack=1.0)


# A cursor ahead of this node


async def test_cursor_of_a_node_that_is_ahead_resumes() -> None:
    place = Place()

    assert await place.resume(_at(120)) == Start(_at(120), resumed=True)
    assert place.offsets.asked == [("end", PARTITION)]


async def test_cursor_beyond_the_end_of_the_log_is_of_another_log() -> None:
    assert await Place().resume(_at(121)) == Start(_at(9, -1), Gap.RESET)


# A cursor of another log


@pytest.mark.parametrize("key", [PROJECT, _run()], ids=["project", "run"])
async def test_cursor_of_another_incarnation_goes_on_from_the_earliest_left(
    key: ChannelKey,
) -> None:
    place = Place()

    assert await place.resume(_at(105, topic_id=8), key) == Start(_at(9, -1), Gap.RESET)
    assert place.offsets.asked == [("earliest", PARTITION)]


async def test_record_with_another_timestamp_betrays_another_incarnation() -> None:
    assert await Place().resume(_at(105, 9)) == Start(_at(9, -1), Gap.RESET)
    assert await Place().resume(_at(FLOOR, 9)) == Start(_at(9, -1), Gap.RESET)


async def test_incarnation_is_looked_at_before_the_partition_count() -> None:
    place = Place()
    other = Position(5, 3, 9, 6, 8)

    assert (await place.resume(other)).gap is Gap.RESET
    assert (await place.resume(other._replace(topic_id=TOPIC))).gap is Gap.REPARTITIONED
    assert (await place.resume(other._replace(partitions=PARTITIONS, partition=3, topic_id=TOPIC)))[
        1
    ] is Gap.INVALID


@pytest.mark.parametrize(
    ("cursor", "gap"),
    [
        (format_cursor(Position(PARTITION, 105, 1105, 6, TOPIC)), Gap.REPARTITIONED),
        (format_cursor(Position(3, 105, 1105, PARTITIONS, TOPIC)), Gap.INVALID),
        ("garbage", Gap.INVALID),
        ("", Gap.INVALID),
        (format_cursor(_at(105))[:-1] + "_", Gap.INVALID),
        ("é" * 44, Gap.INVALID),
    ],
    ids=["other count", "other partition", "garbage", "empty", "spoilt", "not ASCII"],
)
async def test_cursor_that_names_nothing_here_is_live_on_a_project_and_the_start_on_a_run(
    cursor: str, gap: Gap
) -> None:
    place = Place()
    place.publish(_record(111, "ingest.job.created", "j2"), _record(112, run="j2"))

    assert await place.after(cursor) == Start(None, gap)
    assert await place.after(cursor, _run("j2")) == Start(_at(HEAD), gap)
    assert place.offsets.asked == []
    assert await place.after(cursor, _run("unknown")) == Start(_at(9, -1), gap)


# The position after a gap


@pytest.mark.parametrize("gap", [Gap.RETENTION, Gap.RESET, Gap.TOO_FAR])
async def test_after_a_lost_range_comes_the_oldest_on_any_channel(gap: Gap) -> None:
    for key in (PROJECT, _run()):
        assert await Place().locator.after_gap(key, PARTITION, gap) == _at(9, -1)


@pytest.mark.parametrize("gap", [Gap.REPARTITIONED, Gap.INVALID])
async def test_after_a_cursor_of_elsewhere_comes_live_or_the_runs_start(gap: Gap) -> None:
    locator = Place().locator

    assert await locator.after_gap(PROJECT, PARTITION, gap) is None
    assert await locator.after_gap(_run(RUN_V7), PARTITION, gap) == _at(49, -1)


# From the start


async def test_project_starts_before_the_earliest_record_left() -> None:
    assert await Place().start() == Start(_at(9, -1))


async def test_project_of_an_untouched_log_starts_before_its_first_record() -> None:
    place = Place(floor=(-1, -1), records=5)

    assert await place.start() == Start(_at(-1, -1))
    assert place.offsets.asked == []


async def test_project_starts_no_further_back_than_the_replay_bound() -> None:
    place = Place(records=0, replay_max_bytes=40 * 256)

    assert await place.start() == Start(_at(60, -1))


async def test_run_whose_first_record_was_seen_starts_just_before_it() -> None:
    place = Place()
    place.publish(_record(111, "ingest.job.created", "j2"), _record(112, run="j2"))
    place.publish(_record(113, "workflow.run.created", "j2"))

    assert await place.start(_run("j2")) == Start(_at(HEAD))
    assert await place.start(_run("j2", "workflow")) == Start(_at(112))
    assert place.offsets.asked == []


async def test_run_index_is_asked_before_the_id() -> None:
    place = Place()
    place.publish(_record(111, "ingest.job.created", RUN_V7))

    assert await place.start(_run(RUN_V7)) == Start(_at(HEAD))
    assert place.offsets.times == []


async def test_run_start_that_was_seen_in_another_partition_does_not_count() -> None:
    place = Place()
    place.hub.publish(1, [_record(105, "ingest.job.created", "j2")], 0.0)

    assert await place.start(_run("j2")) == Start(_at(9, -1))


async def test_run_whose_known_start_kafka_has_deleted_starts_at_the_earliest_left() -> None:
    place = Place(floor=(-1, -1), records=0, earliest=30)
    place.publish(_record(20, "ingest.job.created", "j2"), _record(40))
    _forget_up_to(place, 40)

    assert await place.start(_run("j2")) == Start(_at(29, -1))


def _forget_up_to(place: Place, offset: int) -> None:
    """Make the journal forget, by a record that is larger than it."""
    place.publish(_record(offset + 1)._replace(value=b"x" * (2 << 20)))
    assert place.hub.journal.floor(PARTITION) == offset + 1


async def test_run_with_a_time_in_its_id_starts_a_minute_before_it() -> None:
    place = Place()

    assert await place.start(_run(RUN_V7)) == Start(_at(49, -1))
    assert place.offsets.times == [MOMENT_MS - 60_000]
    assert ("offset_at", PARTITION) in place.offsets.asked


async def test_run_that_is_newer_than_the_journal_starts_at_the_head_and_not_beyond() -> None:
    place = Place(at=121)

    assert await place.start(_run(RUN_V7)) == Start(_at(HEAD))
    assert place.offsets.asked == [("offset_at", PARTITION)]


async def test_run_of_the_first_minute_of_time_does_not_ask_for_a_time_before_it() -> None:
    place = Place()
    run = str(UUID(int=(1 << 80) | (7 << 76) | (2 << 62)))

    await place.start(_run(run))

    assert place.offsets.times == [0]


async def test_run_past_the_replay_bound_starts_at_the_oldest_inside_it() -> None:
    place = Place(records=0, replay_max_bytes=40 * 256)

    assert await place.start(_run(RUN_V7)) == Start(_at(60, -1))


@pytest.mark.parametrize("run", ["j1", RUN_V4])
async def test_run_whose_start_nothing_tells_starts_with_all_that_there_is(run: str) -> None:
    place = Place()

    assert await place.start(_run(run)) == Start(_at(9, -1))
    assert place.offsets.times == []


def test_moment_is_read_from_uuids_of_version_7_only() -> None:
    assert uuid_time_ms(RUN_V7) == MOMENT_MS
    assert uuid_time_ms(RUN_V7.upper()) == MOMENT_MS
    assert uuid_time_ms(RUN_V4) is None
    assert uuid_time_ms("j1") is None
    assert uuid_time_ms("") is None


# Kafka does not answer


@pytest.mark.parametrize("offset", [50, 115], ids=["before the journal", "ahead of it"])
async def test_cursor_is_not_judged_while_kafka_does_not_answer(offset: int) -> None:
    place = Place()
    place.offsets.down = True

    with pytest.raises(UnavailableError):
        await place.resume(_at(offset))


async def test_start_is_not_guessed_while_kafka_does_not_answer() -> None:
    place = Place()
    place.offsets.down = True

    for key in (PROJECT, _run(RUN_V4), _run(RUN_V7)):
        with pytest.raises(UnavailableError):
            await place.start(key)


async def test_what_the_journal_reaches_is_served_while_kafka_does_not_answer() -> None:
    place = Place()
    place.offsets.down = True

    assert (await place.resume(_at(105))).resumed
    assert await place.live() == Start(None)

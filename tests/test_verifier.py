"""The verifier finds nothing wrong with an honest edge, and each lie of a dishonest one."""

import ast
import importlib
import inspect
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY
from verifier.dialects import Batch, Closed, Dialect, Failed, Frame, Gap, Seen, Subscribed, parse
from verifier.expectation import Expectation, Expected, Log, Watch
from verifier.judge import Fault, faults, judge
from verifier.load import PROJECT_ENDED, RUN_ENDED, Load, Planned
from verifier.record import Record, Run, read_entry
from verifier.recording import Connection, Recording, read_recording, write_line
from verifier.simulator import Simulator, cursor_at

from tailrace.schemas import (
    RecordError,
    decode,
    envelope_of,
    event_json,
    parse_cursor,
    parse_headers,
)

DIALECTS: list[Dialect] = ["plain", "v1", "sse", "json"]
STEPS = 150
RUN = Watch("p0", "agent", "r0", start="start")
PROJECT = Watch("p0", start="start")


def written(planned: Iterator[Planned] | Sequence[Planned], projects: list[str]) -> list[Record]:
    """Return the records as a topic of 4 partitions holds them, with holes between offsets."""
    ends = dict.fromkeys(range(4), 0)
    records = []
    for key, value, headers in planned:
        partition = projects.index(key.decode()) % 4 if key else 0
        records.append(Record(partition, ends[partition], key, value, headers))
        ends[partition] += 1 + len(records) % 3
    return records


@lru_cache(maxsize=8)
def a_log(seed: int, steps: int = STEPS) -> list[Record]:
    load = Load(seed, projects=5, runs=2)
    planned = [*load.begin()]
    for _ in range(steps):
        planned += load.step()
    return written([*planned, *load.end()], load.projects)


def of_project(records: list[Record], project: str) -> list[Record]:
    return [record for record in records if record.key == project.encode()]


def simulated(records: list[Record], watch: Watch, dialect: Dialect, seed: int) -> Recording:
    simulator = Simulator(of_project(records, watch.project), watch, dialect, seed)
    return read_recording(map(write_line, simulator.lines()))


# --- an honest edge -----------------------------------------------------------------------------

watches = st.builds(
    lambda run, **rest: Watch(kind=run and run[0], run=run and run[1], **rest),
    project=st.sampled_from(["p0", "p/1 ä", "p4"]),
    run=st.sampled_from([None, ("ingest", "r0"), ("agent", "r0"), ("workflow", "r1")]),
    types=st.sampled_from(["*", "soak.*,*.updated", "agent.*,soak.*", "workflow.node.*,soak.*"]),
    start=st.sampled_from(["start", "live"]),
    delivery=st.sampled_from(["latest", "every"]),
)


@PROPERTY
@given(st.integers(0, 2**32), watches, st.sampled_from(DIALECTS))
def test_an_honest_edge_is_clean(seed: int, watch: Watch, dialect: Dialect) -> None:
    records = a_log(seed)
    watch = watch._replace(types=watch.types.replace("*.updated", "ingest.job.updated"))
    recording = simulated(records, watch, dialect, seed)

    verdict = judge(Log(records).expectation(watch), recording)

    assert verdict.violations == []
    assert verdict.delivered > 0
    assert verdict.gaps == []
    assert verdict.retried == 0


def test_the_honest_recordings_hold_what_the_lies_need() -> None:
    verdicts, connections = [], 0
    for seed in range(5):
        recording = simulated(a_log(seed), RUN, "v1", seed)
        connections += len(recording.connections)
        verdicts.append(judge(Log(a_log(seed)).expectation(RUN), recording))
    assert connections > 5
    assert sum(verdict.skipped for verdict in verdicts) > 5


# --- lies -----------------------------------------------------------------------------------------


@lru_cache
def read(seed: int) -> Log:
    return Log(a_log(seed, steps=1200))


@lru_cache
def honest(seed: int, watch: Watch, dialect: Dialect) -> Recording:
    recording = simulated(a_log(seed, steps=1200), watch, dialect, seed)
    assert judge(read(seed).expectation(watch), recording).violations == []
    return recording


class Scene:
    """A log, an honest recording of one of its channels, and how to tell a lie about it."""

    def __init__(self, seed: int, watch: Watch, dialect: Dialect) -> None:
        self.log = read(seed)
        self.expectation: Expectation = self.log.expectation(watch)
        self.recording = honest(seed, watch, dialect)
        self.random = random.Random(seed)
        self.frames = [[*connection.frames] for connection in self.recording.connections]

    def batches(self) -> list[tuple[int, int, Batch]]:
        return [
            (c, f, frame)
            for c, frames in enumerate(self.frames)
            for f, frame in enumerate(frames)
            if isinstance(frame, Batch)
        ]

    def shown(self) -> list[tuple[int, int, int, Seen]]:
        """Return where each event stands, without the last."""
        found = [
            (c, f, e, seen) for c, f, batch in self.batches() for e, seen in enumerate(batch.events)
        ]
        return found[:-1]

    def required(self, *, fact: bool) -> list[tuple[int, int, int, Seen]]:
        """Return where the events stand that must come, facts or states."""
        return [
            each
            for each in self.shown()
            if self.record(each[3]).replaced_by is None
            and (self.record(each[3]).entry.key is None) is fact
        ]

    def record(self, seen: Seen) -> Expected:
        record = self.expectation.at(self.expectation.copies[seen.text][0])
        assert record is not None
        return record

    def batch(self, c: int, f: int) -> Batch:
        batch = self.frames[c][f]
        assert isinstance(batch, Batch)
        return batch

    def with_events(self, c: int, f: int, events: Sequence[Seen], skipped: int = 0) -> None:
        """Give a frame other events, and hide it in the count as a liar would."""
        batch = self.batch(c, f)
        count = None if batch.skipped is None else batch.skipped + skipped
        self.frames[c][f] = batch._replace(events=tuple(events), skipped=count)

    def faults(self) -> set[Fault]:
        connections = tuple(
            Connection(before.after, tuple(frames))
            for before, frames in zip(self.recording.connections, self.frames, strict=True)
        )
        verdict = judge(self.expectation, self.recording._replace(connections=connections))
        return set(faults(verdict.violations))

    def events_of(self, c: int, f: int) -> list[Seen]:
        return list(self.batch(c, f).events)


# The first seed whose logs hold each situation that a lie needs.
SCENES = [
    (seed, watch, dialect)
    for seed, watch in enumerate([RUN, PROJECT, PROJECT._replace(types="agent.*,soak.*")], 3)
    for dialect in DIALECTS
]
every_scene = pytest.mark.parametrize(("seed", "watch", "dialect"), SCENES)


@pytest.fixture
def scene(seed: int, watch: Watch, dialect: Dialect) -> Scene:
    return Scene(seed, watch, dialect)


@every_scene
@pytest.mark.parametrize("fact", [True, False])
def test_a_record_left_out_is_found(scene: Scene, *, fact: bool) -> None:
    for c, f, e, _ in scene.random.sample(scene.required(fact=fact), 3):
        scene.frames = [[*conn.frames] for conn in scene.recording.connections]
        events = scene.events_of(c, f)
        del events[e]
        scene.with_events(c, f, events, skipped=1)  # counted as if it had been replaced
        assert scene.faults() == {Fault.LOST_FACT if fact else Fault.LOST_STATE}


@every_scene
def test_an_event_that_comes_again_is_found(scene: Scene) -> None:
    c, f, e, seen = scene.random.choice(scene.shown())
    events = scene.events_of(c, f)
    events.insert(e + 1, seen)
    scene.with_events(c, f, events, skipped=-1)
    assert Fault.REPEATED in scene.faults()


@every_scene
def test_an_event_that_comes_again_in_a_later_connection_is_found(scene: Scene) -> None:
    _, _, _, seen = scene.shown()[0]
    c, f, _ = [b for b in scene.batches() if b[2].events][-1]
    assert c > 0, "it was resumed"
    scene.with_events(c, f, [seen, *scene.events_of(c, f)], skipped=-1)
    assert Fault.REPEATED in scene.faults()


@every_scene
def test_two_events_that_changed_places_are_found(scene: Scene) -> None:
    shown = scene.shown()
    (c1, f1, e1, one), (c2, f2, e2, two) = scene.random.choice([*pairwise(shown)])
    first, second = scene.events_of(c1, f1), scene.events_of(c2, f2)
    first[e1] = two
    if (c1, f1) == (c2, f2):
        first[e2] = one
    else:
        second[e2] = one
        scene.with_events(c2, f2, second)
    scene.with_events(c1, f1, first)
    assert Fault.REORDERED in scene.faults()


@every_scene
def test_an_older_value_in_the_place_of_the_last_is_found(scene: Scene) -> None:
    """The last of some progress must be the newest: an older one of the same stage is not it."""
    came = {seen.text for _, _, _, seen in scene.shown()}
    for record in scene.expectation.records:
        newer = None if record.replaced_by is None else scene.expectation.at(record.replaced_by)
        if newer is None or newer.replaced_by is not None or record.entry.text in came:
            continue
        for c, f, e, seen in scene.shown():
            if seen.text == newer.entry.text:
                events = scene.events_of(c, f)
                events[e] = Seen(seen.type, record.entry.text or b"")
                scene.with_events(c, f, events)
                assert Fault.LOST_STATE in scene.faults()
                return
    raise AssertionError("the scene has no coalesced state")


@every_scene
def test_a_barrier_that_did_not_hold_is_found(scene: Scene) -> None:
    """State, fact, the same state: the first was sealed, whatever came after."""
    records = scene.expectation.records
    for before, fact, after in zip(records, records[1:], records[2:], strict=False):
        key, run = before.entry.key, before.entry.run
        same = key == after.entry.key and run == after.entry.run == fact.entry.run
        if key is None or fact.entry.key is not None or not same:
            continue
        for c, f, e, seen in scene.shown():
            if seen.text == before.entry.text:
                events = scene.events_of(c, f)
                del events[e]
                scene.with_events(c, f, events, skipped=1)
                assert scene.faults() == {Fault.LOST_STATE}
                return
    raise AssertionError("the scene has no barrier")


@every_scene
def test_a_lost_transition_is_found(scene: Scene) -> None:
    """A B A without its B."""
    identities: dict[tuple[str, ...], list[Expected]] = defaultdict(list)
    for record in scene.expectation.records:
        if record.entry.key is not None:
            run, entity = "/".join(filter(None, record.entry.run)), record.entry.key.split("|")[0]
            identities[run, record.entry.type, entity].append(record)
    there_and_back = [
        two.entry.text
        for states in identities.values()
        for one, two, three in zip(states, states[1:], states[2:], strict=False)
        if one.entry.key == three.entry.key != two.entry.key
    ]
    c, f, e, _ = next(each for each in scene.shown() if each[3].text in there_and_back)
    events = scene.events_of(c, f)
    del events[e]
    scene.with_events(c, f, events, skipped=1)
    assert scene.faults() == {Fault.LOST_STATE}


@every_scene
@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"body":{', b'"body":{"more":1,'), (b'"timestamp":"20', b'"timestamp":"19')],
    ids=["body", "timestamp"],
)
def test_an_altered_event_is_found(scene: Scene, old: bytes, new: bytes) -> None:
    c, f, e, seen = scene.random.choice(scene.shown())
    events = scene.events_of(c, f)
    events[e] = Seen(seen.type, seen.text.replace(old, new))
    assert events[e] != seen
    scene.with_events(c, f, events)
    assert Fault.FOREIGN in scene.faults()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_event_without_its_error_is_found(dialect: Dialect) -> None:
    scene = Scene(0, PROJECT, dialect)
    error = b'"errorMessage":"it jams",'
    c, f, e, seen = next(each for each in scene.shown() if error in each[3].text)
    events = scene.events_of(c, f)
    events[e] = Seen(seen.type, seen.text.replace(error, b""))
    scene.with_events(c, f, events)
    assert Fault.FOREIGN in scene.faults()


@every_scene
@pytest.mark.parametrize("project", ["p4", "p0"])
def test_an_event_of_another_channel_is_found(scene: Scene, project: str) -> None:
    """Of another project in the same partition, or of what the channel leaves out."""
    entries = scene.log.projects[project]
    texts = scene.expectation.copies
    foreign = [e for e in entries if e.text is not None and e.text not in texts]
    if not foreign:
        assert (project, scene.recording.watch) == ("p0", PROJECT), "it holds everything"
        return
    stranger = scene.random.choice(foreign)
    c, f, e, _ = scene.random.choice(scene.shown())
    events = scene.events_of(c, f)
    events.insert(e, Seen(stranger.type, stranger.text or b""))
    scene.with_events(c, f, events, skipped=-1)
    assert Fault.FOREIGN in scene.faults()


@every_scene
def test_a_hole_at_a_resume_is_found(scene: Scene) -> None:
    """The frames that a resumed connection begins with are missing, and nothing says so."""
    for c, frames in enumerate(scene.frames[1:], 1):
        for f, frame in enumerate(frames):
            if isinstance(frame, Batch) and any(
                scene.record(seen).entry.key is None for seen in frame.events
            ):
                kept = [each for each in frames[:f] if not isinstance(each, Batch)]
                scene.frames[c] = [*kept, *frames[f + 1 :]]
                assert Fault.LOST_FACT in scene.faults()
                return
    raise AssertionError("no resume begins with a fact")


def scenes_of(*dialects: Dialect) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("seed", "watch", "dialect"), [scene for scene in SCENES if scene[2] in dialects]
    )


@scenes_of("v1", "json")
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_wrong_count_of_skipped_states_is_found(scene: Scene, wrong: int) -> None:
    clean = [
        (c, f, batch)
        for c, f, batch in scene.batches()
        if batch.events and scene.expectation.bad_between(*_range(batch)) == 0
    ]
    c, f, _ = scene.random.choice(clean)
    scene.with_events(c, f, scene.events_of(c, f), skipped=wrong)
    assert scene.faults() == {Fault.MISCOUNTED}


def _range(batch: Batch) -> tuple[int, int]:
    return parse_cursor_offset(batch.prev or ""), parse_cursor_offset(batch.cursor)


def parse_cursor_offset(cursor: str) -> int:
    found = [n for n in range(-1, 5000) if cursor_at(0, n) == cursor]
    return found[0]


@scenes_of("v1", "json")
def test_a_broken_chain_is_found(scene: Scene) -> None:
    c, f, batch = scene.random.choice(scene.batches()[1:])
    scene.frames[c][f] = scene.batch(c, f)._replace(
        prev=cursor_at(0, parse_cursor_offset(batch.prev or "") + 1)
    )
    assert Fault.BROKEN_CHAIN in scene.faults()


@scenes_of("v1")
def test_a_resume_from_elsewhere_is_found(scene: Scene) -> None:
    answer = scene.frames[1][0]
    assert isinstance(answer, Subscribed)
    for wrong in (answer._replace(resumed=False), answer._replace(cursor=cursor_at(0, 10_000))):
        scene.frames[1][0] = wrong
        assert Fault.BAD_RESUME in scene.faults()


@scenes_of("v1")
def test_a_run_that_does_not_begin_at_its_start_is_found(scene: Scene) -> None:
    answer, *_ = scene.frames[0]
    assert isinstance(answer, Subscribed)
    later = scene.expectation.records[2].offset
    scene.frames[0] = [answer._replace(cursor=cursor_at(0, later))]
    assert Fault.BAD_CURSOR in scene.faults()


@every_scene
def test_a_cursor_behind_its_event_is_found(scene: Scene) -> None:
    """Who resumed after it would get the event again."""
    batches = [batch for batch in scene.batches() if batch[2].events][1:]
    c, f, batch = scene.random.choice(batches)
    offset = scene.expectation.copies[batch.events[-1].text][0]
    scene.frames[c][f] = scene.batch(c, f)._replace(cursor=cursor_at(0, offset - 1))
    assert Fault.BAD_CURSOR in scene.faults()


@every_scene
def test_a_cursor_of_another_partition_is_found(scene: Scene) -> None:
    c, f, batch = scene.batches()[-1]
    elsewhere = cursor_at(1, parse_cursor_offset(batch.cursor))
    scene.frames[c][f] = batch._replace(cursor=elsewhere)
    assert Fault.BAD_CURSOR in scene.faults()


@scenes_of("plain", "sse")
def test_a_cursor_ahead_of_an_undelivered_event_is_found(scene: Scene) -> None:
    """Who resumed after it would lose the next event."""
    batches = [batch for batch in scene.batches() if batch[2].events]
    (c, f, _), (_, _, following) = scene.random.choice([*pairwise(batches)])
    offset = scene.expectation.copies[following.events[0].text][0]
    scene.frames[c][f] = scene.batch(c, f)._replace(cursor=cursor_at(0, offset))
    assert scene.faults() & {Fault.REORDERED, Fault.REPEATED}


@every_scene
@pytest.mark.parametrize("frame", [Closed(4503, "no"), Failed("what")])
def test_a_refusal_is_found(scene: Scene, frame: Frame) -> None:
    scene.frames[-1].append(frame)
    assert scene.faults() == {Fault.FAILED}


def test_a_viewer_that_did_not_get_to_the_end_is_found() -> None:
    scene = Scene(0, RUN, "v1")
    scene.recording = scene.recording._replace(end="deadline")
    assert scene.faults() == {Fault.UNFINISHED}


# --- retries, gaps and other fine points, on a log of a few lines ---------------------------------


class Small:
    """A log of project p in partition 0: letters are entities' states, ``!`` a fact."""

    def __init__(self, script: str) -> None:
        load = Load(0, projects=1, runs=1)
        run = Run("agent", "r0")
        self.planned: list[Planned] = []
        for word in script.split():
            if word == "!":
                self.planned.append(load._fact("p0", run, "agent.message.appended"))
            elif word.isdigit():  # a retry of that record
                self.planned.append(self.planned[int(word)])
            elif word == "x":  # bad, with the headers of a
                state = load._state("p0", run, "agent.run.updated", "a")
                self.planned.append(state._replace(value=b"\x00"))
            else:
                load._stages["p0", run, "agent.run.updated", word[0]] = (word[1:], "")
                self.planned.append(load._state("p0", run, "agent.run.updated", word[0]))
        records = [Record(0, n, *each) for n, each in enumerate(self.planned)]
        self.entries = [entry for entry in map(read_entry, records) if entry is not None]
        self.watch = Watch("p0", "agent", "r0", start="start")
        self.expectation = Log(records).expectation(self.watch)

    def batch(self, low: int, high: int, shown: Sequence[int], skipped: int) -> Batch:
        events = tuple(Seen("t", self.entries[n].text or b"") for n in shown)
        return Batch(cursor_at(0, low), cursor_at(0, high), skipped, events)

    def faults(self, *connections: Sequence[Batch | Gap], start: int = -1) -> list[Fault]:
        lived: list[Connection] = []
        after: str | None = None
        for frames in connections:
            first = Subscribed("p0/agent/r0", after or cursor_at(0, start), after is not None, None)
            lived.append(Connection(after, (first, *frames)))
            after = frames[-1].cursor
        recording = Recording("v", self.watch, "v1", tuple(lived), "marker")
        self.verdict = judge(self.expectation, recording)
        return [violation.fault for violation in self.verdict.violations]


def test_a_retry_delivered_twice_in_one_subscription_is_found() -> None:
    log = Small("! ! 0 !")
    assert log.faults([log.batch(-1, 3, [0, 1, 3], 0)]) == []
    assert log.faults([log.batch(-1, 3, [0, 1, 0, 3], 0)]) == [Fault.REPEATED, Fault.MISCOUNTED]
    again = [log.batch(-1, 1, [0, 1], 0), log.batch(1, 3, [0, 3], 0)]
    assert log.faults(again) == [Fault.REPEATED, Fault.BAD_CURSOR, Fault.MISCOUNTED]


def test_a_retry_may_come_again_where_the_original_was_before_the_resume() -> None:
    log = Small("! ! 0 !")
    assert log.faults([log.batch(-1, 1, [0, 1], 0)], [log.batch(1, 3, [0, 3], 0)]) == []
    assert log.verdict.retried == 1
    twice = [log.batch(1, 3, [0, 0, 3], 0)]
    assert Fault.REPEATED in log.faults([log.batch(-1, 1, [0, 1], 0)], twice)


def test_a_retry_does_not_excuse_that_something_newer_is_lost() -> None:
    log = Small("arunning arunning 0")
    first, second = [log.batch(-1, 0, [0], 0)], [log.batch(0, 2, [0], 1)]
    assert log.faults(first, second) == [Fault.LOST_STATE]


def test_a_forgetful_edge_may_repeat_a_retry_in_a_later_frame_but_not_in_the_same() -> None:
    log = Small("! ! 0 !")
    log.expectation = Expectation(log.watch, log.entries, held=100)
    assert log.faults([log.batch(-1, 1, [0, 1], 0), log.batch(1, 3, [0, 3], 0)]) == []
    assert Fault.REPEATED in log.faults([log.batch(-1, 3, [0, 1, 0, 3], 0)])
    log.expectation = Expectation(log.watch, log.entries, held=2)
    assert log.faults([log.batch(-1, 3, [0, 1, 0, 3], 0)]) == []


def test_a_forgetful_edge_may_show_an_older_value_that_came_again() -> None:
    log = Small("arunning arunning 0 !")
    log.expectation = Expectation(log.watch, log.entries, held=100)
    first = log.batch(-1, 0, [0], 0)
    assert log.faults([first, log.batch(0, 3, [0, 3], 1)]) == []
    assert log.faults([first, log.batch(0, 3, [3], 2)]) == [Fault.LOST_STATE]


def test_what_a_gap_covers_is_exempt_and_nothing_else() -> None:
    log = Small("! ! ! ! !")
    gap = Gap(cursor_at(0, 0), cursor_at(0, 2), "retention")
    head, tail = log.batch(-1, 0, [0], 0), log.batch(2, 4, [3, 4], 0)
    assert log.faults([head, gap, tail]) == []
    assert log.verdict.gaps == ["retention"]
    assert log.faults([head, gap, log.batch(2, 4, [4], 1)]) == [Fault.LOST_FACT]
    assert log.faults([log.batch(-1, 0, [], 1), gap, tail]) == [Fault.LOST_FACT]
    broken = gap._replace(prev=cursor_at(0, 1))
    assert log.faults([head, broken, tail]) == [Fault.BROKEN_CHAIN]


def test_a_state_whose_successor_is_in_a_later_frame_is_held_back() -> None:
    log = Small("arunning brunning arunning !")
    assert log.faults([log.batch(-1, 1, [0, 1], 0), log.batch(1, 3, [2, 3], 0)]) == []
    late = [log.batch(-1, 1, [1], 1), log.batch(1, 3, [2, 3], 0)]
    assert log.faults(late) == [Fault.HELD_BACK]


def test_a_state_whose_successor_never_came_is_lost() -> None:
    log = Small("! arunning arunning")
    assert log.faults([log.batch(-1, 1, [0], 1)]) == [Fault.HELD_BACK, Fault.LOST_STATE]


def test_what_came_may_come_again_where_a_gap_goes_back() -> None:
    """A cursor that is none of this project's: a run goes on from its start."""
    log = Small("! ! !")
    gap = Gap(cursor_at(0, 1), cursor_at(0, -1), "invalid")
    assert log.faults([log.batch(-1, 1, [0, 1], 0), gap, log.batch(-1, 2, [0, 1, 2], 0)]) == []
    again = log.batch(-1, 2, [0, 1, 1, 2], -1)
    assert Fault.REPEATED in log.faults([log.batch(-1, 1, [0, 1], 0), gap, again])


def test_a_run_and_a_step_of_the_same_id_do_not_stand_for_each_other() -> None:
    entries = Small("arunning arunning arunning").entries
    entries[1] = entries[1]._replace(type="agent.step.updated")
    replaced = [record.replaced_by for record in Expectation(Watch("p0"), entries).records]
    assert replaced == [2, None, None]


def test_intermediate_values_may_come() -> None:
    log = Small("arunning arunning arunning !")
    for shown in ([2, 3], [0, 2, 3], [1, 2, 3], [0, 1, 2, 3]):
        assert log.faults([log.batch(-1, 3, shown, 4 - len(shown))]) == []


def test_a_bad_record_may_count_as_skipped_but_replaces_nothing() -> None:
    log = Small("arunning x !")
    for skipped in (0, 1):
        assert log.faults([log.batch(-1, 2, [0, 2], skipped)]) == []
    assert log.faults([log.batch(-1, 2, [2], 2)]) == [Fault.LOST_STATE]
    assert log.faults([log.batch(-1, 2, [0, 2], 2)]) == [Fault.MISCOUNTED]


def test_every_leaves_out_nothing() -> None:
    log = Small("arunning arunning !")
    log.watch = log.watch._replace(delivery="every")
    log.expectation = Expectation(log.watch, log.entries)
    assert log.faults([log.batch(-1, 2, [1, 2], 1)]) == [Fault.LOST_STATE]


def test_a_filtered_out_fact_is_no_barrier() -> None:
    entries = Small("arunning ! arunning").entries
    states = Expectation(Watch("p0", types="agent.run.*"), entries)
    assert [record.replaced_by for record in states.records] == [2, None]
    everything = Expectation(Watch("p0"), entries)
    assert [record.replaced_by for record in everything.records] == [None, None, None]


def test_two_records_that_look_alike_are_refused() -> None:
    entry = Small("!").entries[0]
    with pytest.raises(ValueError, match="looks like another"):
        Expectation(Watch("p0"), [entry, entry._replace(offset=1, event_id="other")])


# --- what it reads --------------------------------------------------------------------------------


def test_it_reads_records_as_the_product_does() -> None:
    """Two implementations of the contract that share no line agree on every sort of record."""
    good = bad = 0
    for record in a_log(7, steps=600):
        entry = read_entry(record)
        if entry is None or record.value is None:
            continue
        try:
            event = decode(record.value)
            message = event_json(event)[:-1] + b',"cursor":"c"}'
        except RecordError:
            assert entry.text is None
            bad += 1
            continue
        if event.project_id.encode() != record.key:
            assert entry.text is None
            continue
        envelope = parse_headers(record.headers) or envelope_of(event)
        assert (entry.type, entry.event_id) == (envelope.type, envelope.event_id)
        assert tuple(entry.run) == tuple(envelope.subject)
        assert entry.key == envelope.coalesce_key
        (batch,) = parse("plain", message)
        assert isinstance(batch, Batch)
        assert batch.events == (Seen(event.type, entry.text or b""),)
        good += 1
    assert good > 400
    assert bad > 3


def test_a_load_holds_every_sort_and_is_the_same_again() -> None:
    records = a_log(3, steps=400)
    assert records == a_log(3, steps=400)
    log = Log(records)
    everything = [log.expectation(Watch(project)) for project in log.projects]
    sorts = {
        "bad": sum(len(e.bad) for e in everything),
        "retries": sum(len(offsets) > 1 for e in everything for offsets in e.copies.values()),
        "no key": sum(record.key is None for record in records),
        "tombstones": sum(record.value is None for record in records),
        "no headers": sum(not record.headers for record in records if record.value),
        "coalesced": sum(r.replaced_by is not None for e in everything for r in e.records),
    }
    assert min(sorts.values()) > 0, sorts
    for expectation in everything:
        types = [record.entry.type for record in expectation.records]
        assert types[-1] == PROJECT_ENDED
        assert types.count(RUN_ENDED) == 8


@pytest.mark.parametrize("module", ["record", "expectation", "dialects", "recording", "judge"])
def test_the_judgement_imports_nothing_of_what_it_judges(module: str) -> None:
    imports = [
        n
        for n in ast.walk(
            ast.parse(inspect.getsource(importlib.import_module(f"verifier.{module}")))
        )
        if is_import(n)
    ]
    text = "\n".join(map(ast.unparse, imports))
    assert "verifier" in text or "fastavro" in text
    assert "tailrace" not in text


def is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_its_cursors_are_laid_out_as_the_products() -> None:
    assert len(cursor_at(2, 77)) == 44
    with pytest.raises(Exception, match="cursor"):
        parse_cursor(cursor_at(2, 77))  # its checksum is none


@pytest.mark.parametrize(
    ("dialect", "message"),
    [
        ("plain", '{"type":"a"}'),
        ("plain", "no json"),
        ("v1", "[]"),
        ("v1", '{"t":"batch","prev":"a","cursor":"b","events":[]}'),
        ("v1", '{"t":"error","code":"x","message":"y"}'),
        ("sse", {"event": "more", "id": "c", "data": '{"type":"a"}'}),
        ("json", '{"prev":"a"}'),
    ],
)
def test_a_message_of_no_known_form_fails(dialect: Dialect, message: object) -> None:
    (frame,) = parse(dialect, message)
    assert isinstance(frame, Failed)


@pytest.mark.parametrize(
    ("dialect", "message", "frames"),
    [
        (
            "plain",
            '{"type":"stream.gap","reason":"reset","cursor":"c"}',
            [Gap(None, "c", "reset")],
        ),
        ("sse", {"id": "c"}, [Batch(None, "c", None, ())]),
        ("sse", {}, []),
        (
            "sse",
            {"event": "gap", "data": '{"type":"stream.gap","reason":"reset","cursor":"c"}'},
            [Gap(None, "c", "reset")],
        ),
        ("v1", '{"t":"hello","v":1}', []),
        ("v1", '{"t":"gap","prev":"a","cursor":"b","reason":"r"}', [Gap("a", "b", "r")]),
        (
            "json",
            '{"prev":"a","cursor":"b","skipped":0,"more":false,"gap":{"reason":"r"},"events":[]}',
            [Gap(None, "a", "r"), Batch("a", "b", 0, ())],
        ),
        ("close", [1012, "bye"], [Closed(1012, "bye")]),
    ],
)
def test_each_dialect_is_read(dialect: Dialect, message: object, frames: list[Frame]) -> None:
    assert parse(dialect, message) == frames


def test_a_recording_without_a_viewer_is_refused() -> None:
    with pytest.raises(ValueError, match="viewer"):
        read_recording([])

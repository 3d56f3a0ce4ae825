"""Records in, chunks out: what is routed, decoded, coalesced and counted."""

from itertools import groupby

import pytest
from edge_harness import make_event, record_of
from edge_viewers import LOG, PARTITION, Stage, chained, fact, key_of, place, spoilt, state
from hypothesis import given
from hypothesis import strategies as st
from memory_topic import StubRecord
from strategies import PROPERTY

from tailrace.edge.channel import ChannelKey
from tailrace.edge.dialect import Dialect, frame_of
from tailrace.edge.hub import Log
from tailrace.edge.protocol import Types
from tailrace.schemas import Subject

PROJECT = key_of()
RUN = key_of(run="j1")


def test_record_of_a_project_that_nobody_watches_is_held_and_never_decoded() -> None:
    stage = Stage()
    stage.watch(key_of("other"))
    stage.publish(*(state(n) for n in range(10)))
    assert stage.flush() == []
    assert (stage.hub.counts.records, stage.hub.counts.decoded) == (10, 0)
    assert stage.hub.journal.head(PARTITION)[0] == 9


def test_each_record_is_decoded_and_rendered_once_however_many_channels_want_it() -> None:
    stage = Stage()
    viewers = [
        stage.watch(key)
        for key in (
            PROJECT,
            RUN,
            key_of(every=True),
            PROJECT._replace(types=Types(prefixes=("ingest.",))),
            PROJECT._replace(window_ms=500),
        )
    ]
    stage.publish(fact(1), fact(2))
    stage.flush()
    assert all(viewer.ns == [1, 2] for viewer in viewers)
    assert (stage.hub.counts.decoded, stage.hub.counts.rendered) == (2, 2)


def test_states_that_newer_ones_replace_are_never_decoded() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    stage.publish(*(state(n) for n in range(100)))
    stage.flush()
    assert viewer.ns == [99]
    assert stage.hub.counts.decoded == 1
    assert stage.hub.counts.coalesced == viewer.heard[0].skipped == 99


def test_frame_of_a_chunk_is_built_once_for_all_viewers() -> None:
    stage = Stage()
    viewers = [stage.watch(PROJECT) for _ in range(3)]
    stage.publish(fact(1))
    [chunk] = stage.flush()
    assert len({id(viewer.frames[0]) for viewer in viewers}) == 1
    assert frame_of(chunk, Dialect.V1) is viewers[0].frames[0]


def test_nothing_is_decoded_while_nobody_is_live() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT, room=0)
    stage.publish(fact(0))
    stage.flush()
    assert not viewer.live
    decoded = stage.hub.counts.decoded
    stage.publish(fact(1), fact(2))
    assert stage.flush() == []
    assert stage.hub.counts.decoded == decoded
    assert viewer.channel.cursor == place(2)


def test_chain_is_unbroken_from_flush_to_flush() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    for first in range(0, 30, 3):
        stage.publish(fact(first), state(first + 1), fact(first + 2, project="other"))
        stage.flush()
    assert chained(viewer.heard, viewer.began)
    assert viewer.heard[-1].cursor == place(29)


def test_fact_is_due_at_once_and_so_are_the_states_before_it() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    stage.publish(state(0))
    stage.flush(0.0)
    stage.publish(state(1))
    stage.flush(0.001)
    assert viewer.ns == [0]  # the second state waits for its window
    stage.publish(fact(2))
    stage.flush(0.001)
    assert viewer.ns == [0, 1, 2]


def test_first_state_after_silence_is_due_at_once_and_the_next_after_the_window() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    stage.publish(state(0))
    stage.flush(0.0)
    assert viewer.ns == [0]
    stage.publish(state(1), state(2))
    stage.flush(0.039)
    assert viewer.ns == [0]
    stage.flush(0.002)
    assert viewer.ns == [0, 2]


def test_kinds_and_projects_of_equal_ids_never_mix() -> None:
    stage = Stage()
    viewers = {
        (project, kind): stage.watch(key_of(project, "7", kind=kind))
        for project in ("p1", "p2")
        for kind in ("ingest", "workflow")
    }
    stage.publish(
        fact(0, project="p1", run="7"),
        fact(1, project="p2", run="7"),
        fact(2, project="p1", run="7", type="workflow.run.created"),
        fact(3, project="p1", run="8"),
    )
    stage.flush()
    assert {who: viewer.ns for who, viewer in viewers.items()} == {
        ("p1", "ingest"): [0],
        ("p1", "workflow"): [2],
        ("p2", "ingest"): [1],
        ("p2", "workflow"): [],
    }


def test_retry_is_dropped_and_counted() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    first = fact(0)
    stage.publish(first, first._replace(offset=1), fact(2))
    stage.flush()
    assert viewer.ns == [0, 2]
    assert stage.hub.journal.retries == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (fact(1)._replace(key=None), "no_key"),
        (fact(1)._replace(key=b""), "no_key"),
        (spoilt(fact(1)), "undecodable"),
        (spoilt(fact(1))._replace(headers=[]), "undecodable"),
        (record_of(make_event("p2"), 1)._replace(key=b"p1"), "project_mismatch"),
        (record_of(make_event("p1", data="[]"), 1), "data_not_object"),
    ],
    ids=["no key", "empty key", "cut", "cut, no headers", "mismatch", "no object"],
)
def test_bad_record_is_counted_once_and_costs_no_other(bad: StubRecord, reason: str) -> None:
    stage = Stage()
    viewers = [stage.watch(PROJECT), stage.watch(PROJECT._replace(window_ms=0))]
    stage.publish(fact(0), bad, fact(2))
    stage.flush()
    assert [viewer.ns for viewer in viewers] == [[0, 2], [0, 2]]
    assert stage.skipped == [(PARTITION, 1, reason)]


def test_bad_record_that_one_behind_was_spared_is_not_counted_again_live() -> None:
    stage = Stage()
    behind, live = stage.watch(RUN), stage.watch(PROJECT)
    stage.hub.fall_behind(behind, place(-1))
    stage.publish(fact(0), spoilt(fact(1)))
    assert stage.hub.flush(behind.channel) == []
    stage.backlog.add(behind)
    stage.catch_up()
    assert behind.ns == [0]

    stage.flush()

    assert live.ns == [0]
    assert [(skip.offset, skip.reason) for skip in stage.skipped] == [(1, "undecodable")]


def test_bad_record_is_decoded_once_however_many_channels_want_it() -> None:
    stage = Stage()
    stage.watch(RUN)
    stage.watch(PROJECT)
    stage.publish(spoilt(fact(0)))
    stage.flush()
    assert stage.hub.counts.decoded == 1


def test_tombstone_is_ignored() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    stage.publish(fact(0)._replace(value=None), fact(1))
    stage.flush()
    assert (viewer.ns, stage.skipped) == ([1], [])


def test_record_in_a_partition_that_is_not_its_projects_is_not_delivered() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    stage.hub.publish(PARTITION + 1, [fact(0)], 0.0)
    stage.flush()
    assert viewer.ns == []
    assert [(s.partition, s.reason) for s in stage.skipped] == [(PARTITION + 1, "misplaced")]


def test_good_state_that_a_bad_one_replaced_is_delivered() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    stage.publish(state(0), state(1), spoilt(state(2)), fact(3, run="other"))
    stage.flush()
    assert viewer.ns == [1, 3]
    assert len(stage.skipped) == 1


def test_viewers_go_to_the_backlog_when_the_journal_no_longer_holds_what_a_bad_state_hid() -> None:
    stage = Stage(journal_max_bytes=6000)
    viewer = stage.watch(PROJECT)
    stage.publish(state(0), spoilt(state(1)))
    stage.publish(*(fact(n, project="other") for n in range(2, 20)))
    assert stage.flush() == []
    assert not viewer.live
    stage.catch_up()
    assert viewer.live
    assert viewer.position == viewer.channel.cursor


@pytest.mark.parametrize("foreign", [False, True], ids=["our headers", "foreign order"])
def test_first_record_of_a_run_is_remembered_by_its_created_event(*, foreign: bool) -> None:
    stage = Stage()
    record = fact(5)
    if foreign:
        record = record._replace(headers=list(reversed(list(record.headers))))
    stage.publish(fact(4, type="ingest.job.completed"), record, fact(6))
    start = stage.hub.journal.run_start(b"p1", Subject("ingest", "j1"))
    assert start == (PARTITION, 5)


def test_range_is_cut_before_it_is_folded_so_that_each_frame_is_bounded_and_whole() -> None:
    stage = Stage(journal_max_bytes=1 << 24)
    viewer = stage.watch(PROJECT)
    stage.publish(*(fact(n, padding=50_000) for n in range(20)))
    chunks = stage.flush()
    assert viewer.ns == list(range(20))
    assert len(chunks) > 1
    assert max(chunk.size for chunk in chunks) <= 1 << 18
    assert chained(viewer.heard, viewer.began)


def test_event_larger_than_a_frame_stands_alone() -> None:
    stage = Stage(journal_max_bytes=1 << 24)
    viewer = stage.watch(PROJECT)
    stage.publish(fact(0), fact(1, padding=600_000), fact(2))
    stage.flush()
    assert [heard.ns for heard in viewer.heard] == [[0], [1], [2]]


def test_pending_bytes_are_gone_with_the_flush_and_with_the_channel() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    stage.publish(fact(0), state(1))
    assert stage.hub.pending > 0
    stage.flush()
    assert stage.hub.pending == 0
    stage.publish(state(2))
    stage.leave(viewer)
    assert (stage.hub.pending, len(stage.hub), stage.flush()) == (0, 0, [])


def test_channel_goes_with_its_last_viewer_and_comes_anew() -> None:
    stage = Stage()
    first, second = stage.watch(PROJECT), stage.watch(PROJECT)
    assert first.channel is second.channel
    stage.leave(first)
    assert len(stage.hub) == 1
    stage.leave(second)
    assert len(stage.hub) == 0
    assert stage.watch(PROJECT).channel is not first.channel


def test_another_incarnation_puts_all_viewers_behind_where_they_were() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    stage.publish(fact(0))
    stage.flush()
    stage.hub.begin(Log(8, 4), dict.fromkeys(range(4), (-1, -1)))
    stage.hub.attach(lambda _: 1)
    assert not viewer.live
    assert viewer.position == place(0)
    assert viewer.channel.cursor == Log(8, 4).position(1, -1, -1)
    stage.hub.publish(1, [fact(0)], 0.0)
    assert stage.hub.pending > 0


def test_heartbeat_moves_idle_channels_and_no_others() -> None:
    stage = Stage()
    idle, busy = stage.watch(PROJECT), stage.watch(key_of("p2"))
    stage.publish(fact(0, project="p2"))
    stage.flush(0.0)
    stage.now += 24.0
    stage.publish(fact(1, project="p2"))
    stage.flush(0.0)
    stage.now += 2.0
    stage.hub.beat(stage.now, 25.0, 10.0)
    stage.flush(0.0)
    assert [heard.cursor for heard in idle.heard] == [place(1)]
    assert busy.ns == [0, 1]
    assert len(busy.heard) == 2


def test_heartbeat_of_event_streams_is_the_shorter_one() -> None:
    stage = Stage()
    viewer = stage.watch(PROJECT)
    viewer.channel.live[Dialect.SSE] = {viewer: None}
    stage.now += 11.0
    stage.hub.beat(stage.now, 25.0, 10.0)
    assert stage.hub.due(stage.now) == [viewer.channel]


def test_viewers_who_are_behind_are_counted() -> None:
    stage = Stage()
    stage.watch(PROJECT)
    stage.watch(PROJECT, room=0)
    stage.publish(fact(0))
    stage.flush()
    assert stage.hub.lagging() == 1


def test_who_is_behind_already_stays_where_they_are() -> None:
    stage = Stage()
    viewer = stage.watch(RUN)
    stage.hub.fall_behind(viewer, place(3))
    stage.hub.fall_behind(viewer, place(9))
    assert viewer.position == place(3)


def test_average_record_is_known_from_a_sample() -> None:
    stage = Stage()
    assert stage.hub.record_bytes(PARTITION) is None
    stage.publish(fact(0, padding=1000))
    size = stage.hub.record_bytes(PARTITION)
    assert size is not None
    assert 1000 < size < 2000


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["state", "state", "state", "fact", "flush"]),
        st.sampled_from(["j1", "j2"]),
        st.sampled_from(["A", "B"]),
    ),
    max_size=60,
)


@PROPERTY
@given(OPERATIONS, st.booleans())
def test_channels_deliver_what_a_plain_list_says(
    operations: list[tuple[str, str, str]],
    every: bool,  # noqa: FBT001 - drawn
) -> None:
    stage = Stage()
    keys: list[ChannelKey] = [key_of(every=every), key_of(run="j1", every=every)]
    viewers = [stage.watch(key) for key in keys]
    log: list[tuple[int, str, str, str]] = []
    for what, run, status in operations:
        offset = len(log)
        if what == "flush":
            stage.flush(0.05)
            continue
        log.append((offset, what, run, status))
        stage.publish(fact(offset, run=run) if what == "fact" else state(offset, status, run=run))
    stage.flush()
    for viewer, runs in zip(viewers, [("j1", "j2"), ("j1",)], strict=True):
        mine = [line for line in log if line[2] in runs]
        assert chained(viewer.heard, viewer.began)
        assert viewer.ns == sorted(viewer.ns)
        assert len(viewer.ns) + sum(h.skipped for h in viewer.heard) == len(mine)
        if every:
            assert viewer.ns == [line[0] for line in mine]
        for run in runs:
            _assert_run(viewer.ns, [line for line in mine if line[2] == run])


def _assert_run(ns: list[int], lines: list[tuple[int, str, str, str]]) -> None:
    """Check facts, transitions and last values of one run."""
    for (what, _), group in groupby(lines, key=lambda line: (line[1], line[3])):
        offsets = [line[0] for line in group]
        if what == "fact":
            assert [n for n in ns if n in offsets] == offsets
        else:
            assert offsets[-1] in ns, "the newest of states with one status, and each transition"


def test_log_makes_positions_of_its_own_identity() -> None:
    assert LOG.position(1, 5, 6) == (1, 5, 6, LOG.partitions, LOG.topic_id)

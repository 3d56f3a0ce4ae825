from edge_viewers import fact, key_of, place, state

from tailrace.edge.channel import Channel, ChannelKey
from tailrace.edge.chunk import Entry, Record
from tailrace.edge.protocol import Types, parse_types
from tailrace.schemas import Envelope, Subject, parse_headers


def entry(record: Record) -> Entry:
    envelope = parse_headers(record.headers)
    assert envelope is not None
    return Entry(record, envelope)


def channel(key: ChannelKey | None = None) -> Channel:
    return Channel(key or key_of(), place(-1), 0.0)


def envelope(type_: str, run: str | None = "j1", kind: str = "ingest") -> Envelope:
    return Envelope(type_, Subject(kind, run), "id", None)


def test_name_is_the_project_or_the_run_each_part_percent_encoded() -> None:
    assert ChannelKey("p", None).name == "p"
    assert ChannelKey("a/b c", Subject("ingest", "50%/é")).name == "a%2Fb%20c/ingest/50%25%2F%C3%A9"


def test_name_has_the_filters_that_are_not_the_default_sorted_by_name() -> None:
    key = ChannelKey("p", None, parse_types("b.c,a.*,b.c"), every=True, window_ms=0)
    assert key.name == "p?delivery=every&types=a.*,b.c&window=0"


def test_explicit_default_is_the_same_channel_as_none() -> None:
    assert ChannelKey("p", None, parse_types("*"), window_ms=40) == ChannelKey("p", None)
    assert ChannelKey("p", None, parse_types("a,*")).name == "p"


def test_run_channel_wants_its_run_and_kind_only() -> None:
    mine = channel(key_of(run="j1"))
    assert mine.wants(envelope("ingest.job.updated"))
    assert not mine.wants(envelope("ingest.job.updated", "j2"))
    assert not mine.wants(envelope("ingest.job.updated", "j1", "workflow"))
    assert not mine.wants(envelope("ingest.job.updated", None))


def test_project_channel_wants_everything_that_its_types_allow() -> None:
    everything, some = channel(), channel(ChannelKey("p", None, Types(("a.b",), ("ingest.",))))
    for name in ("a.b", "ingest.job.created"):
        assert everything.wants(envelope(name, None))
        assert some.wants(envelope(name))
    assert everything.wants(envelope("a.bc"))
    assert not some.wants(envelope("a.bc"))


def test_memory_of_matches_is_bounded_however_many_types_are_made_up() -> None:
    mine = channel(ChannelKey("p", None, Types(("a.b",))))
    for number in range(5000):
        assert not mine.wants(envelope(f"made.up.{number}"))
    assert len(mine._matches) <= Channel._MAX_MATCHES
    assert mine.wants(envelope("a.b"))


def test_what_is_taken_is_one_range_up_to_the_cursor_and_then_nothing_is_pending() -> None:
    mine = channel()
    mine.add(entry(state(1)))
    mine.add(entry(state(2)))
    assert mine
    assert mine.pending > 0
    [(folded, cursor)] = mine.take(place(7))
    assert [offset for offset, _ in folded.items] == [2]
    assert (folded.skipped, cursor) == ([1], place(7))
    assert not mine
    [(folded, _)] = mine.take(place(9))
    assert folded.items == []


def test_what_does_not_fit_a_frame_closes_a_range_at_the_record_before() -> None:
    mine = channel()
    for offset in range(4):
        mine.add(entry(fact(offset, padding=100_000)))
    ranges = mine.take(place(9))
    assert [[offset for offset, _ in folded.items] for folded, _ in ranges] == [[0, 1], [2, 3]]
    assert [cursor for _, cursor in ranges] == [place(1), place(9)]


def test_state_sealed_in_a_range_is_not_replaced_from_the_next_one() -> None:
    mine = channel()
    mine.add(entry(state(0)))
    mine.add(entry(fact(1, run="other", padding=200_000)))
    mine.add(entry(fact(2, run="other", padding=200_000)))
    mine.add(entry(state(3)))
    ranges = mine.take(place(3))
    assert [[offset for offset, _ in folded.items] for folded, _ in ranges] == [[0, 1], [2, 3]]
    assert all(folded.skipped == [] for folded, _ in ranges)


def test_first_state_of_a_new_channel_does_not_wait() -> None:
    made = Channel(key_of(), place(-1), 100.0)
    assert made.flushed_at + made.window <= 100.0

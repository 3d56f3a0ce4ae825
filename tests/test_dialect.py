import json
from collections.abc import Iterator

import pytest
from edge_viewers import place
from hypothesis import given
from strategies import PROPERTY, body_texts, events

from tailrace.edge.chunk import Chunk, Rendered
from tailrace.edge.dialect import (
    Break,
    Dialect,
    frame_of,
    gap_frame,
    message,
    page_body,
    plain_message,
)
from tailrace.edge.protocol import Gap
from tailrace.schemas import Event, RecordError, event_json, format_cursor, parse_cursor

FIRST = Rendered(3, 1003, 0, b'{"type":"a","n":3}')
SECOND = Rendered(7, 1007, 0, b'{"type":"b","n":7}')
CHUNK = Chunk("p/ingest/j%2F1", place(1), place(9), [FIRST, SECOND], 2)
EMPTY = Chunk("p", place(1), place(9))
GAP = Break("p", place(1), place(9), Gap.RETENTION)

PREV, CURSOR = format_cursor(place(1)), format_cursor(place(9))
AT_3, AT_7 = format_cursor(place(3)), format_cursor(place(7))


def _messages(frames: bytes) -> Iterator[bytes]:
    """Split WebSocket text frames (RFC 6455 §5.2)."""
    while frames:
        assert frames[0] == 0x81, "one whole text frame"
        size, start = frames[1], 2
        if size == 126:
            size, start = int.from_bytes(frames[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(frames[2:10], "big"), 10
        yield frames[start : start + size]
        frames = frames[start + size :]


def _only(frames: bytes) -> object:
    [text] = _messages(frames)
    return json.loads(text)


def _unchunked(frame: bytes) -> bytes:
    """Read one chunk of the chunked transfer coding (RFC 9112 §7.1)."""
    size, _, rest = frame.partition(b"\r\n")
    assert rest[int(size, 16) :] == b"\r\n"
    return rest[:-2]


def test_message_is_one_frame_with_its_kind_first() -> None:
    [text] = _messages(message("pong", at=5, now_us=7))

    assert text == b'{"t":"pong","at":5,"now_us":7}'


def test_v1_says_a_chunk_in_one_batch() -> None:
    assert _only(frame_of(CHUNK, Dialect.V1)) == {
        "t": "batch",
        "ch": "p/ingest/j%2F1",
        "prev": PREV,
        "cursor": CURSOR,
        "skipped": 2,
        "events": [{"type": "a", "n": 3}, {"type": "b", "n": 7}],
    }


def test_v1_says_an_empty_chunk_too_for_the_cursor_moves() -> None:
    assert _only(frame_of(EMPTY, Dialect.V1)) == {
        "t": "batch",
        "ch": "p",
        "prev": PREV,
        "cursor": CURSOR,
        "skipped": 0,
        "events": [],
    }


def test_v1_escapes_the_channel_name() -> None:
    batch = _only(frame_of(Chunk('p"\\', place(1), place(2)), Dialect.V1))

    assert isinstance(batch, dict)
    assert batch["ch"] == 'p"\\'


def test_plain_says_each_event_with_the_cursor_of_its_own_record() -> None:
    messages = [json.loads(text) for text in _messages(frame_of(CHUNK, Dialect.PLAIN))]

    assert messages == [
        {"type": "a", "n": 3, "cursor": AT_3},
        {"type": "b", "n": 7, "cursor": AT_7},
    ]


def test_plain_has_nothing_to_say_of_an_empty_chunk() -> None:
    assert frame_of(EMPTY, Dialect.PLAIN) == b""


def test_sse_says_each_event_under_its_own_cursor() -> None:
    expected = (
        f'id: {AT_3}\ndata: {{"type":"a","n":3}}\n\nid: {AT_7}\ndata: {{"type":"b","n":7}}\n\n'
    )

    assert frame_of(CHUNK, Dialect.SSE_RAW) == expected.encode()
    assert _unchunked(frame_of(CHUNK, Dialect.SSE)) == expected.encode()


def test_sse_heartbeat_is_an_id_alone() -> None:
    assert frame_of(EMPTY, Dialect.SSE_RAW) == f"id: {CURSOR}\n\n".encode()
    assert _unchunked(frame_of(EMPTY, Dialect.SSE)) == f"id: {CURSOR}\n\n".encode()


@pytest.mark.parametrize("dialect", Dialect)
def test_frame_is_built_once_per_chunk_and_dialect(dialect: Dialect) -> None:
    chunk = Chunk("p", place(1), place(9), [FIRST])

    first = frame_of(chunk, dialect)

    assert frame_of(chunk, dialect) is first
    assert chunk.frames[dialect] is first


def test_gap_is_a_range_in_v1() -> None:
    assert _only(gap_frame(GAP, Dialect.V1)) == {
        "t": "gap",
        "ch": "p",
        "prev": PREV,
        "cursor": CURSOR,
        "reason": "retention",
    }


def test_gap_is_an_event_of_its_own_type_in_plain() -> None:
    told = {"type": "stream.gap", "reason": "retention", "cursor": CURSOR}

    assert _only(gap_frame(GAP, Dialect.PLAIN)) == told


def test_gap_is_a_named_event_in_sse_with_the_cursor_to_resume_from() -> None:
    raw = gap_frame(GAP, Dialect.SSE_RAW)
    event, identity, data, *rest = raw.decode().split("\n")

    assert (event, identity, rest) == ("event: gap", f"id: {CURSOR}", ["", ""])
    told = {"type": "stream.gap", "reason": "retention", "cursor": CURSOR}
    assert json.loads(data.removeprefix("data: ")) == told
    assert _unchunked(gap_frame(GAP, Dialect.SSE)) == raw


def test_page_is_these_members() -> None:
    assert json.loads(page_body(CHUNK, more=True, gap=None)) == {
        "prev": PREV,
        "cursor": CURSOR,
        "skipped": 2,
        "more": True,
        "gap": None,
        "events": [{"type": "a", "n": 3}, {"type": "b", "n": 7}],
    }


def test_page_tells_the_reason_of_its_gap() -> None:
    page = json.loads(page_body(EMPTY, more=False, gap=Gap.TOO_FAR))

    assert (page["gap"], page["more"], page["events"]) == ({"reason": "too_far"}, False, [])


@PROPERTY
@given(events(data=body_texts()))
def test_no_event_breaks_a_frame(event: Event) -> None:
    try:
        text = event_json(event._replace(occurred_at=0))
    except RecordError:
        return  # not deliverable
    chunk = Chunk("p", place(1), place(3), [Rendered(3, 1003, 0, text)])
    expected = json.loads(text)

    [batch] = [json.loads(t) for t in _messages(frame_of(chunk, Dialect.V1))]
    [plain] = [json.loads(t) for t in _messages(frame_of(chunk, Dialect.PLAIN))]
    identity, data, *rest = frame_of(chunk, Dialect.SSE_RAW).split(b"\n")

    assert batch["events"] == [expected]
    assert plain == {**expected, "cursor": AT_3}
    assert list(plain)[-1] == "cursor"
    assert json.loads(data.removeprefix(b"data: ")) == expected
    assert (identity, rest) == (b"id: " + AT_3.encode(), [b"", b""])
    assert json.loads(page_body(chunk, more=False, gap=None))["events"] == [expected]


def test_plain_message_ends_with_the_cursor() -> None:
    assert plain_message(FIRST, "AbC-_") == b'{"type":"a","n":3,"cursor":"AbC-_"}'
    assert parse_cursor(AT_3) == place(3)

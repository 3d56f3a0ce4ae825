from edge_viewers import place, state

from tailrace.edge.chunk import Chunk, Entry, Rendered
from tailrace.schemas import Envelope, Subject


def test_chunk_is_as_large_as_its_events() -> None:
    events = [Rendered(1, 1001, 0, b"12345"), Rendered(3, 1003, 0, b"678")]

    assert Chunk("p", place(0), place(4), events).size == 8
    assert Chunk("p", place(0), place(4)).size == 0


def test_chunks_share_no_frames() -> None:
    first, second = Chunk("p", place(0), place(1)), Chunk("p", place(0), place(1))

    first.frames["dialect"] = b"frame"

    assert second.frames == {}


def test_what_exists_per_record_and_per_chunk_has_no_dict() -> None:
    entry = Entry(state(1), Envelope("a.b", Subject("custom", None), "id", None))

    assert not hasattr(entry, "__dict__")
    assert not hasattr(Chunk("p", place(0), place(1)), "__dict__")

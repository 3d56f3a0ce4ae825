from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from logged_record import LoggedRecord, logged
from strategies import PROPERTY

from tailrace.batching import Block


def _block(*offsets: int, key: bytes | None = b"p") -> Block[LoggedRecord]:
    return Block([logged(offset, key=key) for offset in offsets])


def _offsets(block: Block[LoggedRecord], key: bytes, after: int) -> list[int]:
    return [record.offset for record in block.after(key, after)]


def test_records_are_found_by_key_and_offset() -> None:
    block = _block(10, 12)
    block.extend(_block(13, key=b"q"))
    block.extend(_block(15))
    assert [_offsets(block, b"p", after) for after in (9, 10, 11, 14, 15)] == [
        [10, 12, 15],
        [12, 15],
        [12, 15],
        [15],
        [],
    ]
    assert _offsets(block, b"q", -1) == [13]
    assert _offsets(block, b"nobody", -1) == []


def test_record_is_found_by_its_offset_alone() -> None:
    block = _block(10, 12, 15)
    found = [block.at(offset) for offset in (9, 10, 11, 12, 15, 16)]
    assert [record and record.offset for record in found] == [None, 10, None, 12, 15, None]


def test_records_without_a_key_are_no_project_of_their_own() -> None:
    block = _block(10, key=None)
    assert [record.offset for record in block.by_key[None]] == [10]
    assert _offsets(block, b"", -1) == []


def test_size_counts_value_key_and_headers() -> None:
    bare = LoggedRecord(1, 1, b"", b"", [])
    named = LoggedRecord(1, 1, b"", b"", [("", b"")])
    base = Block([bare]).size
    assert Block([bare._replace(value=b"12345")]).size == base + 5
    assert Block([bare._replace(key=b"1234")]).size == base + 4
    header = Block([named]).size - base
    assert header > 100
    assert (
        Block([bare._replace(headers=[("ab", b"cde"), ("", b"f")])]).size == base + 2 * header + 6
    )


def test_size_of_what_is_null_is_that_of_what_is_empty() -> None:
    empty = LoggedRecord(1, 1, b"", b"", [("name", b"")])
    null = LoggedRecord(1, 1, None, None, [("name", cast("bytes", None))])
    assert Block([null]).size == Block([empty]).size


def test_what_was_given_away_does_not_change_when_the_block_grows() -> None:
    block = _block(10)
    given_away = block.by_key[b"p"]
    block.extend(_block(11))
    assert [record.offset for record in given_away] == [10]


def test_block_within_the_bounds_is_not_cut() -> None:
    block = _block(10, 11)
    assert list(block.cut(2, block.size)) == [block]


def test_record_larger_than_the_bound_has_a_block_of_its_own() -> None:
    small, large = _block(10).size, logged(12, value=bytes(5000))
    block = Block([logged(10), logged(11), large, logged(13)])
    cut = [[record.offset for record in part.records] for part in block.cut(500, 2 * small)]
    assert cut == [[10], [11], [12], [13]]


records = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", None]), st.integers(0, 2000)), min_size=1, max_size=40
).map(
    lambda drawn: [
        logged(offset, key=key, value=bytes(size)) for offset, (key, size) in enumerate(drawn)
    ]
)


@PROPERTY
@given(records, st.integers(1, 10), st.integers(0, 20_000))
def test_parts_are_within_the_bounds_and_make_up_the_whole(
    whole: list[LoggedRecord], max_records: int, max_bytes: int
) -> None:
    parts = list(Block(whole).cut(max_records, max_bytes))
    assert [record for part in parts for record in part.records] == whole
    for part in parts:
        assert len(part.records) == 1 or (
            len(part.records) <= max_records and part.size <= max_bytes
        )


@PROPERTY
@given(records, st.data())
def test_block_that_grew_is_as_if_made_at_once(
    whole: list[LoggedRecord], data: st.DataObject
) -> None:
    at_once = Block(whole)
    cut = data.draw(st.integers(1, len(whole)))
    grown = Block(whole[:cut])
    for record in whole[cut:]:
        grown.extend(Block([record]))
    assert (grown.records, grown.by_key, grown.size) == (whole, at_once.by_key, at_once.size)

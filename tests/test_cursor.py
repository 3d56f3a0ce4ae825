import re
import struct
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from string import ascii_letters, digits, printable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import PROPERTY, positions

from tailrace.schemas import CursorError, Position, format_cursor, parse_cursor

ALPHABET = ascii_letters + digits + "-_"
POSITION = Position(
    partition=3,
    offset=1_234_567,
    timestamp_ms=1_795_428_930_123,
    partitions=12,
    topic_id=0xC0FFEE42,
)
CURSOR = "AcD_7kIAAAADAAAADAAAAAAAEtaHAAABogfnUkuYHlJC"

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
UINT32 = st.integers(min_value=0, max_value=2**32 - 1)


def packed(version: int, partition: int, partitions: int, offset: int, timestamp_ms: int) -> str:
    """Return a text with a good checksum, whatever it says."""
    body = struct.pack(">BIIIqq", version, 7, partition, partitions, offset, timestamp_ms)
    return urlsafe_b64encode(body + zlib.crc32(body).to_bytes(4, "big")).decode()


def parses_to_itself_or_is_refused(text: str) -> bool:
    """Tell whether the text is a cursor; if so, of a position whose text is the very same."""
    try:
        position = parse_cursor(text)
    except CursorError:
        return False
    assert format_cursor(position) == text
    return True


def test_cursors_handed_out_by_earlier_releases_stay_good() -> None:
    assert format_cursor(POSITION) == CURSOR
    assert parse_cursor(CURSOR) == POSITION


@PROPERTY
@given(positions())
@example(Position(0, -1, -1, 1))
@example(Position(2**32 - 2, 2**63 - 1, 2**63 - 1, 2**32 - 1, 2**32 - 1))
def test_a_position_survives_the_way_to_a_client_and_back(position: Position) -> None:
    assert parse_cursor(format_cursor(position)) == position


@PROPERTY
@given(positions())
def test_a_cursor_is_short_and_safe_in_a_url(position: Position) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", format_cursor(position))


@PROPERTY
@given(positions(), positions())
def test_different_positions_have_different_cursors(first: Position, second: Position) -> None:
    assert (format_cursor(first) == format_cursor(second)) is (first == second)


@PROPERTY
@given(
    st.text(min_size=44, max_size=44)
    | st.text(printable, min_size=44, max_size=44)
    | st.text(ALPHABET + "=+/", min_size=44, max_size=44)
)
def test_any_44_characters_are_the_cursor_of_one_position_or_none(text: str) -> None:
    parses_to_itself_or_is_refused(text)


@PROPERTY
@given(st.sampled_from([0, 1, 1, 1, 2, 255]), UINT32, UINT32, INT64, INT64)
def test_a_good_checksum_alone_does_not_make_a_cursor(
    version: int, partition: int, partitions: int, offset: int, timestamp_ms: int
) -> None:
    possible = version == 1 and partition < partitions and offset >= -1 and timestamp_ms >= -1
    text = packed(version, partition, partitions, offset, timestamp_ms)
    assert parses_to_itself_or_is_refused(text) is possible


@PROPERTY
@given(st.text(max_size=80))
def test_text_of_another_length_is_refused(text: str) -> None:
    if len(text) != 44:
        with pytest.raises(CursorError):
            parse_cursor(text)


@pytest.mark.parametrize(
    "text",
    [
        packed(1, 12, 12, 0, 0),
        packed(1, 0, 0, 0, 0),
        packed(1, 3, 12, -2, 0),
        packed(1, 3, 12, 0, -2),
        packed(0, 3, 12, 0, 0),
        packed(2, 3, 12, 0, 0),
    ],
    ids=["partition", "no partitions", "offset", "timestamp", "version 0", "version 2"],
)
def test_a_position_that_cannot_exist_is_refused(text: str) -> None:
    with pytest.raises(CursorError):
        parse_cursor(text)


@pytest.mark.parametrize("at", range(44))
def test_no_character_can_be_another_one(at: int) -> None:
    for character in printable + "é🚀":
        if character != CURSOR[at]:
            with pytest.raises(CursorError):
                parse_cursor(CURSOR[:at] + character + CURSOR[at + 1 :])


@pytest.mark.parametrize("at", range(43))
def test_no_two_neighbours_can_change_places(at: int) -> None:
    swapped = CURSOR[:at] + CURSOR[at + 1] + CURSOR[at] + CURSOR[at + 2 :]
    if swapped != CURSOR:
        with pytest.raises(CursorError):
            parse_cursor(swapped)


def test_the_other_base64_alphabet_is_refused() -> None:
    other = CURSOR.replace("-", "+").replace("_", "/")
    assert urlsafe_b64decode(other) == urlsafe_b64decode(CURSOR)
    with pytest.raises(CursorError):
        parse_cursor(other)


@pytest.mark.parametrize("text", ["", CURSOR + "=", CURSOR + "\n", f" {CURSOR}", CURSOR[:-1]])
def test_a_cursor_with_more_or_less_around_it_is_refused(text: str) -> None:
    with pytest.raises(CursorError):
        parse_cursor(text)

import struct

from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY

from tailrace.producers.lanes import Outgoing
from tailrace.producers.segment import HEAD_BYTES, Scanned, frame_of, scan

records = st.builds(
    Outgoing,
    st.integers(1, 1 << 60),
    st.binary(max_size=20),
    st.binary(max_size=200),
    st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=20)), max_size=4),
    st.integers(0, 1 << 50),
)


def record(number: int) -> Outgoing:
    return Outgoing(number, b"p", b"value-%d" % number, [("ce_id", b"%d" % number)], number)


@PROPERTY
@given(st.lists(records, max_size=5), st.integers(0, 100))
def test_what_was_written_whole_is_read_and_a_torn_tail_is_not(
    written: list[Outgoing], torn: int
) -> None:
    content = b"".join(map(frame_of, written))
    cut = content + frame_of(record(1))[:-1][:torn]
    read = list(scan(cut))
    assert [scanned.record for scanned in read] == written
    assert (read[-1].end if read else 0) == len(content)


@PROPERTY
@given(st.lists(records, min_size=1, max_size=3), st.data())
def test_damaged_frame_is_never_read_as_another_record(
    written: list[Outgoing], data: st.DataObject
) -> None:
    content = bytearray(b"".join(map(frame_of, written)))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    assert {s.record.ticket for s in scan(bytes(content)) if s.record} <= {
        made.ticket for made in written
    }


def test_checksum_is_the_castagnoli_one_that_other_programs_compute() -> None:
    frame = frame_of(record(1))
    length, crc = struct.unpack_from(">II", frame)
    assert length == len(frame) - HEAD_BYTES
    assert crc == bitwise_crc32c(frame[HEAD_BYTES:])
    assert bitwise_crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 §B.4


def bitwise_crc32c(data: bytes) -> int:
    """CRC-32C by its definition: reflected polynomial 0x1EDC6F41."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_frames_behind_a_damaged_body_are_read() -> None:
    content = bytearray(b"".join(frame_of(record(number)) for number in (1, 2, 3)))
    size = len(frame_of(record(1)))
    content[size + HEAD_BYTES + 5] ^= 1
    assert list(scan(bytes(content))) == [
        Scanned(record(1), size),
        Scanned(None, 2 * size),
        Scanned(record(3), 3 * size),
    ]


def test_zeros_that_a_crash_left_are_no_frames() -> None:
    assert [s.record for s in scan(frame_of(record(1)) + bytes(4096))] == [record(1)]

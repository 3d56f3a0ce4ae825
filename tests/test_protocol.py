import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import PROPERTY, texts

from tailrace.edge.protocol import (
    CloseCode,
    Types,
    close_reason,
    deflated_frame,
    parse_types,
    text_frame,
)
from tailrace.schemas import ParameterError


def _read_frame(data: bytes) -> tuple[bytes, bytes]:
    """Read one frame as RFC 6455 §5.2 lays it out and return its payload and what follows it."""
    first, second = data[0], data[1]
    assert first >> 7 == 1, "FIN"
    assert (first >> 4) & 0b111 == 0, "no reserved bit without an extension"
    assert first & 0b1111 == 1, "text"
    assert second >> 7 == 0, "a server must not mask"
    size, start = second & 0x7F, 2
    if size == 126:
        size, start = int.from_bytes(data[2:4], "big"), 4
        assert size > 125, "the minimal number of bytes must be used"
    elif size == 127:
        size, start = int.from_bytes(data[2:10], "big"), 10
        assert 65535 < size < 1 << 63, "the minimal number of bytes must be used"
    assert len(data) >= start + size, "cut short"
    return data[start : start + size], data[start + size :]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20])
def test_frame_holds_its_payload_in_the_shortest_form(size: int) -> None:
    payload = b"x" * size

    assert _read_frame(text_frame(payload) + b"rest") == (payload, b"rest")


def test_small_frame_is_these_bytes() -> None:
    assert text_frame(b"Hello") == bytes.fromhex("81 05 48 65 6c 6c 6f")  # RFC 6455 §5.7


def _inflated(frames: list[bytes]) -> list[bytes]:
    """Read frames one after the other with one context, as a client with takeover does."""
    inflater = zlib.decompressobj(wbits=-15)
    found = []
    for frame in frames:
        size = {126: 4, 127: 10}.get(frame[1], 2)
        body = frame[size:]
        compressed = frame[0] == 0xC1
        found.append(inflater.decompress(body + b"\x00\x00\xff\xff") if compressed else body)
    return found


def test_deflated_frames_are_read_by_one_context_in_any_order() -> None:
    payloads = [b"state %d " % n * 200 for n in range(20)]
    frames = [deflated_frame(payload) for payload in payloads]
    assert all(frame[0] == 0xC1 for frame in frames)
    assert _inflated(frames[::-1]) == payloads[::-1]
    assert _inflated(frames[7:8] * 2) == payloads[7:8] * 2


def test_small_payload_is_not_deflated() -> None:
    assert deflated_frame(b"a" * 511) == text_frame(b"a" * 511)
    assert len(deflated_frame(b"a" * 512)) < 100


def test_payload_that_would_grow_is_not_deflated() -> None:
    noise = random.Random(1).randbytes(2000)
    assert deflated_frame(noise) == text_frame(noise)


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("*", Types()),
        ("ingest.job.created", Types(("ingest.job.created",))),
        ("ingest.*", Types((), ("ingest.",))),
        ("workflow.node.*", Types((), ("workflow.node.",))),
        ("b,a", Types(("a", "b"))),
        ("a,a,b.*,b.*", Types(("a",), ("b.",))),
        ("a,*,b.*", Types()),
        ("a_1.b_2", Types(("a_1.b_2",))),
        (",".join(f"t{n:02}" for n in range(64)), Types(tuple(f"t{n:02}" for n in range(64)))),
    ],
)
def test_types_parameter_is_read(text: str, types: Types) -> None:
    assert parse_types(text) == types


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a,",
        ",a",
        "a,,b",
        "a b",
        "A",
        "ingest.JOB.created",
        "*.created",
        "a*b",
        "a**",
        "**",
        "ä",
        "٣",  # a digit, but not one of [0-9]
        "a\n",
        " a",
        "a-b",
        ",".join(["a"] * 65),
    ],
)
def test_bad_types_parameter_is_refused_by_name(text: str) -> None:
    with pytest.raises(ParameterError) as refused:
        parse_types(text)

    assert refused.value.name == "types"


def test_refusal_of_a_long_item_stays_short() -> None:
    with pytest.raises(ParameterError) as refused:
        parse_types("A" * 10_000)

    assert len(str(refused.value)) < 150


def test_prefix_matches_what_begins_with_it() -> None:
    types = parse_types("workflow.node.*")

    assert types.match("workflow.node.started")
    assert not types.match("workflow.node_state.updated")
    assert not types.match("workflow.node")


def test_every_close_code_says_whether_to_reconnect() -> None:
    retry = {code for code in CloseCode if code < 4500} - {1000, 1009}

    assert retry == {CloseCode.GOING_AWAY, CloseCode.DRAIN, CloseCode.TOO_SLOW, CloseCode.TOO_MANY}
    assert {code.value for code in CloseCode} == {
        *(1000, 1001, 1009, 1012),
        *(4008, 4029, 4500, 4506),
    }


def test_members_become_compact_json() -> None:
    assert close_reason({"retry_after_ms": 250}) == b'{"retry_after_ms":250}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", b""),
        ("use tailrace.plain", b"use tailrace.plain"),
        ("x" * 123, b"x" * 123),
        ("x" * 124, b"x" * 123),
        ("x" * 122 + "é", b"x" * 122),  # its two bytes would end at 124
        ("x" * 121 + "é", b"x" * 121 + "é".encode()),
        ("x" * 120 + "\U0001f30a", b"x" * 120),
        ("é" * 100, "é".encode() * 61),
    ],
)
def test_reason_is_cut_at_a_character(text: str, reason: bytes) -> None:
    assert close_reason(text) == reason


@PROPERTY
@given(st.one_of(texts, st.text(st.characters(codec="utf-8"), min_size=60, max_size=200)))
def test_reason_is_always_a_legal_one(text: str) -> None:
    reason = close_reason(text)

    assert len(reason) <= 123
    assert text.startswith(reason.decode())

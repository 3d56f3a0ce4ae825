import pytest

from tailrace.producers.text import ERROR_MAX_CHARS, ID_MAX_CHARS, clean, error_text


class MuteError(Exception):
    pass


def test_ascii_and_other_text_stay_as_they_are() -> None:
    assert clean("job-1") == "job-1"
    assert clean("Größe 東京 🚀") == "Größe 東京 🚀"


def test_lone_surrogates_are_replaced() -> None:
    assert clean("a\ud800b") == "a?b"


def test_long_text_is_cut() -> None:
    assert len(clean("x" * 10_000)) == ID_MAX_CHARS
    assert len(error_text("x" * 100_000) or "") == ERROR_MAX_CHARS


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, None),
        ("", None),
        ("disk full", "disk full"),
        (ValueError("bad page"), "bad page"),
        (MuteError(), "MuteError"),
        (KeyError("k"), "'k'"),
        (42, "42"),
        ("\ud800", "?"),
    ],
)
def test_error_message_of_what_a_caller_may_pass(error: object, expected: str | None) -> None:
    assert error_text(error) == expected

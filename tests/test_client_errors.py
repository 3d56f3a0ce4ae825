import pytest

from tailrace.client.errors import DialectError, EdgeUnreachableError, RefusedError, one_line
from tailrace.schemas import TailraceError, UnavailableError


@pytest.mark.parametrize(
    ("error", "message", "retriable"),
    [
        (
            EdgeUnreachableError(["http://a:1", "http://b:2"], "refused"),
            (
                "No edge answers at http://a:1, http://b:2 (refused): "
                "start one with `tailrace edge`, or correct the URL"
            ),
            True,
        ),
        (
            RefusedError(4500, "types: bad"),
            "The edge refuses the stream (4500: types: bad): correct the request",
            False,
        ),
        (RefusedError(401, ""), "The edge refuses the stream (401): give a valid token", False),
        (
            RefusedError(4001, "expired"),
            "The edge refuses the stream (4001: expired): give a new token",
            False,
        ),
        (
            DialectError("no JSON"),
            (
                "What answers is no edge that speaks tailrace.v1.json (no JSON): "
                "correct the URL, or update the edge"
            ),
            False,
        ),
    ],
)
def test_message_is_one_line_that_says_what_to_do(
    error: TailraceError,
    message: str,
    retriable: bool,  # noqa: FBT001 - a row of the table
) -> None:
    assert str(error) == message
    assert error.retriable is retriable


def test_nobody_there_is_something_unavailable() -> None:
    assert issubclass(EdgeUnreachableError, UnavailableError)


def test_foreign_text_becomes_one_bounded_printable_line() -> None:
    assert one_line("a\nb\t c\x1b[31m") == "a b c\N{REPLACEMENT CHARACTER}[31m"
    assert len(one_line("x" * 100_000)) == 200

import inspect

import pytest

from tailrace.schemas import (
    CursorError,
    ParameterError,
    RecordError,
    TailraceError,
    UnavailableError,
    errors,
)

LEAVES = [
    RecordError("undecodable", "EOFError: expected 5 bytes"),
    CursorError("not-a-cursor"),
    ParameterError("window", "must be one of 0, 20, 40, 100, 500"),
    UnavailableError("no broker answers at 127.0.0.1:9092"),
]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: type(error).__name__)
def test_every_error_is_a_tailrace_error_of_one_line(error: TailraceError) -> None:
    assert isinstance(error, TailraceError)
    assert str(error)
    assert len(str(error).splitlines()) == 1


def test_the_examples_above_are_all_leaves() -> None:
    assert {type(error).__name__ for error in LEAVES} == set(errors.__all__) - {"TailraceError"}


def test_the_tree_is_drawn_in_the_docstring() -> None:
    for name in errors.__all__:
        assert name in (inspect.getdoc(errors) or "")


def test_only_what_may_pass_by_itself_is_retriable() -> None:
    assert [type(error) for error in LEAVES if error.retriable] == [UnavailableError]
    assert not TailraceError.retriable


def test_a_record_error_names_its_reason() -> None:
    error = RecordError("no_key", "orders/3@17")
    assert error.reason == "no_key"
    assert str(error) == "no_key: orders/3@17"


def test_a_parameter_error_names_the_parameter() -> None:
    error = ParameterError("limit", "must be 1 to 5000")
    assert (error.name, error.reason) == ("limit", "must be 1 to 5000")
    assert str(error) == "limit: must be 1 to 5000"


def test_a_cursor_error_shows_a_bounded_and_escaped_part_of_the_text() -> None:
    assert str(CursorError("a\nb\x1b[31m")) == r"not a cursor: 'a\nb\x1b[31m'"
    assert len(str(CursorError("x" * 100_000))) < 100

import pytest

from tailrace.schemas import ParameterError
from tailrace.services.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (" 6*7 ", 42),
        ("(1 + 2) * -3", -9),
        ("7 / 2", 3.5),
        ("7 // 2 + 7 % 2", 4),
        ("2 ** 10", 1024),
        ("+1.5e3", 1500.0),
    ],
)
def test_arithmetic_has_a_value(expression: str, value: float) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "is not arithmetic"),
        ("1 +", "is not arithmetic"),
        ("__import__('os')", "is not arithmetic"),
        ("a + 1", "is not arithmetic"),
        ("True + 1", "is not arithmetic"),
        ("'a' * 9", "is not arithmetic"),
        ("1 < 2", "is not arithmetic"),
        ("1 / 0", "divides by zero"),
        ("9 ** 9 ** 9", "the result is too large"),
        ("2.0 ** 1024", "the result is too large"),
        ("1e308 * 10", "the result is no real number"),
        ("(-1) ** 0.5", "the result is no real number"),
        ("*".join(["9" * 60] * 3) + "**1000", "the result is too large"),
        ("1" * 201, "is longer than 200 characters"),
        ("-" * 190 + "1", None),
    ],
)
def test_anything_else_is_refused(expression: str, reason: str | None) -> None:
    if reason is None:
        assert calculate(expression) == 1
        return
    with pytest.raises(ParameterError, match=reason):
        calculate(expression)

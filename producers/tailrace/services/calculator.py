"""Arithmetic -> a number, safely: no names, no calls, and bounded work. Pure."""

import ast
import math
import operator
from collections.abc import Callable
from typing import TypeAlias

from tailrace.schemas import ParameterError

__all__ = ["calculate"]

_MAX_CHARS = 200
_MAX_BITS = 4096
_MAX_EXPONENT = 1024

_Number: TypeAlias = int | float


def _power(base: _Number, exponent: _Number) -> _Number:
    # Refused before it is computed: 9**9**9 would take longer than anybody waits.
    too_long = isinstance(base, int) and base.bit_length() * abs(exponent) > _MAX_BITS
    if abs(exponent) > _MAX_EXPONENT or too_long:
        raise _refused("the result is too large")
    result: _Number = base**exponent
    return result


_BINARY: dict[type[ast.operator], Callable[[_Number, _Number], _Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_UNARY: dict[type[ast.unaryop], Callable[[_Number], _Number]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> int | float:
    """Return the value of an expression of numbers, ``+ - * / // % **`` and parentheses.

    Args:
        expression: At most 200 characters. No result on the way may have more than 4096 bits.

    Raises:
        ParameterError: It is something else, divides by zero, or grows too large.
    """
    if len(expression) > _MAX_CHARS:
        raise _refused(f"is longer than {_MAX_CHARS} characters")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as exc:
        raise _refused("is not arithmetic") from exc
    except ZeroDivisionError as exc:
        raise _refused("divides by zero") from exc
    except (OverflowError, RecursionError, MemoryError) as exc:
        raise _refused("the result is too large") from exc


def _value(node: ast.expr) -> _Number:
    match node:
        case ast.Constant(value=bool()):
            raise _refused("is not arithmetic")
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _checked(_BINARY[type(op)](_value(left), _value(right)))
    raise _refused("is not arithmetic")


def _checked(result: _Number) -> _Number:
    if isinstance(result, int):
        if result.bit_length() > _MAX_BITS:
            raise _refused("the result is too large")
    elif not isinstance(result, float) or not math.isfinite(result):
        raise _refused("the result is no real number")
    return result


def _refused(reason: str) -> ParameterError:
    return ParameterError("expression", reason)

"""Values of formulas as the scorers compute them: Python's arithmetic (MathVision), sympy's (EMMA), exact (OpenVLThinker)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from openvlt.benchmark.scorers.latex2sympy import parse_latex
from openvlt.verify.grade import numeric
from openvlt.verify.parse.expression import Node, Unreadable

_MATH = {name: getattr(math, name) for name in (
    "sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh exp floor").split()}  # fmt: skip
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b}  # fmt: skip


def value(text: str) -> float | int | None:
    """`round(eval(str(latex2sympy(text))), 2)` with the names of Python's `math`, None where that fails (names have no value)."""
    try:
        result = _value(parse_latex(text))
        return None if isinstance(result, complex) else round(result, 2)
    except (Unreadable, ArithmeticError, ValueError, TypeError):
        return None


def _value(node: Node) -> Any:
    kind = node[0]
    if kind == "num":
        return node[1].numerator if node[1].denominator == 1 else node[1].numerator / node[1].denominator
    if kind == "less":
        return int(_COMPARE[node[1]](_value(node[2]), _value(node[3])))
    if kind == "call":
        return _call(node[1], [_value(part) for part in node[2:]])
    if kind == "sym":
        raise Unreadable("a name has no value")
    left, right = _value(node[1]), _value(node[2])
    if kind == "pow":
        if (
            left
            and abs(right) > 1e4
            or isinstance(left, int)
            and isinstance(right, int)
            and left.bit_length() * abs(right) > 1e5
        ):
            raise Unreadable("too large")
        return math.sqrt(left) if right == 0.5 else left**right
    return left + right if kind == "add" else left * right if kind == "mul" else left / right


def _call(name: str, values: list[Any]) -> Any:
    if name == "pi":
        return math.pi
    if name == "factorial" and values[0] <= 10000:
        return math.factorial(values[0])
    if name == "binom":
        return math.comb(*values)
    if name == "log":
        return math.log(*values)
    if name == "exp" and values[0] in (0, 1):
        if values[0] == 1:
            raise Unreadable("sympy prints exp(1) as E, which math doesn't know")
        return 1
    if name not in _MATH:
        raise Unreadable(f"{name} is no function of Python's math")
    return _MATH[name](values[0])


# --- values as sympy gives them -----------------------------------------------------------------------------------------


def same_rounded_value(one: str, other: str) -> bool:
    """Whether two formulas have the same value to two decimals. EMMA's third test, equal expressions, can't be reached by names."""
    try:
        values = [numeric.real(_plain(parse_latex(text))) for text in (one, other)]
        return None not in values and round(values[0], 2) == round(values[1], 2)
    except (Unreadable, ArithmeticError, ValueError, TypeError):
        return False


def same_expression(one: str, other: str) -> bool:
    """Whether two formulas are the same expression, exactly; `sqrt(…)` and `pi` may stand without backslash. False for what isn't one."""
    try:
        trees = [_plain(parse_latex(_commands(text), whole=True)) for text in (one, other)]
        return bool(numeric.same_value(*trees))
    except (Unreadable, ArithmeticError, ValueError, TypeError):
        return False


def _commands(text: str) -> str:
    if ":" in text:
        raise Unreadable("a ratio is no expression")
    return re.sub(
        r"(?<![a-z\\])pi(?![a-z])", r"\\pi ", re.sub(r"(?<!\\)sqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    )


def _plain(node: Node) -> Node:
    """The tree in the verifier's terms, which knows neither division nor comparison."""
    if node[0] in ("num", "sym"):
        return node
    if node[0] == "less":
        raise Unreadable("a comparison is no number")
    parts = tuple(_plain(part) for part in node[1:] if isinstance(part, tuple))
    if node[0] == "div":
        return ("mul", parts[0], ("pow", parts[1], ("num", Fraction(-1))))
    if node == ("call", "pi"):
        return ("const", "pi")
    return ("call", node[1], *parts) if node[0] == "call" else (node[0], *parts)

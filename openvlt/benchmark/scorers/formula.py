"""Values of formulas as the scorers compute them.

MathVision uses Python's arithmetic, EMMA sympy's, OpenVLThinker an exact comparison.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from openvlt.benchmark.scorers.latex2sympy import parse_latex
from openvlt.verify.grade import numeric
from openvlt.verify.parse.expression import Node, Unreadable

_FUNCTIONS = "sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh exp floor".split()
_MATH = {name: getattr(math, name) for name in _FUNCTIONS}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def rounded_value(text: str) -> float | int | None:
    """`round(eval(str(latex2sympy(text))), 2)` with the names of Python's `math`; None where that fails.

    A formula with a variable has no value.
    """
    try:
        result = _evaluate(parse_latex(text))
        return None if isinstance(result, complex) else round(result, 2)
    except (Unreadable, ArithmeticError, ValueError, TypeError):
        return None


def _evaluate(node: Node) -> Any:
    kind = node[0]
    if kind == "num":
        return node[1].numerator if node[1].denominator == 1 else node[1].numerator / node[1].denominator
    if kind == "less":
        return int(_COMPARE[node[1]](_evaluate(node[2]), _evaluate(node[3])))
    if kind == "call":
        return _call(node[1], [_evaluate(part) for part in node[2:]])
    if kind == "sym":
        raise Unreadable("a name has no value")
    left, right = _evaluate(node[1]), _evaluate(node[2])
    if kind == "pow":
        return _power(left, right)
    if kind == "add":
        return left + right
    return left * right if kind == "mul" else left / right


def _power(base: Any, exponent: Any) -> Any:
    """The power. Raises Unreadable for one that would take too long."""
    if base and abs(exponent) > 1e4:
        raise Unreadable("too large")
    integers = isinstance(base, int) and isinstance(exponent, int)
    if integers and base.bit_length() * abs(exponent) > 1e5:
        raise Unreadable("too large")
    return math.sqrt(base) if exponent == 0.5 else base**exponent


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
            raise Unreadable("sympy prints exp(1) as E, which math doesn't have")
        return 1
    if name not in _MATH:
        raise Unreadable(f"{name} is no function of Python's math")
    return _MATH[name](values[0])


# --- values as sympy gives them -----------------------------------------------------------------------------


def same_rounded_value(one: str, other: str) -> bool:
    """Whether two formulas have the same value to two decimals.

    EMMA's third test, equal expressions, can't be reached for formulas with variables.
    """
    try:
        first, second = (numeric.real(_to_verifier_terms(parse_latex(text))) for text in (one, other))
        return first is not None and second is not None and round(first, 2) == round(second, 2)
    except (Unreadable, ArithmeticError, ValueError, TypeError):
        return False


def same_expression(one: str, other: str) -> bool:
    """Whether two formulas are exactly the same expression; False for a text that is none.

    `sqrt(…)` and `pi` may stand without a backslash.
    """
    try:
        first, second = (
            _to_verifier_terms(parse_latex(_add_backslashes(text), whole=True)) for text in (one, other)
        )
        return bool(numeric.same_value(first, second))
    except (Unreadable, ArithmeticError, ValueError, TypeError):
        return False


def _add_backslashes(text: str) -> str:
    """`sqrt(…)` and `pi` as LaTeX commands. Raises Unreadable for a ratio."""
    if ":" in text:
        raise Unreadable("a ratio is no expression")
    text = re.sub(r"(?<!\\)sqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    return re.sub(r"(?<![a-z\\])pi(?![a-z])", r"\\pi ", text)


def _to_verifier_terms(node: Node) -> Node:
    """The tree without division, which the verifier doesn't have. Raises Unreadable for a comparison."""
    if node[0] in ("num", "sym"):
        return node
    if node[0] == "less":
        raise Unreadable("a comparison is no number")
    parts = tuple(_to_verifier_terms(part) for part in node[1:] if isinstance(part, tuple))
    if node[0] == "div":
        return ("mul", parts[0], ("pow", parts[1], ("num", Fraction(-1))))
    if node == ("call", "pi"):
        return ("const", "pi")
    return ("call", node[1], *parts) if node[0] == "call" else (node[0], *parts)

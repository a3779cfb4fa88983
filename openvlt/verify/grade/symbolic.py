"""Compares by sympy what typed comparison leaves open.

Expressions are built by sympy's constructors from a bounded tree, never from text.
It runs in a worker process that is killed at its deadline (`openvlt.verify.pool`). Importing this module
doesn't import sympy; its functions do, so only a worker may call them.
"""

from __future__ import annotations

import operator
from typing import Any

from openvlt.types import Verdict
from openvlt.verify.parse.answer import Group, Range, Relation, Value
from openvlt.verify.parse.expression import Node
from openvlt.verify.parse.quantity import Quantity

_RELATIONS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


def decide(gold: Value, answer: Value) -> Verdict:
    """CORRECT or WRONG where sympy can decide, UNPARSED where it cannot."""
    import sympy

    try:
        same = _compare(gold, answer)
    except (
        NotImplementedError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        sympy.PolynomialError,
    ):  # what sympy raises for questions it has no method for
        return Verdict.UNPARSED
    return Verdict.UNPARSED if same is None else Verdict.CORRECT if same else Verdict.WRONG


def _compare(gold: Value, answer: Value) -> bool | None:
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return _is_zero(build_expression(gold.node) - build_expression(answer.node))
    if isinstance(gold, Relation) and isinstance(answer, Relation) and gold.op == answer.op == "=":
        f, g = _difference(gold), _difference(answer)
        return None if f is None or g is None else _is_same_equation(f, g)
    first, second = _solution_set(gold), _solution_set(answer)
    return None if first is None or second is None else first == second


def _difference(equation: Relation) -> Any:
    """Left side minus right side; None if one side was not read."""
    if equation.left is None or equation.right is None:
        return None
    return build_expression(equation.left) - build_expression(equation.right)


def _is_zero(expression: Any) -> bool | None:
    import sympy

    return sympy.simplify(expression).equals(0)


def _is_same_equation(f: Any, g: Any) -> bool:
    """Whether the numerators of `f = 0` and `g = 0` have the same factors, as y = 1/x and xy = 1 have."""
    import sympy

    lists = (sympy.factor_list(sympy.numer(sympy.together(side)))[1] for side in (f, g))
    first, second = ({_drop_sign(factor.primitive()[1]) for factor, _ in factors} for factors in lists)
    return first == second


def _drop_sign(factor: Any) -> Any:
    return -factor if factor.could_extract_minus_sign() else factor


def _solution_set(value: Value) -> Any:
    """The set of real numbers that a range, a union or an inequality in one unknown describes."""
    import sympy

    if isinstance(value, Range):
        low = -sympy.oo if value.low is None else build_expression(value.low.node)
        high = sympy.oo if value.high is None else build_expression(value.high.node)
        return sympy.Interval(low, high, not value.closed[0], not value.closed[1])
    if isinstance(value, Group):
        parts = [_solution_set(item) for item in value.items]
        if value.brackets[:1] in ("(", "[") and len(value.items) == 2:
            ends = [build_expression(item.node) for item in value.items if isinstance(item, Quantity)]
            if len(ends) != 2:
                return None
            return sympy.Interval(ends[0], ends[1], value.brackets[0] == "(", value.brackets[1] == ")")
        return None if None in parts else sympy.Union(*parts)
    if isinstance(value, Relation) and value.op in _RELATIONS:
        if value.left is None or value.right is None:
            return None
        relation = _RELATIONS[value.op](build_expression(value.left), build_expression(value.right))
        names = list(relation.free_symbols)
        return relation.as_set() if len(names) == 1 else None
    return None


def build_expression(node: Node) -> Any:
    """The sympy expression of a tree. Sizes were bounded when the tree was parsed; symbols are real."""
    import sympy

    kind = node[0]
    if kind == "num":
        return sympy.Rational(node[1].numerator, node[1].denominator)
    if kind == "sym":
        return sympy.Symbol(node[1], real=True)
    if kind == "const":
        return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}[node[1]]
    parts = [build_expression(part) for part in (node[2:] if kind == "call" else node[1:])]
    if kind in ("add", "mul"):
        return (sympy.Add if kind == "add" else sympy.Mul)(*parts)
    if kind == "pow":
        return sympy.Pow(*parts)
    if kind in ("pct", "deg"):
        return parts[0] * (sympy.Rational(1, 100) if kind == "pct" else sympy.pi / 180)
    name: str = node[1]
    return getattr(sympy, _NAMES.get(name, name))(*parts)


_NAMES = {"abs": "Abs", "ln": "log", "ceil": "ceiling", "binom": "binomial", "max": "Max", "min": "Min"}

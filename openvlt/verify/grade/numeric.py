"""Compares two expressions exactly, or else at several points, first in floats and then in sixty digits.

Two different expressions of at most 400 tokens that agree to forty digits at four unrelated points don't
occur as answers, so agreement decides. An expression without a value at some point is left to `symbolic`, in
a worker process.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from openvlt.verify.parse.expression import (
    FLOATS,
    HighPrecision,
    Node,
    Undefined,
    Unreadable,
    evaluate,
    exact,
    symbols,
)

# Unrelated values for up to a dozen symbols; each point scales them.
# The last point is negative, so that neither |x| nor √(x²) equals x.
_BASE = [
    Fraction(n, 10**9)
    for n in (
        739085133,
        1324717957,
        2236067977,
        577215665,
        1618033989,
        915965594,
        2718281828,
        1202056903,
        693147181,
        1414213562,
        261497213,
        1732050808,
    )
]
_POINTS = (Fraction(1), Fraction(7, 5), Fraction(3, 7), Fraction(-6, 5))


@cache
def high_precision() -> HighPrecision:
    """The shared sixty-digit backend, made on first use because importing mpmath takes 0.1 s."""
    return HighPrecision()


def sample_points(names: frozenset[str], *, positive: bool = False) -> list[dict[str, Fraction]]:
    """The points where expressions are compared. Several symbols are positive, as lengths are."""
    ordered = sorted(names)
    factors = _POINTS[:3] if positive or len(ordered) > 1 else _POINTS
    return [
        {name: _BASE[i % len(_BASE)] * factor + i // len(_BASE) for i, name in enumerate(ordered)}
        for factor in factors
    ]


def same_value(a: Node, b: Node) -> bool | None:
    """Whether two expressions are equal wherever the first is real; None where nothing decides."""
    if a == b:
        return True
    if has_infinity(a) or has_infinity(b):
        return _is_same_infinity(_infinity_sign(a), _infinity_sign(b))
    try:
        left, right = exact(a), exact(b)
    except (Undefined, Unreadable):
        return None
    if left is not None and right is not None:
        return left == right
    a, b = fold_case(a, b)
    names = symbols(a) | symbols(b)
    points = _real_points(a, sample_points(names)) if names else [{}]
    results = [_compare_at(a, b, point) for point in points]
    if False in results:
        return False
    return None if None in results else True


def _real_points(node: Node, points: list[dict[str, Fraction]]) -> list[dict[str, Fraction]]:
    """The points where an expression is real, as 1/√n is only for n > 0; all points if it is nowhere real."""
    found = []
    for point in points:
        try:
            value = complex(evaluate(node, {name: FLOATS.number(number) for name, number in point.items()}))
        except (Undefined, OverflowError):
            return points
        if abs(value.imag) <= 1e-9 * abs(value):
            found.append(point)
    return found or points


def fold_case(a: Node, b: Node) -> tuple[Node, Node]:
    """Both in lower case if their symbols differ only in case (`X = 3` is the same as `x = 3`).

    Not where both are letters alone, whose case is all that tells CO from Co.
    """
    left, right = symbols(a), symbols(b)
    if _is_letters(a) and _is_letters(b):
        return a, b
    if left != right and {n.lower() for n in left} == {n.lower() for n in right} and len(left) == len(right):
        return _lower(a), _lower(b)
    return a, b


def _is_letters(node: Node) -> bool:
    """Whether an expression is a product of two letters or more, and nothing else."""
    return node[0] == "mul" and all(part[0] in ("sym", "const") for part in node[1:])


def _lower(node: Node) -> Node:
    if node[0] == "sym":
        return ("sym", node[1].lower())
    return tuple(_lower(part) if isinstance(part, tuple) else part for part in node)


def _compare_at(a: Node, b: Node, point: Mapping[str, Fraction]) -> bool | None:
    try:
        at = {name: FLOATS.number(value) for name, value in point.items()}
        left, right = complex(evaluate(a, at)), complex(evaluate(b, at))
    except (Undefined, OverflowError):
        return None
    if not abs(left - right) < float("inf"):
        return None
    return False if differ(left, right) else _confirm_at(a, b, point)


def differ(left: complex | None, right: complex | None) -> bool:
    """Whether two values differ by more than floats can err; not where one is None."""
    if left is None or right is None:
        return False
    gap = abs(left - right)
    return gap > 1e-6 * max(abs(left), abs(right)) and gap > 1e-9


def _confirm_at(a: Node, b: Node, point: Mapping[str, Fraction]) -> bool | None:
    backend = high_precision()
    try:
        at = {name: backend.number(value) for name, value in point.items()}
        left, right = evaluate(a, at, backend), evaluate(b, at, backend)
    except Undefined:
        return None
    return bool(
        abs(left - right) <= backend.mp.mpf(10) ** -40 * max(abs(left), abs(right), backend.mp.mpf(10) ** -5)
    )


def real(node: Node) -> float | None:
    """The real value of an expression without symbols as a float; None if it has none."""
    try:
        value = complex(evaluate(node, {}))
    except (Undefined, KeyError, OverflowError):
        return None
    return (
        value.real
        if abs(value.imag) <= 1e-9 * max(1.0, abs(value.real)) and abs(value.real) < 1e300
        else None
    )


def is_proportional(f: Node, g: Node) -> bool | None:
    """Whether f is a constant multiple of g (f = 0 and g = 0 are then one equation); None where undecided."""
    f, g = fold_case(f, g)
    names = symbols(f) | symbols(g)
    if symbols(f) != symbols(g):
        return False
    try:
        ratios = [_ratio_at(f, g, point) for point in sample_points(names)]
    except (Undefined, OverflowError):
        return None
    return all(abs(ratio - ratios[0]) <= 1e-8 * abs(ratios[0]) for ratio in ratios) and abs(ratios[0]) > 1e-9


def sign_of_ratio(f: Node, g: Node) -> float:
    """f / g of two proportional expressions: a constant, whose sign is what matters."""
    f, g = fold_case(f, g)
    return _ratio_at(f, g, sample_points(symbols(f))[0]).real


def _ratio_at(f: Node, g: Node, point: Mapping[str, Fraction]) -> complex:
    at: dict[str, Any] = {name: FLOATS.number(value) for name, value in point.items()}
    return complex(evaluate(("mul", f, ("pow", g, ("num", Fraction(-1)))), at))


def has_infinity(node: Node) -> bool:
    """Whether infinity occurs in an expression."""
    return node == ("const", "oo") or any(has_infinity(part) for part in node[1:] if isinstance(part, tuple))


def _is_same_infinity(a: int, b: int) -> bool:
    """Whether both are infinite with the same sign. Anything else (∞ - ∞, or a number) is unequal."""
    return a == b if a and b else False


def _infinity_sign(node: Node) -> int:
    """1 or -1 for plus or minus infinity, 0 for anything else."""
    if node == ("const", "oo"):
        return 1
    return -_infinity_sign(node[2]) if node[:2] == ("mul", ("num", Fraction(-1))) else 0

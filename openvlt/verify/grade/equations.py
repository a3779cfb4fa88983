"""Compares equations and inequalities up to a factor, and the members of a chain of equations."""

from __future__ import annotations

from fractions import Fraction

from openvlt.verify.grade import numeric
from openvlt.verify.grade.quantities import compare_quantities
from openvlt.verify.parse.answer import Quantity, Relation
from openvlt.verify.parse.expression import Node, symbols


def are_equal(members: tuple[Quantity, ...]) -> bool:
    """Whether the numbers of a chain of equations agree, a decimal within its own precision."""
    return all(
        compare_quantities(a, b) is not False or compare_quantities(b, a) is not False
        for a, b in zip(members, members[1:], strict=False)
    )


def compare_equations(gold: Relation, answer: Relation) -> bool | None:
    """Whether two equations or inequalities are one up to a constant factor; None where undecided."""
    f, g = _difference(gold), _difference(answer)
    if f is None or g is None or gold.op != answer.op and gold.op == "=":
        return False
    same = numeric.is_proportional(f, g)
    if gold.op == answer.op == "=" and not same and symbols(f) == symbols(g):
        return None if _has_denominator(f) or _has_denominator(g) else same
    if gold.op in ("=", "!=") or not same:
        return same if gold.op == answer.op or not same else False
    same_way = gold.op[0] == answer.op[0]
    return gold.op[1:] == answer.op[1:] and (numeric.sign_of_ratio(f, g) > 0) == same_way


def _has_denominator(node: Node) -> bool:
    """Whether an expression divides by one with symbols."""
    if node[0] == "pow" and symbols(node[1]) and node[2] == ("num", Fraction(-1)):
        return True
    return any(_has_denominator(part) for part in node[1:] if isinstance(part, tuple))


def _difference(relation: Relation) -> Node | None:
    """Left side minus right side; None if one side was not read."""
    if relation.left is None or relation.right is None:
        return None
    return ("add", relation.left, ("mul", ("num", Fraction(-1)), relation.right))

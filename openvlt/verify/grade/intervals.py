"""Intervals, inequalities and their unions, with the brackets of both ends."""

from __future__ import annotations

from fractions import Fraction

from openvlt.verify.grade import numeric
from openvlt.verify.grade.quantities import compare_quantities
from openvlt.verify.parse.answer import Group, Range, Relation, Value
from openvlt.verify.parse.expression import Undefined, Unreadable, exact, substitute, symbols
from openvlt.verify.parse.quantity import Quantity


def as_ranges(value: Value) -> list[Range] | None:
    """The ranges of a union in written order, a pair in brackets as an interval; None if it isn't one."""
    if isinstance(value, Range):
        return [value]
    if not isinstance(value, Group):
        return None
    if value.joint in ("u", "or") and not value.brackets:
        parts: list[Range] = []
        for item in value.items:
            ranges = as_ranges(item)
            if ranges is None:
                return None
            parts += ranges
        return parts
    if (
        len(value.items) == 2
        and len(value.brackets) == 2
        and value.brackets[0] in "(["
        and value.brackets[1] in ")]"
    ):
        low, high = value.items
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            return [
                Range(
                    _finite_end(low), _finite_end(high), (value.brackets[0] == "[", value.brackets[1] == "]")
                )
            ]
    return None


def _finite_end(end: Quantity) -> Quantity | None:
    return None if numeric.has_infinity(end.node) else end


def same_ranges(gold: list[Range], answer: list[Range]) -> bool:
    """Whether two unions hold the same ranges in any order."""
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for item in gold:
        match = next((i for i, other in enumerate(left) if _is_same_range(item, other)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def _is_same_range(a: Range, b: Range) -> bool:
    if a.name and b.name and a.name.lower() != b.name.lower():
        return False
    return _is_same_end(a.low, b.low, a.closed[0] == b.closed[0]) and _is_same_end(
        a.high, b.high, a.closed[1] == b.closed[1]
    )


def _is_same_end(a: Quantity | None, b: Quantity | None, same_bracket: bool) -> bool:
    if a is None or b is None:
        return a is b
    return bool(compare_quantities(a, b)) and same_bracket


def linear_range(relation: Relation) -> Range | Group | None:
    """The numbers that solve an inequality: `2x > 6` gives x > 3, `x != 2` all but 2.

    None if it isn't linear in one unknown.
    """
    if relation.left is None or relation.right is None:
        return None
    difference = ("add", relation.left, ("mul", ("num", Fraction(-1)), relation.right))
    names = symbols(difference)
    if len(names) != 1:
        return None
    (name,) = names
    try:
        at_0, at_1, at_2, at_5 = (exact(substitute(difference, name, Fraction(x))) for x in (0, 1, 2, 5))
    except (Undefined, Unreadable):
        return None
    if at_0 is None or at_1 is None or at_2 is None or at_5 is None:
        return None
    slope = at_1 - at_0
    if not slope or at_2 - at_1 != slope or at_5 - at_0 != 5 * slope:
        return None
    root = -at_0 / slope
    end, closed = Quantity(("num", root), root), relation.op.endswith("=")
    if relation.op == "!=":
        return Group(
            (Range(None, end, (False, False), name), Range(end, None, (False, False), name)), joint="u"
        )
    above = (relation.op[0] == ">") == (slope > 0)
    return Range(
        end if above else None, None if above else end, (above and closed, not above and closed), name
    )

"""Intervals, inequalities and their unions, with the brackets of both ends."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from openvlt.verify.grade import numeric
from openvlt.verify.parse.answer import Group, Range, Relation, Value
from openvlt.verify.parse.expression import Undefined, Unreadable, exact, substitute, symbols
from openvlt.verify.parse.quantity import Quantity

Same = Callable[[Quantity, Quantity], bool | None]


def as_ranges(value: Value) -> list[Range] | None:
    """A union of ranges in the order it was written; a pair in brackets is an interval."""
    if isinstance(value, Range):
        return [value]
    if not isinstance(value, Group):
        return None
    if value.joint in ("u", "or") and not value.brackets:
        parts = [as_ranges(item) for item in value.items]
        return None if None in parts else [r for part in parts for r in part]
    if (
        len(value.items) == 2
        and len(value.brackets) == 2
        and value.brackets[0] in "(["
        and value.brackets[1] in ")]"
    ):
        low, high = value.items
        if isinstance(low, Quantity) and isinstance(high, Quantity):
            return [Range(_finite(low), _finite(high), (value.brackets[0] == "[", value.brackets[1] == "]"))]
    return None


def _finite(end: Quantity) -> Quantity | None:
    return None if numeric.has_infinity(end.node) else end


def same_ranges(gold: list[Range], answer: list[Range], same: Same) -> bool:
    """Whether two unions hold the same ranges in any order; `same` compares two ends."""
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for item in gold:
        match = next((i for i, other in enumerate(left) if _same_range(item, other, same)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def _same_range(a: Range, b: Range, same: Same) -> bool:
    if a.name and b.name and a.name.lower() != b.name.lower():
        return False
    for low, high, index in ((a.low, b.low, 0), (a.high, b.high, 1)):
        if (
            (low is None) != (high is None)
            or low is not None
            and (not same(low, high) or a.closed[index] != b.closed[index])
        ):
            return False
    return True


def linear_range(relation: Relation) -> Range | Group | None:
    """The range that an inequality linear in its only unknown describes: `2x > 6` is x > 3, `x != 2` all but 2; None
    for any other."""
    difference = ("add", relation.left, ("mul", ("num", Fraction(-1)), relation.right))
    names = symbols(difference)
    if len(names) != 1:
        return None
    (name,) = names
    try:
        at = [exact(substitute(difference, name, Fraction(x))) for x in (0, 1, 2, 5)]
    except (Undefined, Unreadable):
        return None
    slope = None if None in at else at[1] - at[0]
    if not slope or at[2] - at[1] != slope or at[3] - at[0] != 5 * slope:
        return None
    root = -at[0] / slope
    end, closed = Quantity(("num", root), root), relation.op.endswith("=")
    if relation.op == "!=":
        return Group(
            (Range(None, end, (False, False), name), Range(end, None, (False, False), name)), joint="u"
        )
    above = (relation.op[0] == ">") == (slope > 0)
    return Range(
        end if above else None, None if above else end, (above and closed, not above and closed), name
    )

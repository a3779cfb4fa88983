"""Intervals, inequalities and their unions, with the brackets of both ends."""

from __future__ import annotations

from fractions import Fraction

from openvlt.verify.grade import numeric
from openvlt.verify.grade.quantities import compare_quantities
from openvlt.verify.parse.answer import Group, Range, Relation, Value
from openvlt.verify.parse.expression import Undefined, Unreadable, exact, substitute, symbols
from openvlt.verify.parse.quantity import Quantity


def as_ranges(value: Value) -> list[Range] | None:
    """The ranges of a set of real numbers in written order; None for a value that isn't one.

    It may be an interval, a union, a list of bounds (`x > 0, x != 2`) or a range without points.
    """
    if isinstance(value, Range):
        return [value]
    if isinstance(value, Relation):
        line = linear_range(value) if value.op == "!=" else None
        return None if line is None else as_ranges(line)
    if not isinstance(value, Group):
        return None
    if value.joint == "-":
        return _without_points(as_ranges(value.items[0]), value.items[1:])
    if value.joint in ("u", "or") and not value.brackets:
        parts = [as_ranges(item) for item in value.items]
        return None if None in parts else [part for ranges in parts for part in ranges or ()]
    if value.joint == "," and not value.brackets:
        return _intersect(value.items)
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


def _intersect(items: tuple[Value, ...]) -> list[Range] | None:
    """The numbers within all bounds of a list; bounds that exclude each other are meant as a union."""
    excluded = [item for item in items if isinstance(item, Relation) and item.op == "!="]
    found = [as_ranges(item) for item in items if item not in excluded]
    if None in found or any(len(ranges or ()) != 1 for ranges in found):
        return None
    ranges = [ranges[0] for ranges in found if ranges]
    if len(ranges) == 2:
        both = _overlap(*ranges)
        ranges = ranges if both is None else [both]
    points = [_excluded_point(item) for item in excluded]
    if not ranges and len(points) == 1:
        return as_ranges(excluded[0])
    if len(ranges) != 1 and points or None in points:
        return None
    return _without_points(ranges, tuple(point for point in points if point is not None))


def _excluded_point(relation: Relation) -> Quantity | None:
    """The 2 of `x != 2`."""
    line = linear_range(relation)
    return line.items[0].high if isinstance(line, Group) and isinstance(line.items[0], Range) else None


def _overlap(a: Range, b: Range) -> Range | None:
    """The numbers in both ranges; None if there are none, or if an end has no value."""
    low, low_closed = max(
        (_end(a.low, a.closed[0], -1), _end(b.low, b.closed[0], -1)), key=lambda end: end[0]
    )[1:]
    high, high_closed = min(
        (_end(a.high, a.closed[1], 1), _end(b.high, b.closed[1], 1)), key=lambda end: end[0]
    )[1:]
    if low is not None and high is not None:
        first, last = numeric.real(low.node), numeric.real(high.node)
        if first is None or last is None or first >= last:
            return None
    return Range(low, high, (low_closed, high_closed), a.name or b.name)


def _end(end: Quantity | None, closed: bool, sign: int) -> tuple[tuple[float, int], Quantity | None, bool]:
    """An end of a range with what it is ordered by: its value, and an open end inside a closed one."""
    value = sign * float("inf") if end is None else numeric.real(end.node)
    return ((float("nan") if value is None else value, sign if closed else 0), end, closed)


def _without_points(ranges: list[Range] | None, points: tuple[Value, ...]) -> list[Range] | None:
    """The pieces of one range between excluded points; None for other sets."""
    flat = [part for point in points for part in (point.items if isinstance(point, Group) else (point,))]
    values = [(numeric.real(point.node), point) for point in flat if isinstance(point, Quantity)]
    if (
        ranges is None
        or len(ranges) != 1
        or len(values) != len(flat)
        or any(value is None for value, _ in values)
    ):
        return None if points else ranges
    whole = ranges[0]
    low, closed, pieces = whole.low, whole.closed[0], []
    for _, point in sorted(values, key=lambda pair: pair[0] or 0.0):
        pieces.append(Range(low, point, (closed, False), whole.name))
        low, closed = point, False
    return [*pieces, Range(low, whole.high, (closed, whole.closed[1]), whole.name)]


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

"""Compares two typed values, with one function per kind of value. None means undecided."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

from openvlt.verify.grade import numeric
from openvlt.verify.grade.intervals import as_ranges, linear_range, same_ranges
from openvlt.verify.grade.quantities import compare_quantities
from openvlt.verify.parse.answer import Group, Matrix, Range, Ratio, Relation, Value, Words
from openvlt.verify.parse.expression import Node, symbols
from openvlt.verify.parse.normalize import fold
from openvlt.verify.parse.quantity import Quantity


def compare_values(gold: Value, answer: Value, *, ordered: bool = False) -> bool | None:
    """Whether `answer` means the same as `gold`. `ordered`: order counts whatever brackets a list has."""
    gold, answer = _unwrap_group(gold, answer), _unwrap_group(answer, gold)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _compare_relations(gold, answer, ordered)
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return compare_quantities(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        left, right = _as_matrix(gold), _as_matrix(answer)
        return False if left is None or right is None else _compare_matrices(left, right)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _compare_ratios(gold, answer)
    if isinstance(gold, Words) and isinstance(answer, Words):
        return fold(gold.text) == fold(answer.text)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return None
    if isinstance(gold, Range) or isinstance(answer, Range) or "u" in (_joint(gold), _joint(answer)):
        wanted, given = as_ranges(gold), as_ranges(answer)
        return wanted is not None and given is not None and same_ranges(wanted, given)
    if isinstance(gold, Group) and isinstance(answer, Group):
        return _compare_groups(gold, answer, ordered)
    return False


def _unwrap_group(value: Value, other: Value) -> Value:
    """The only value of a group (`{12}`, `12, 12`, `0.5 or 1/2`); any other value as it is."""
    if (
        isinstance(value, Group)
        and not value.brackets
        and value.joint != "u"
        and not isinstance(other, Group)
    ):
        first = value.items[0] if value.items else None
        if first is not None and all(
            item == first or compare_values(first, item) for item in value.items[1:]
        ):
            return _unwrap_group(first, other)
    if isinstance(value, Group) and len(value.items) == 1 and value.brackets in ("", "{}", "()", "[]"):
        return _unwrap_group(value.items[0], other)
    return value


def _joint(value: Value) -> str:
    return value.joint if isinstance(value, Group) else ""


# ---- relations ---------------------------------------------------------------------------------------------


def _compare_relations(gold: Value, answer: Value, ordered: bool) -> bool | None:
    """Compares equations up to rearrangement, and a labelled value (`x = 3`) also with the bare value.

    At least one side is a relation.
    """
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.value is not None and answer.value is not None and _is_same_label(gold.label, answer.label):
            same = compare_values(gold.value, answer.value, ordered=ordered)
            return same or _compare_equations(gold, answer)
        return _compare_equations(gold, answer)
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    assert isinstance(relation, Relation)
    if relation.op != "=":
        line = linear_range(relation)
        if line is not None:
            return compare_values(line, other) if relation is gold else compare_values(other, line)
        return None if isinstance(other, (Range, Group)) and relation.op != "!=" else False
    if relation.value is None:
        return False
    if relation is gold:
        return compare_values(relation.value, other, ordered=ordered)
    return compare_values(other, relation.value, ordered=ordered)


def _is_same_label(a: str, b: str) -> bool:
    """Whether two names may mean one thing: equal names, or a long one (`S` and `S_{ABC}`, `Area`)."""
    a, b = (re.sub(r"[^A-Za-z\u4e00-\u9fff]", "", label).lower() for label in (a, b))
    return a == b or not a or not b or max(len(a), len(b)) > 1


def _compare_equations(gold: Relation, answer: Relation) -> bool | None:
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


# ---- several values ----------------------------------------------------------------------------------------


def _compare_groups(gold: Group, answer: Group, ordered: bool) -> bool | None:
    if len(gold.items) != len(answer.items):
        return _compare_as_sets(gold, answer)
    brackets = {gold.brackets, answer.brackets} - {""}
    if not ordered and len(brackets) == 2 and (len(gold.items) == 2 or "{}" in brackets):
        return False
    in_order = _kleene_and(compare_values(a, b) for a, b in zip(gold.items, answer.items, strict=True))
    fixed = ordered or gold.brackets not in ("", "{}") or answer.brackets not in ("", "{}")
    if in_order or fixed and not _are_all_relations(gold, answer):
        return in_order
    return _match_in_any_order(gold, answer)


def _are_all_relations(gold: Group, answer: Group) -> bool:
    return all(isinstance(item, Relation) for group in (gold, answer) for item in group.items)


def _compare_as_sets(gold: Group, answer: Group) -> bool | None:
    """Compares sets of different length: `{1, 1, 2}` is `{1, 2}`. Other groups are then unequal."""
    bare = not gold.brackets and not answer.brackets
    points = bare and all(isinstance(item, Group) for item in (*gold.items, *answer.items))
    if (
        not points
        and "{}" not in (gold.brackets, answer.brackets)
        or len(gold.items) + len(answer.items) > 40
    ):
        return False
    return _kleene_and(any(compare_values(a, b) for b in answer.items) for a in gold.items) and _kleene_and(
        any(compare_values(a, b) for a in gold.items) for b in answer.items
    )


def _match_in_any_order(gold: Group, answer: Group) -> bool:
    """Whether each gold item has its own equal among the items of the answer."""
    left = list(answer.items)
    for item in gold.items:
        match = next((i for i, other in enumerate(left) if compare_values(item, other)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def _kleene_and(results: Iterable[bool | None]) -> bool | None:
    """Kleene's conjunction: False if any is False, else None if any is None, else True."""
    seen = list(results)
    return False if any(r is False for r in seen) else None if None in seen else True


def _as_matrix(value: Value) -> Matrix | None:
    """A matrix, also one written as a list of rows (`[[1, 2], [3, 4]]`); None for other values."""
    if isinstance(value, Group):
        rows = [row.items for row in value.items if isinstance(row, Group) and row.brackets == "[]"]
        return Matrix(tuple(rows)) if rows and len(rows) == len(value.items) else None
    return value if isinstance(value, Matrix) else None


def _compare_matrices(gold: Matrix, answer: Matrix) -> bool | None:
    if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
        return False
    pairs = (zip(a, b, strict=True) for a, b in zip(gold.rows, answer.rows, strict=True))
    return _kleene_and(compare_values(a, b) for row in pairs for a, b in row)


def _compare_ratios(gold: Value, answer: Value) -> bool | None:
    """Whether two ratios are equal; `2:3` equals `4:6` and the fraction 2/3."""
    a, b = _ratio_parts(gold), _ratio_parts(answer)
    if a is None or b is None or len(a) != len(b):
        return False
    return _kleene_and(
        numeric.same_value(("mul", a[0], y), ("mul", b[0], x)) for x, y in zip(a[1:], b[1:], strict=True)
    )


def _ratio_parts(value: Value) -> tuple[Node, ...] | None:
    if isinstance(value, Ratio):
        return tuple(part.node for part in value.parts)
    return (
        (value.node, ("num", Fraction(1)))
        if isinstance(value, Quantity) and not symbols(value.node)
        else None
    )

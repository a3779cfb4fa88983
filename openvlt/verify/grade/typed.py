"""Compares two typed values, with one function per kind of value. None means undecided."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from openvlt.verify.grade import numeric
from openvlt.verify.grade.equations import are_equal, compare_equations
from openvlt.verify.grade.intervals import as_ranges, linear_range, same_ranges
from openvlt.verify.grade.labels import is_same_label, tuple_order
from openvlt.verify.grade.quantities import compare_quantities
from openvlt.verify.grade.vectors import as_matrix, as_tuple
from openvlt.verify.parse.answer import (
    Congruence,
    Group,
    Matrix,
    Quantity,
    Range,
    Ratio,
    Relation,
    Value,
    Words,
)
from openvlt.verify.parse.expression import Node, symbols
from openvlt.verify.parse.normalize import fold
from openvlt.verify.parse.sequences import ELLIPSIS, extends_pattern


def compare_values(gold: Value, answer: Value, *, ordered: bool = False) -> bool | None:
    """Whether `answer` means the same as `gold`. `ordered`: order counts whatever brackets a list has."""
    gold, answer = _unwrap_group(gold, answer), _unwrap_group(answer, gold)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _compare_relations(gold, answer, ordered)
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return compare_quantities(gold, answer)
    if isinstance(gold, Congruence) or isinstance(answer, Congruence):
        return _compare_congruences(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        left, right = as_matrix(gold), as_matrix(answer)
        if left is not None and right is not None:
            return _compare_matrices(left, right)
        return _compare_vectors(gold, answer)
    if isinstance(gold, Group) != isinstance(answer, Group) and isinstance(gold, Quantity) | isinstance(
        answer, Quantity
    ):
        return _compare_vectors(gold, answer)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _compare_ratios(gold, answer)
    if isinstance(gold, Words) and isinstance(answer, Words):
        return fold(gold.text) == fold(answer.text)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return None
    if any(isinstance(value, Range) or _joint(value) in ("u", "-") for value in (gold, answer)) or _is_bound(
        gold, answer
    ):
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


def _is_bound(gold: Value, answer: Value) -> bool:
    """Whether one side is a list that bounds a range: `0 < x < 36, x != 9`."""
    return any(
        isinstance(value, Group)
        and not value.brackets
        and any(
            isinstance(item, Range) or isinstance(item, Relation) and item.op == "!=" for item in value.items
        )
        for value in (gold, answer)
    ) and not all(
        isinstance(value, Group) and not value.brackets and value.joint == "," for value in (gold, answer)
    )


def _compare_congruences(gold: Value, answer: Value) -> bool:
    """Whether two classes of residues are one; a number is its own residue, but a class isn't a number."""
    if isinstance(gold, Congruence) and isinstance(answer, Congruence):
        return (gold.residue, gold.modulus) == (answer.residue, answer.modulus)
    return isinstance(answer, Congruence) and isinstance(gold, Quantity) and gold.value == answer.residue


def _joint(value: Value) -> str:
    return value.joint if isinstance(value, Group) else ""


# ---- relations ---------------------------------------------------------------------------------------------


def _compare_relations(gold: Value, answer: Value, ordered: bool) -> bool | None:
    """Compares equations up to rearrangement, and a labelled value (`x = 3`) also with the bare value.

    At least one side is a relation.
    """
    for relation in (gold, answer):
        if isinstance(relation, Relation) and not are_equal(relation.members):
            return False
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.value is not None and answer.value is not None:
            return _compare_labelled(gold, answer, gold.value, answer.value, ordered)
        return compare_equations(gold, answer)
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    assert isinstance(relation, Relation)
    if relation.op != "=":
        line = linear_range(relation)
        if line is not None:
            return compare_values(line, other) if relation is gold else compare_values(other, line)
        return None if isinstance(other, (Range, Group)) and relation.op != "!=" else False
    if relation is gold:
        return False if relation.value is None else compare_values(relation.value, other, ordered=ordered)
    return _compare_with_side(other, relation, ordered)


def _compare_labelled(
    gold: Relation, answer: Relation, wanted: Value, given: Value, ordered: bool
) -> bool | None:
    """Whether two labelled values have labels that agree and the same value; a tuple's labels permute it."""
    names, order = tuple_order(gold.label), tuple_order(answer.label)
    if names and order and sorted(names) == sorted(order):
        if not isinstance(given, Group) or len(given.items) != len(order):
            return False
        by_name = dict(zip(order, given.items, strict=True))
        return compare_values(wanted, Group(tuple(by_name[name] for name in names), given.brackets))
    if is_same_label(gold.label, answer.label):
        same = compare_values(wanted, given, ordered=ordered)
        if same or gold.label == answer.label:
            return same
    return compare_equations(gold, answer)


def _compare_with_side(gold: Value, relation: Relation, ordered: bool) -> bool | None:
    """Whether a gold without label is the value of an equation, or its one side without symbols.

    `4x = 24` answers 24, but an equation with 0 on one side answers nothing.
    """
    order = tuple_order(relation.label)
    if (
        order
        and isinstance(relation.value, Group)
        and set(order) <= {"x", "y", "z"}
        and len(order) == len(relation.value.items)
    ):
        pairs = sorted(zip(order, relation.value.items, strict=True), key=lambda pair: pair[0])
        return compare_values(gold, Group(tuple(item for _, item in pairs), relation.value.brackets))
    if relation.value is not None and compare_values(gold, relation.value, ordered=ordered):
        return True
    if isinstance(gold, Quantity) and gold.is_closed and relation.members and relation.members[-1].value != 0:
        return compare_values(gold, relation.members[-1])
    return None if relation.value is None else compare_values(gold, relation.value, ordered=ordered)


# ---- several values ----------------------------------------------------------------------------------------


def _compare_groups(gold: Group, answer: Group, ordered: bool) -> bool | None:
    if _is_interval(gold) and gold.brackets != answer.brackets or _is_interval(answer) and not gold.brackets:
        return False
    if ELLIPSIS in gold.items and ELLIPSIS in answer.items:
        return _compare_sequences(gold, answer)
    if len(gold.items) != len(answer.items):
        return _compare_as_sets(gold, answer)
    gold, answer = _order_by_label(gold, answer), _order_by_label(answer, gold)
    brackets = {gold.brackets, answer.brackets} - {""}
    if brackets <= {"<>", "()", "[]"} and "<>" in brackets:
        brackets = {"<>"}
    if not ordered and len(brackets) == 2 and (len(gold.items) == 2 or "{}" in brackets):
        return False
    in_order = _kleene_and(compare_values(a, b) for a, b in zip(gold.items, answer.items, strict=True))
    fixed = ordered or gold.brackets not in ("", "{}") or answer.brackets not in ("", "{}")
    if in_order or fixed and not _are_all_relations(gold, answer):
        return in_order
    return _match_in_any_order(gold, answer)


def _order_by_label(group: Group, other: Group) -> Group:
    """A list such as `y = -2, x = 3` in the order of a point's coordinates, beside a tuple."""
    labels = [item.label for item in group.items if isinstance(item, Relation)]
    if other.brackets != "()" or len(labels) < len(group.items) or not set(labels) <= {"x", "y", "z"}:
        return group
    pairs = sorted(zip(labels, group.items, strict=True), key=lambda pair: pair[0])
    return Group(tuple(item for _, item in pairs), group.brackets, group.joint)


def _is_interval(group: Group) -> bool:
    """Whether a pair in brackets can only be an interval: half open, or with an infinite end."""
    if len(group.items) != 2 or not group.brackets or group.brackets == "{}":
        return False
    infinite = any(isinstance(item, Quantity) and numeric.has_infinity(item.node) for item in group.items)
    return group.brackets in ("[)", "(]") or infinite


def _compare_sequences(gold: Group, answer: Group) -> bool | None:
    """Whether two lists with an ellipsis are one sequence: `1, 2, …, n` and `1, 2, 3, …, n`."""
    cut, other = gold.items.index(ELLIPSIS), answer.items.index(ELLIPSIS)
    heads = sorted((gold.items[:cut], answer.items[:other]), key=len)
    tails = gold.items[cut + 1 :], answer.items[other + 1 :]
    if len(tails[0]) != len(tails[1]) or len(heads[0]) < len(heads[1]) and not extends_pattern(*heads):
        return False
    pairs = (*zip(heads[0], heads[1], strict=False), *zip(*tails, strict=True))
    return _kleene_and(True if a == b else compare_values(a, b) for a, b in pairs)


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


def _compare_matrices(gold: Matrix, answer: Matrix) -> bool | None:
    if gold.kind != answer.kind or [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
        return False
    pairs = (zip(a, b, strict=True) for a, b in zip(gold.rows, answer.rows, strict=True))
    return _kleene_and(compare_values(a, b) for row in pairs for a, b in row)


def _compare_vectors(gold: Value, answer: Value) -> bool | None:
    """Whether two vectors in different notation have the same components; False for other values."""
    size = max(_size(gold), _size(answer))
    left, right = as_tuple(gold, size), as_tuple(answer, size)
    if left is None or right is None or len(left) != len(right) or size < 2:
        return False
    return _kleene_and(compare_values(a, b) for a, b in zip(left, right, strict=True))


def _size(value: Value) -> int:
    if isinstance(value, Matrix):
        return max(len(value.rows), len(value.rows[0]))
    return len(value.items) if isinstance(value, Group) else 0


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

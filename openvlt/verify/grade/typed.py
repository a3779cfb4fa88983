"""Typed comparison: one function per pair of kinds. True and False are decisions, None is "cannot tell here".

Tolerances are those of the gold answer alone: a decimal gold fixes how far a response is rounded, everything else is
exact.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from openvlt.verify.grade import numeric
from openvlt.verify.grade.intervals import as_ranges, linear_range, same_ranges
from openvlt.verify.parse.answer import Group, Matrix, Range, Ratio, Relation, Value, Words
from openvlt.verify.parse.expression import Node, symbols
from openvlt.verify.parse.normalize import fold
from openvlt.verify.parse.quantity import Quantity

ROUNDED_DIGITS = 4
"""A decimal answers an irrational or repeating gold when it is its correct rounding to at least this many significant
digits."""


def compare_values(gold: Value, answer: Value, *, ordered: bool = False) -> bool | None:
    """Whether `answer` means `gold`. `ordered` says that the gold is a list, whatever its brackets."""
    gold, answer = _simplest(gold, answer), _simplest(answer, gold)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _relations(gold, answer, ordered)
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return quantities(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        pair = _as_matrix(gold), _as_matrix(answer)
        return _matrices(*pair) if None not in pair else False
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _ratios(gold, answer)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return (
            fold(gold.text) == fold(answer.text)
            if isinstance(gold, Words) and isinstance(answer, Words)
            else None
        )
    ranges = as_ranges(gold), as_ranges(answer)
    if isinstance(gold, Range) or isinstance(answer, Range) or "u" in (_joint(gold), _joint(answer)):
        return None not in ranges and same_ranges(*ranges, quantities)
    if isinstance(gold, Group) and isinstance(answer, Group):
        return _groups(gold, answer, ordered)
    return False


def _simplest(value: Value, other: Value) -> Value:
    """A group of one is its item, unless the other is a group of one in the same brackets too."""
    if (
        isinstance(value, Group)
        and not value.brackets
        and value.joint != "u"
        and not isinstance(other, Group)
    ):
        first = value.items[0] if value.items else None  # "0.5 or 1/2", "12, 12" say one thing
        if first is not None and all(
            item == first or compare_values(first, item) for item in value.items[1:]
        ):
            return _simplest(first, other)
    if isinstance(value, Group) and len(value.items) == 1 and value.brackets in ("", "{}", "()", "[]"):
        return _simplest(value.items[0], other)
    return value


def _joint(value: Value) -> str:
    return value.joint if isinstance(value, Group) else ""


# ---- numbers -------------------------------------------------------------------------------------------------------


def quantities(gold: Quantity, answer: Quantity) -> bool | None:
    """Numbers and expressions with their units, percents and counted things."""
    if gold.unit and answer.unit:
        if gold.unit.dims != answer.unit.dims:
            return _both_ways(gold, answer)
        if gold.unit.dims == (("angle", 1),) and gold.unit.scale != answer.unit.scale:
            return numeric.same_value(
                *(("deg", q.node) if q.unit.scale != 1 else q.node for q in (gold, answer))
            )
        factor = answer.unit.scale * answer.magnitude / (gold.unit.scale * gold.magnitude)
        return (
            _values(gold, _times(answer, factor), gold.ulp)
            if factor != 1
            else _values(gold, answer, gold.ulp)
        )
    if gold.unit and answer.noun or answer.unit and gold.noun:
        return False
    if gold.noun and answer.noun and not _same_noun(gold.noun, answer.noun):
        return False
    if gold.percent or answer.percent:
        return _percents(gold, answer)
    if gold.magnitude != answer.magnitude:
        return _magnitudes(gold, answer)
    if (gold.unit or answer.unit) and _radians(gold, answer):
        return True
    return _values(gold, answer, gold.ulp)


_TO_KELVIN = {
    "temperature": (Fraction(1), Fraction(0)),
    "celsius": (Fraction(1), Fraction(27315, 100)),
    "fahrenheit": (Fraction(5, 9), Fraction(45967, 180)),
}


def _both_ways(gold: Quantity, answer: Quantity) -> bool:
    """Temperatures convert with an offset; other units of different dimensions don't agree."""
    kinds = [q.unit.dims[0][0] for q in (gold, answer) if q.unit and len(q.unit.dims) == 1]
    if (
        len(kinds) == 2
        and set(kinds) <= set(_TO_KELVIN)
        and gold.value is not None
        and answer.value is not None
    ):
        values = [
            q.value * _TO_KELVIN[k][0] + _TO_KELVIN[k][1] for q, k in zip((gold, answer), kinds, strict=True)
        ]
        return abs(values[0] - values[1]) <= (gold.ulp or 0) / 2
    return False


def _times(quantity: Quantity, factor: Fraction) -> Quantity:
    value = None if quantity.value is None else quantity.value * factor
    ulp = None if quantity.ulp is None else quantity.ulp * factor
    node = ("num", value) if value is not None else ("mul", ("num", factor), quantity.node)
    return replace(quantity, node=node, value=value, ulp=ulp, percent=False, magnitude=1)


def _percents(gold: Quantity, answer: Quantity) -> bool | None:
    """28 % is 0.28, and 28 when only one side says percent; but 0.64 is not 0.64 %."""
    if gold.percent and answer.percent:
        return _values(gold, answer, gold.ulp)
    if gold.percent:
        scaled = _times(answer, Fraction(100))
        return _values(gold, answer, gold.ulp) or _values(gold, scaled, gold.ulp)
    scaled = _times(answer, Fraction(1, 100))
    whole = gold.value is None or abs(gold.value) >= 1 or gold.value == 0
    return _values(gold, scaled, gold.ulp) or (_values(gold, answer, gold.ulp) if whole else False)


def _magnitudes(gold: Quantity, answer: Quantity) -> bool | None:
    """2.5 million is 2,500,000, and 2.5 when the question already said million."""
    full = _times(gold, Fraction(gold.magnitude)), _times(answer, Fraction(answer.magnitude))
    one_sided = 1 in (gold.magnitude, answer.magnitude)
    return _values(*full, full[0].ulp) or (_values(gold, answer, gold.ulp) if one_sided else False)


def _radians(gold: Quantity, answer: Quantity) -> bool:
    """30° is π/6: only when the side without a unit is written with π."""
    angle, bare = (gold, answer) if gold.unit else (answer, gold)
    if (
        angle.unit is None
        or angle.unit.dims != (("angle", 1),)
        or angle.unit.scale == 1
        or bare.value is not None
    ):
        return False
    return numeric.same_value(("deg", angle.node), bare.node) is True


def _same_noun(gold: str, answer: str) -> bool:
    """`3 apples` and `3 red apples` count one thing, `3 apples` and `3 pears` don't."""
    a, b = (
        {re.sub(r"(?:es|s)$", "", word) for word in re.findall(r"[^\W\d_]+", noun)} for noun in (gold, answer)
    )
    return bool(a & b) or not a or not b or any(x in y or y in x for x in a for y in b)


def _values(gold: Quantity, answer: Quantity, ulp: Fraction | None) -> bool | None:
    if gold.value is not None and answer.value is not None:
        if ulp is None:
            return gold.value == answer.value or _rounds_to(gold, answer)
        return abs(gold.value - answer.value) <= ulp / 2
    if ulp is not None and answer.closed:
        value = numeric.real(answer.node)
        return value is not None and abs(float(gold.value) - value) <= float(ulp) / 2 * (1 + 1e-9)
    if answer.ulp is not None and gold.closed:
        return _rounds_to(gold, answer)
    return numeric.same_value(gold.node, answer.node)


def _rounds_to(gold: Quantity, answer: Quantity) -> bool:
    """A decimal answer to a gold that no decimal writes exactly (1/3, 25π)."""
    if answer.ulp is None or answer.value is None or gold.value is not None and _terminates(gold.value):
        return False
    if len(str(abs(answer.value // answer.ulp))) < ROUNDED_DIGITS:
        return False
    value = float(gold.value) if gold.value is not None else numeric.real(gold.node)
    return value is not None and abs(value - float(answer.value)) <= float(answer.ulp) / 2 * (1 + 1e-9)


def _terminates(value: Fraction) -> bool:
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


# ---- relations -----------------------------------------------------------------------------------------------------


def _relations(gold: Value, answer: Value, ordered: bool) -> bool | None:
    """Equations up to rearrangement; a labelled value (`x = 3`) also against the bare value."""
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.value is not None and answer.value is not None and _same_label(gold.label, answer.label):
            agreed = compare_values(gold.value, answer.value, ordered=ordered)
            return agreed or _equations(gold, answer)
        return _equations(gold, answer)
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    if relation.op != "=":
        line = linear_range(relation)
        if line is not None:
            return compare_values(line, other) if relation is gold else compare_values(other, line)
        return None if isinstance(other, (Range, Group)) and relation.op != "!=" else False
    if relation.value is None:
        return False
    pair = (relation.value, other) if relation is gold else (other, relation.value)
    return compare_values(*pair, ordered=ordered)


def _same_label(a: str, b: str) -> bool:
    """Names that may stand for the same thing: equal ones, or one of them long (`S` and `S_{ABC}`, `Area`)."""
    a, b = (re.sub(r"[^A-Za-z\u4e00-\u9fff]", "", label).lower() for label in (a, b))
    return a == b or not a or not b or max(len(a), len(b)) > 1


def _equations(gold: Relation, answer: Relation) -> bool | None:
    if None in (gold.left, gold.right, answer.left, answer.right) or gold.op != answer.op and gold.op == "=":
        return False
    f, g = (_difference(r.left, r.right) for r in (gold, answer))
    result = numeric.proportional(f, g)
    if gold.op == answer.op == "=" and not result and symbols(f) == symbols(g):
        return None if _has_denominator(f) or _has_denominator(g) else result
    if gold.op in ("=", "!=") or not result:
        return result if gold.op == answer.op or not result else False
    same_way = gold.op[0] == answer.op[0]
    return gold.op[1:] == answer.op[1:] and (numeric.sign_of_ratio(f, g) > 0) == same_way


def _has_denominator(node: Node) -> bool:
    if node[0] == "pow" and symbols(node[1]) and node[2] == ("num", Fraction(-1)):
        return True
    return any(_has_denominator(part) for part in node[1:] if isinstance(part, tuple))


def _difference(left: Node, right: Node) -> Node:
    return ("add", left, ("mul", ("num", Fraction(-1)), right))


# ---- several values ------------------------------------------------------------------------------------------------


def _groups(gold: Group, answer: Group, ordered: bool) -> bool | None:
    if len(gold.items) != len(answer.items):
        return _without_repeats(gold, answer)
    brackets = {gold.brackets, answer.brackets} - {""}
    if not ordered and len(brackets) == 2 and (len(gold.items) == 2 or "{}" in brackets):
        return False
    in_order = _all(compare_values(a, b) for a, b in zip(gold.items, answer.items, strict=True))
    fixed = ordered or gold.brackets not in ("", "{}") or answer.brackets not in ("", "{}")
    if in_order or fixed and not _named(gold, answer):
        return in_order
    return _unordered(gold, answer)


def _named(gold: Group, answer: Group) -> bool:
    return all(isinstance(item, Relation) for group in (gold, answer) for item in group.items)


def _without_repeats(gold: Group, answer: Group) -> bool | None:
    """`{1, 1, 2}` is `{1, 2}`; lists of different lengths are different."""
    bare = not gold.brackets and not answer.brackets
    points = bare and all(isinstance(item, Group) for item in (*gold.items, *answer.items))
    if (
        not points
        and "{}" not in (gold.brackets, answer.brackets)
        or len(gold.items) + len(answer.items) > 40
    ):
        return False
    return _all(any(compare_values(a, b) for b in answer.items) for a in gold.items) and _all(
        any(compare_values(a, b) for a in gold.items) for b in answer.items
    )


def _unordered(gold: Group, answer: Group) -> bool | None:
    left = list(answer.items)
    for item in gold.items:
        match = next((i for i, other in enumerate(left) if compare_values(item, other)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def _all(results: object) -> bool | None:
    """Kleene's conjunction: False beats None beats True."""
    seen = list(results)
    return False if any(r is False for r in seen) else None if None in seen else True


def _as_matrix(value: Value) -> Matrix | None:
    """`[[1, 2], [3, 4]]` is a matrix written as a list of rows."""
    if isinstance(value, Group):
        rows = [row.items for row in value.items if isinstance(row, Group) and row.brackets == "[]"]
        return Matrix(tuple(rows)) if rows and len(rows) == len(value.items) else None
    return value if isinstance(value, Matrix) else None


def _matrices(gold: Matrix, answer: Matrix) -> bool | None:
    if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
        return False
    pairs = (zip(a, b, strict=True) for a, b in zip(gold.rows, answer.rows, strict=True))
    return _all(compare_values(a, b) for row in pairs for a, b in row)


def _ratios(gold: Value, answer: Value) -> bool | None:
    """`2:3` against `4:6`, and against the fraction 2/3."""
    a, b = _parts(gold), _parts(answer)
    if a is None or b is None or len(a) != len(b):
        return False
    return _all(
        numeric.same_value(("mul", a[0], y), ("mul", b[0], x)) for x, y in zip(a[1:], b[1:], strict=True)
    )


def _parts(value: Value) -> tuple[Node, ...] | None:
    if isinstance(value, Ratio):
        return tuple(part.node for part in value.parts)
    return (
        (value.node, ("num", Fraction(1)))
        if isinstance(value, Quantity) and not symbols(value.node)
        else None
    )

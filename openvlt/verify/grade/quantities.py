"""Compares two quantities: numbers and expressions with units, percents, magnitudes and counted things.

Tolerances are those of the gold answer alone: a decimal gold fixes how far a response is rounded, everything
else is exact.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from openvlt.verify.grade import numeric
from openvlt.verify.parse.expression import Node
from openvlt.verify.parse.quantity import Quantity
from openvlt.verify.parse.units import Unit

ROUNDED_DIGITS = 4
"""Significant digits that a decimal needs at least to answer an irrational or repeating gold."""
_ANGLE = (("angle", 1),)
_UP_AND_DOWN = frozenset(("growth", "profit", "vertical", "amount"))
_TO_KELVIN = {
    "temperature": (Fraction(1), Fraction(0)),
    "celsius": (Fraction(1), Fraction(27315, 100)),
    "fahrenheit": (Fraction(5, 9), Fraction(45967, 180)),
}
"""Factor and offset of each temperature scale."""


def compare_quantities(gold: Quantity, answer: Quantity) -> bool | None:
    """Whether two quantities are equal with units, percents and counted things; None where undecided."""
    if gold.base != answer.base or not _is_same_direction(gold, answer):
        return False
    if _is_negative_for(gold, answer) or _is_negative_for(answer, gold):  # a decrease of 25 % is -25 %
        answer = _scale(answer, Fraction(-1), keep=True)
    if gold.unit and answer.unit:
        return _compare_with_units(gold, gold.unit, answer, answer.unit)
    if gold.unit and answer.noun or answer.unit and gold.noun:
        return False
    if gold.noun and answer.noun and not _is_same_noun(gold.noun, answer.noun):
        return False
    if gold.percent or answer.percent:
        return _compare_percents(gold, answer)
    if gold.magnitude != answer.magnitude:
        return _compare_magnitudes(gold, answer)
    if (gold.unit or answer.unit) and _is_same_angle(gold, answer):
        return True
    return _compare_numbers(gold, answer, gold.ulp)


def _is_same_direction(gold: Quantity, answer: Quantity) -> bool:
    """False for two words that point different ways: `25% increase` and `25% decrease`, north and east."""
    if gold.direction is None or answer.direction is None:
        return True
    (axis, sign), (other_axis, other_sign) = gold.direction, answer.direction
    return sign == other_sign and (axis == other_axis or {axis, other_axis} <= _UP_AND_DOWN)


def _is_negative_for(signed: Quantity, directed: Quantity) -> bool:
    """Whether a number without direction is negative beside one that points down."""
    if signed.direction is not None or directed.direction is None or directed.direction[1] > 0:
        return False
    return signed.value is not None and signed.value < 0


def _compare_with_units(gold: Quantity, gold_unit: Unit, answer: Quantity, answer_unit: Unit) -> bool | None:
    if gold_unit.dims != answer_unit.dims:
        return _is_same_temperature(gold, answer)
    if gold_unit.dims == _ANGLE and gold_unit.scale != answer_unit.scale:
        return numeric.same_value(_in_radians(gold, gold_unit), _in_radians(answer, answer_unit))
    factor = answer_unit.scale * answer.magnitude / (gold_unit.scale * gold.magnitude)
    return _compare_numbers(gold, answer if factor == 1 else _scale(answer, factor), gold.ulp)


def _in_radians(angle: Quantity, unit: Unit) -> Node:
    return angle.node if unit.scale == 1 else ("deg", angle.node)


def _is_same_temperature(gold: Quantity, answer: Quantity) -> bool:
    """Whether two temperatures in different units are equal; False for any other two units."""
    wanted, given = _in_kelvin(gold), _in_kelvin(answer)
    return wanted is not None and given is not None and abs(wanted - given) <= (gold.ulp or 0) / 2


def _in_kelvin(quantity: Quantity) -> Fraction | None:
    if quantity.unit is None or len(quantity.unit.dims) != 1 or quantity.value is None:
        return None
    conversion = _TO_KELVIN.get(quantity.unit.dims[0][0])
    return None if conversion is None else quantity.value * conversion[0] + conversion[1]


def _scale(quantity: Quantity, factor: Fraction, *, keep: bool = False) -> Quantity:
    """A multiple of the number; `keep` keeps its percent sign and magnitude."""
    value = None if quantity.value is None else quantity.value * factor
    ulp = None if quantity.ulp is None else quantity.ulp * factor
    node = ("num", value) if value is not None else ("mul", ("num", factor), quantity.node)
    scaled = replace(quantity, node=node, value=value, ulp=None if ulp is None else abs(ulp))
    return scaled if keep else replace(scaled, percent=False, magnitude=1)


def _compare_percents(gold: Quantity, answer: Quantity) -> bool | None:
    """28 % is 0.28, and 28 when only one side has the sign; but 0.64 is not 0.64 %."""
    if gold.percent and answer.percent:
        return _compare_numbers(gold, answer, gold.ulp)
    if gold.percent:
        scaled = _scale(answer, Fraction(100))
        return _compare_numbers(gold, answer, gold.ulp) or _compare_numbers(gold, scaled, gold.ulp)
    scaled = _scale(answer, Fraction(1, 100))
    same = _compare_numbers(gold, scaled, gold.ulp)
    if same:
        return same
    is_whole = gold.value is None or abs(gold.value) >= 1 or gold.value == 0
    return _compare_numbers(gold, answer, gold.ulp) if is_whole else False


def _compare_magnitudes(gold: Quantity, answer: Quantity) -> bool | None:
    """2.5 million is 2,500,000, and 2.5 where only one side has the word (the question may have it too)."""
    full_gold = _scale(gold, Fraction(gold.magnitude))
    same = _compare_numbers(full_gold, _scale(answer, Fraction(answer.magnitude)), full_gold.ulp)
    if same:
        return same
    return _compare_numbers(gold, answer, gold.ulp) if 1 in (gold.magnitude, answer.magnitude) else False


def _is_same_angle(gold: Quantity, answer: Quantity) -> bool:
    """Whether degrees on one side equal an expression with π on the other, without unit: 30° is π/6."""
    angle, bare = (gold, answer) if gold.unit else (answer, gold)
    if angle.unit is None or angle.unit.dims != _ANGLE or angle.unit.scale == 1 or bare.value is not None:
        return False
    return numeric.same_value(("deg", angle.node), bare.node) is True


def _is_same_noun(gold: str, answer: str) -> bool:
    """Whether two nouns may mean one thing: `apples` and `red apples` do, `apples` and `pears` don't."""
    a, b = (
        {re.sub(r"(?:es|s)$", "", word) for word in re.findall(r"[^\W\d_]+", noun)} for noun in (gold, answer)
    )
    return bool(a & b) or not a or not b or any(x in y or y in x for x in a for y in b)


def _compare_numbers(gold: Quantity, answer: Quantity, ulp: Fraction | None) -> bool | None:
    """Whether the numbers alone are equal; within half of `ulp` if the gold is a decimal."""
    if gold.value is not None and answer.value is not None:
        if ulp is None:
            return gold.value == answer.value or _is_rounding(gold, answer)
        return abs(gold.value - answer.value) <= ulp / 2
    if ulp is not None and gold.value is not None and answer.is_closed:
        value = numeric.real(answer.node)
        return value is not None and abs(float(gold.value) - value) <= float(ulp) / 2 * (1 + 1e-9)
    if answer.ulp is not None and gold.is_closed:
        return _is_rounding(gold, answer)
    if gold.is_closed and answer.is_closed and numeric.differ(gold.floating, answer.floating):
        return False
    return numeric.same_value(gold.node, answer.node)


def _is_rounding(gold: Quantity, answer: Quantity) -> bool:
    """Whether a decimal answer correctly rounds a gold that no decimal can write exactly (1/3, 25π)."""
    if answer.ulp is None or answer.value is None or gold.value is not None and _is_terminating(gold.value):
        return False
    if len(str(abs(answer.value // answer.ulp))) < ROUNDED_DIGITS:
        return False
    value = float(gold.value) if gold.value is not None else numeric.real(gold.node)
    return value is not None and abs(value - float(answer.value)) <= float(answer.ulp) / 2 * (1 + 1e-9)


def _is_terminating(value: Fraction) -> bool:
    """Whether a fraction can be written as a decimal."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1

"""Words that change a value are applied or make it unreadable; they are never dropped."""

from __future__ import annotations

from fractions import Fraction

import pytest

from openvlt.verify.parse.expression import Unreadable
from openvlt.verify.parse.quantity import read_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("half of 24", 12),
        ("twice 24", 48),
        ("24 squared", 576),
        ("the cube root of 27", 3),
        ("the reciprocal of 8", Fraction(1, 8)),
        ("the opposite of 8", -8),
        ("two thirds of 24", 16),
        ("12% of 50", 6),
        ("4 less than 24", 20),
        ("5 plus 3 times 2", 11),
        ("the product of 3 and 4", 12),
        ("2 to the third power", 8),
        ("5 choose 2", 10),
        ("4 factorial", 24),
        ("5 below zero", -5),
        ("a total of 24", 24),
        ("an area of 24", 24),
    ],
)
def test_words_are_applied(text: str, value: Fraction) -> None:
    assert read_quantity(text).value == value


@pytest.mark.parametrize(
    "text",
    [
        "the digit sum of 24",
        "3 of 24",
        "24 reversed",
        "the number of factors of 24",
        "1000 factorial",
        "above 24",
    ],
)
def test_unknown_words_are_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read_quantity(text)

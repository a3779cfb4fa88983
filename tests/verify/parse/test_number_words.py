"""Numbers in English and Chinese words."""

from __future__ import annotations

from fractions import Fraction

import pytest

from openvlt.verify.parse.number_words import read_number_word, read_ordinal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("one hundred and five", 105),
        ("one hundred fifty", 150),
        ("two thousand twenty-one", 2021),
        ("nineteen ninety-nine", 1999),
        ("three million four hundred thousand and six", 3_400_006),
        ("sixteen twenty-fifths", Fraction(16, 25)),
        ("a third", Fraction(1, 3)),
        ("two and a half", Fraction(5, 2)),
        ("three point one four", Fraction(157, 50)),
        ("negative two dozen", -24),
        ("一百零五", 105),
        ("一万二千", 12_000),
        ("二又三分之一", Fraction(7, 3)),
        ("负三点五", Fraction(-7, 2)),
    ],
)
def test_numbers_in_words(text: str, value: Fraction) -> None:
    assert read_number_word(text) == value


@pytest.mark.parametrize(
    "text", ["five five", "hundred and", "and", "twenty zero", "千千", "third", "one two", "x"]
)
def test_other_words_are_no_numbers(text: str) -> None:
    assert read_number_word(text) is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("third", 3),
        ("the 21st", 21),
        ("one hundred and first", 101),
        ("第十二", 12),
        ("a third", None),
        ("three", None),
    ],
)
def test_ordinals(text: str, place: int | None) -> None:
    assert read_ordinal(text) == place

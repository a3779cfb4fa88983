"""English number words as the package word2number reads them.

Known words count wherever they stand; other words are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence

_DIGITS = "zero one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBERS = {word: value for value, word in enumerate(_DIGITS + _TEENS)}
NUMBERS |= {word: 20 + 10 * index for index, word in enumerate(_TENS)}
NUMBERS |= {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES = ("billion", "million", "thousand")


def number_of_words(text: str) -> int | float | None:
    """The number that a text spells out; None for none, and for a large unit twice or out of order."""
    text = text.replace("-", " ").lower()
    if text.isdigit():
        return int(text)
    words = [word for word in text.split() if word in NUMBERS or word == "point"]
    if not words or any(words.count(word) > 1 for word in (*_SCALES, "point")):
        return None
    whole, _, decimals = _split(words, "point")
    places = [whole.index(scale) for scale in _SCALES if scale in whole]
    if places != sorted(places):
        return None
    try:
        total = NUMBERS[whole[0]] if len(whole) == 1 else _sum_scales(whole)
    except IndexError:  # a unit with nothing before it
        return None
    if decimals and set(decimals) <= set(_DIGITS):
        total += float("0." + "".join(str(NUMBERS[word]) for word in decimals))
    return total


def _split(words: Sequence[str], mark: str) -> tuple[list[str], bool, list[str]]:
    """The words before a word, whether it is there, and the words after it."""
    place = words.index(mark) if mark in words else len(words)
    return list(words[:place]), mark in words, list(words[place + 1 :])


def _sum_scales(words: Sequence[str]) -> int:
    """The sum of billions, millions, thousands and the rest."""
    if not words:
        return 0
    total, rest = 0, list(words)
    for scale in _SCALES:
        before, there, after = _split(rest, scale)
        if there:
            total += _below_thousand(before) * NUMBERS[scale]
            rest = after
    return total + (_below_thousand(rest) if rest else 0)


def _below_thousand(words: Sequence[str]) -> int:
    """The number of one to four words ("two hundred forty five").

    Of more words, or an odd combination, the first ones count as word2number counts them.
    """
    values = [NUMBERS[word] for word in words]
    if len(values) == 4:
        return values[0] * values[1] + values[2] + values[3]
    if len(values) == 3:
        return values[0] * values[1] + values[2]
    if len(values) == 2:
        return values[0] * values[1] if 100 in values else values[0] + values[1]
    return values[0]

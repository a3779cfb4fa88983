"""Whether an extracted answer means the gold answer: typed comparison, cheapest first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from openvlt.types import Verdict
from openvlt.verify.text import fold, plain, unwrap


@dataclass(frozen=True)
class Ruling:
    """A verdict, the rule that decided it and the reason in words."""

    verdict: Verdict
    rule: str
    why: str


_WORDS = {w: i for i, w in enumerate("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
                                     "fifteen sixteen seventeen eighteen nineteen twenty".split())}
_YES = {"yes": True, "true": True, "correct": True, "no": False, "false": False, "incorrect": False, "是": True, "对": True,
        "否": False, "错": False}
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_FRAC = re.compile(r"(-?)(\d+)?\s*(?:\\[dt]?frac\s*\{?(\d+?)\}?\s*\{?(\d+)\}?|(\d+)\s*/\s*(\d+))")
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?(?:\s+(.*))?", re.S)


def number(text: str) -> Fraction | None:
    """The value of a plain number or fraction, or None."""
    text = unwrap(plain(text)).lstrip("$€£¥ ").removesuffix("%").strip().replace("{,}", ",")
    if text.casefold() in _WORDS:
        return Fraction(_WORDS[text.casefold()])
    if re.search(r"\d", text) and len(text) < 300 and _NUMBER.fullmatch(text):
        return Fraction(text.replace(",", ""))
    match = _FRAC.fullmatch(text)
    if match and len(text) < 300:
        top, bottom = int(match[3] or match[5]), int(match[4] or match[6])
        if bottom:
            value = int(match[2] or 0) + Fraction(top, bottom)
            return -value if match[1] else value
    return None


def judge(gold: str, answer: str, choices: Sequence[str] | None, answer_type: str | None) -> Ruling:
    """The ruling on one extracted answer."""
    if choices:
        return _choice(gold, answer, choices)
    return _same(gold, answer)


def _same(gold: str, answer: str) -> Ruling:
    if fold(gold) == fold(answer):
        return Ruling(Verdict.CORRECT, "text", "same text")
    if fold(gold) in _YES:
        first = re.match(r"\w+", fold(answer))
        same = first is not None and _YES.get(first[0]) is _YES[fold(gold)]
        return Ruling(Verdict.CORRECT if same else Verdict.WRONG, "yes/no", "")
    a, b = number(gold), number(answer)
    if a is not None and b is not None:
        decimals = len(gold.partition(".")[2]) if re.fullmatch(r"-?\d*\.\d+", gold.strip()) else None
        same = a == b if decimals is None else abs(a - b) <= Fraction(1, 2 * 10**decimals)
        return Ruling(Verdict.CORRECT if same else Verdict.WRONG, "number", f"{b} against {a}")
    return Ruling(Verdict.WRONG, "text", "different text")


def _index(text: str, choices: Sequence[str]) -> int | None:
    for i, choice in enumerate(choices):
        if _same(choice, text).verdict is Verdict.CORRECT:
            return i
    match = _LETTER.fullmatch(unwrap(plain(text)))
    if match and ord(match[1]) - 65 < len(choices):
        return ord(match[1]) - 65
    return None


def _choice(gold: str, answer: str, choices: Sequence[str]) -> Ruling:
    match = _LETTER.fullmatch(unwrap(plain(gold)))
    index = _index(gold, choices) if not match or ord(match[1]) - 65 >= len(choices) else ord(match[1]) - 65
    same = index is not None and _index(answer, choices) == index
    return Ruling(Verdict.CORRECT if same else Verdict.WRONG, "choice", "")

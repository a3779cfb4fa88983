"""Words in English and Chinese: numbers, yes and no, refusals, and fillers before an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

SMALL = {
    word: n
    for n, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen seventeen eighteen nineteen twenty".split()
    )
}
_TENS = {
    word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "thirds": 3,
    "quarter": 4,
    "quarters": 4,
    "fourth": 4,
    "fourths": 4,
    "fifth": 5,
    "fifths": 5,
    "sixth": 6,
    "sixths": 6,
    "eighth": 8,
    "eighths": 8,
    "tenth": 10,
    "tenths": 10,
}
COUNT = (
    rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(list(SMALL)[1:10])}))?|"
    rf"(?:{'|'.join(sorted(SMALL, key=len, reverse=True))})(?:[- ](?:{'|'.join(_PARTS)}))?)"
)
"""Pattern of a number word, or of a fraction in words (two thirds), inside a sentence."""
MAGNITUDES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "百": 10**2,
    "千": 10**3,
    "万": 10**4,
    "百万": 10**6,
    "亿": 10**8,
}
_CHINESE_DIGITS = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}

YES_NO = {
    word: True for word in "yes y true t correct right yeah yep 是 是的 对 对的 正确 真 √ ✓ ✔".split()
} | {
    word: False
    for word in "no n false f incorrect wrong not nope 否 不 不是 不对 错 错误 错的 假 × ✗ ✘ 没有".split()
}
NOTHING = frozenset(
    (
        "",
        "none",
        "n/a",
        "na",
        "unknown",
        "null",
        "nan",
        "?",
        "...",
        "…",
        "-",
        "\\",
        "_",
        "无",
        "未知",
        "answer",
        "no answer",
        "not sure",
        "i don't know",
        "i do not know",
    )
)

REFUSAL = re.compile(
    r"(?:can(?:not|'t| not)|could not|couldn't|(?:un|not )able to|impossible to|not possible to|(?:isn't|"
    r"is not) possible to|difficult to) (?:be )?(?:\w+ )?(?:determin|answer|solv|calculat|provid|tell|help|"
    r"identif|say|find|assist|process|open|load|access|be given|giv|comput|view|see|read|infer)|(?:not |"
    r"in)(?:enough|sufficient) (?:information|data|details)|(?:^|\W)(?:i'?m |i am )?sorry,? (?:but )?i\b|"
    r"i (?:do not|don't) know|(?:option|answer|choice) is not (?:provided|listed|given|among)|"
    r"none of the (?:above|options|choices|given)|more information is needed|"
    r"无法(?:确定|回答|判断|得出|计算)|不能确定|不知道|信息不足",
    re.IGNORECASE,
)

FILLER = re.compile(
    r"^(?:(?:about|approximately|approx\.?|around|roughly|nearly|almost|exactly|only|just|simply|equal to|"
    r"equals?|a total of|total of|precisely|circa|also|therefore|thus|hence|so|then|now|that|is|are|was|be|"
    r"it is|it's|there are|there is|约为|约|大约是|大约|等于|共|一共|为|是|有)"
    r"(?=[\s\d\\$:(\-]|[^\x00-\x7f])|\\approx|\\sim|[=:≈~])\s*:?\s*",
    re.IGNORECASE,
)


def is_refusal(text: str, choices: Sequence[str] | None = None) -> bool:
    """Whether a text declines to answer; not where an option does too ("it cannot be determined")."""
    return REFUSAL.search(text) is not None and not any(
        REFUSAL.search(str(choice)) for choice in choices or ()
    )


def read_number_word(text: str) -> Fraction | None:
    """The value of `twelve`, `twenty-one`, `three quarters`, `half`, `十二`, `三分之一`; else None."""
    text = text.strip().lower()
    if not text or len(text) > 40:
        return None
    signed = re.match(r"(?:minus|negative) (?=[a-z])", text)
    if signed:
        value = read_number_word(text[signed.end() :])
        return None if value is None else -value
    if text[0].isascii():
        return _read_english(re.sub(r"^(?:a|an) (?=half|third|quarter|hundred|thousand|dozen)", "one ", text))
    return _read_chinese_fraction(text)


def _read_english(text: str) -> Fraction | None:
    if text in SMALL:
        return Fraction(SMALL[text])
    if text in _TENS:
        return Fraction(_TENS[text])
    if text in ("half", "one half", "a half"):
        return Fraction(1, 2)
    if text in ("dozen", "one dozen"):
        return Fraction(12)
    first, _, last = text.replace("-", " ").rpartition(" ")
    if first in _TENS and 0 < SMALL.get(last, 0) < 10:
        return Fraction(_TENS[first] + SMALL[last])
    if first in SMALL and last in _PARTS:
        return Fraction(SMALL[first], _PARTS[last])
    if last in MAGNITUDES and (count := _read_english(first) if first else None) is not None:
        return count * MAGNITUDES[last]
    return None


def _read_chinese_fraction(text: str) -> Fraction | None:
    if text in ("一半", "半"):
        return Fraction(1, 2)
    if text.startswith("负"):
        value = _read_chinese_fraction(text[1:])
        return None if value is None else -value
    bottom, cut, top = text.partition("分之")
    if cut:
        whole = Fraction(100) if bottom == "百" else _read_chinese(bottom)
        part = Fraction(top) if top.isdigit() else _read_chinese(top)
        return part / whole if whole and part is not None else None
    return _read_chinese(text)


def _read_chinese(text: str) -> Fraction | None:
    """The value of a Chinese numeral below ten thousand: 十二, 二十, 一百零五, 两千."""
    total, digit = 0, None
    for char in text:
        if char in _CHINESE_DIGITS:
            if digit:
                return None
            digit = _CHINESE_DIGITS[char]
        elif char in _CHINESE_UNITS:
            total += (1 if digit is None else digit) * _CHINESE_UNITS[char]
            digit = None
        else:
            return None
    return Fraction(total + (digit or 0)) if text else None

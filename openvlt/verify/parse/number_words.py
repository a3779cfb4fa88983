"""Words in English and Chinese: numbers, yes and no, refusals, and fillers before an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

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
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_IRREGULAR = {
    "first": "one",
    "second": "two",
    "third": "three",
    "fifth": "five",
    "eighth": "eight",
    "ninth": "nine",
    "twelfth": "twelve",
}
_ORDINALS = (
    _IRREGULAR
    | {word + "th": word for word in (*SMALL, "hundred", *_LARGE) if word + "th" not in _IRREGULAR}
    | {word[:-1] + "ieth": word for word in _TENS}
)
"""The number word of an ordinal: third is three."""
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
_WORD = "|".join(sorted((*SMALL, *_TENS, "hundred", *_LARGE), key=len, reverse=True))
_PART = "|".join(sorted((*_PARTS, *(f"{word}s?" for word in _ORDINALS)), key=len, reverse=True))
COUNT = (
    rf"(?:(?:minus|negative)[- ])?(?:{_WORD})(?:[- ](?:and[- ](?:a[- ])?)?(?:(?:{_WORD})(?![a-z])|{_PART}))*"
)
"""Pattern of a number in words, or of a fraction in words (two thirds), inside a sentence."""
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
    word: True
    for word in "yes y true t correct right yeah yep 是 是的 对 对的 正确 真 会 能 可以 √ ✓ ✔".split()
} | {
    word: False
    for word in (
        "no n false f incorrect wrong not nope 否 不 不是 不对 错 错误 错的 假 不会 不能 不可以 × ✗ ✘ 没有"
    ).split()
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
    r"identif|say|find|assist|process|open|load|access|be given|giv|comput|view|see|read|infer)|"
    r"(?:(?:not|n['’]t) |in)(?:\w+ ){0,2}(?:enough|sufficient) (?:information|data|details)|"
    r"(?:^|\W)(?:i'?m |i am )?sorry,? (?:but )?i\b|"
    r"i (?:do not|don't) know|(?:option|answer|choice) is not (?:provided|listed|given|among)|"
    r"none of the (?:above|options|choices|given)|more information is needed|"
    r"无法(?:确定|回答|判断|得出|计算)|不能确定|不知道|信息不足",
    re.IGNORECASE,
)

_REFUSING = (
    "not",
    "n't",
    "unable",
    "impossible",
    "difficult",
    "sorry",
    "insufficient",
    "none of",
    "more information",
    "无法",
    "不能",
    "不知道",
    "信息",
)
"""What every refusal holds: a cheap look that ends most of the searches."""

FILLER = re.compile(
    r"^(?:(?:about|approximately|approx\.?|around|roughly|nearly|almost|exactly|only|just|simply|equal to|"
    r"equals?|a total of|total of|precisely|circa|also|therefore|thus|hence|so|then|now|that|is|are|was|be|"
    r"it is|it's|there are|there is|约为|约|大约是|大约|等于|共|一共|为|是|有)"
    r"(?=[\s\d\\$:(\-]|[^\x00-\x7f])|\\approx|\\sim|[=:≈~])\s*:?\s*",
    re.IGNORECASE,
)


def is_refusal(text: str, choices: Sequence[str] | None = None) -> bool:
    """Whether a text declines to answer; not where an option does too ("it cannot be determined")."""
    lower = text.lower()
    return (
        any(word in lower for word in _REFUSING)
        and REFUSAL.search(text) is not None
        and not any(REFUSAL.search(str(choice)) for choice in choices or ())
    )


_SIGN_WORD = re.compile(r"(?:minus|negative) (?=[a-z])|负")
_ONE_IN = re.compile(r"([a-z-]+) (?:in|out of)(?: every)? ([a-z-]+)")
_ONE = re.compile(r"\ba (?=(?:hundred|thousand|million|dozen|[a-z]*th|third|half|quarter)\b)")


def read_number_word(text: str) -> Fraction | None:
    """The value of `twelve`, `one hundred and five`, `two and a half`, `十二`, `三分之一`; else None."""
    text = text.strip().lower()
    is_short = 0 < len(text) <= 120 and (text[0].isalpha() or not text[0].isascii())
    return _read_number_word(text) if is_short else None


@lru_cache(maxsize=4096)
def _read_number_word(text: str) -> Fraction | None:
    signed = _SIGN_WORD.match(text)
    if signed:
        value = read_number_word(text[signed.end() :])
        return None if value is None else -value
    if not text[0].isascii():
        return _read_chinese_fraction(text)
    part = _ONE_IN.fullmatch(text) if " in " in text or " of " in text else None
    if part:
        some, whole = read_number_word(part[1]), read_number_word(part[2])
        return some / whole if some and whole and some < whole else None
    words = _ONE.sub("one ", text)
    return _read_english(words.removeprefix("an ").replace("-", " ").split())


_ENDINGS = frozenset(word[-2:] for word in (*_ORDINALS, "st", "nd", "rd", "th"))


def read_ordinal(text: str) -> int | None:
    """The place that `third`, `the twenty-first`, `3rd` or `第三` names; else None."""
    text = text.strip().lower().removeprefix("the ")
    if text[-2:] not in _ENDINGS and not text.startswith("第") and "^" not in text:
        return None
    match = re.fullmatch(r"(\d{1,9})(?:st|nd|rd|th|\s?\^\{?\s*(?:st|nd|rd|th)\s*\}?)|第(.{1,12})", text)
    if match and match[1]:
        return int(match[1])
    if match:
        value = Fraction(match[2]) if match[2].isdecimal() else _read_chinese(match[2])
        return None if value is None else int(value)
    words = text.replace("-", " ").split()
    if not words or words[-1] not in _ORDINALS:
        return None
    return _read_cardinal([*words[:-1], _ORDINALS[words[-1]]])


def _read_english(words: list[str]) -> Fraction | None:
    """The value of a number in words: a count, a decimal, a fraction or a mixed number."""
    count = _read_cardinal(words)
    if count is None and 13 <= SMALL.get(words[0], 0) <= 20 and words[1] in _TENS:  # a year
        count = _read_cardinal([words[0], "hundred", *words[1:]])
    if count is not None:
        return Fraction(count)
    if "point" in words:
        return _read_decimal(words)
    if words[-1:] == ["dozen"]:
        count = _read_cardinal(words[:-1] or ["one"])
        return None if count is None else Fraction(12 * count)
    fraction = _read_fraction(words)
    if fraction is not None or "and" not in words:
        return fraction
    cut = len(words) - 1 - words[::-1].index("and")
    whole, part = _read_cardinal(words[:cut]), _read_fraction(words[cut + 1 :])
    return None if whole is None or part is None or part >= 1 else whole + part


def _read_cardinal(words: list[str]) -> int | None:
    """The value of `one hundred and five`, `two thousand twenty-one`, `nineteen ninety-nine`; else None."""
    total, group, last = 0, 0, 10**15
    if words[:1] == ["hundred"] or words and words[0] in _LARGE:
        words = ["one", *words]
    for index, word in enumerate(words):
        if word in _TENS and group % 100 == 0:
            group += _TENS[word]
        elif word in SMALL and (group % 100 == 0 or group % 100 >= 20 and group % 10 == 0 < SMALL[word] < 10):
            if SMALL[word] == 0 and len(words) > 1:
                return None
            group += SMALL[word]
        elif word == "hundred" and 0 < group < 100:
            group *= 100
        elif word in _LARGE and group and _LARGE[word] < last:
            last = _LARGE[word]
            total, group = total + group * last, 0
        elif word != "and" or words[index - 1 : index] not in (["hundred"], *([large] for large in _LARGE)):
            return None
    return total + group if words and words[-1] != "and" else None


def _read_decimal(words: list[str]) -> Fraction | None:
    """The value of `three point one four`; else None."""
    cut = words.index("point")
    whole, digits = _read_cardinal(words[:cut]), [SMALL.get(word, 10) for word in words[cut + 1 :]]
    if whole is None or not digits or max(digits) > 9:
        return None
    return whole + Fraction(int("".join(map(str, digits))), 10 ** len(digits))


def _read_fraction(words: list[str]) -> Fraction | None:
    """The value of `half`, `two thirds`, `sixteen twenty-fifths`; else None."""
    if words == ["half"]:
        return Fraction(1, 2)
    for cut in range(len(words) - 1, 0, -1):
        top, last = _read_cardinal(words[:cut]), words[-1].removesuffix("s")
        below = _PARTS.get(words[-1]) if cut == len(words) - 1 else None
        if below is None and last in _ORDINALS:
            below = _read_cardinal([*words[cut:-1], _ORDINALS[last]])
        if top is not None and below is not None and below > 1:
            is_ordinal = words[-1] == last and top != 1 and read_ordinal(" ".join(words)) is not None
            return None if is_ordinal else Fraction(top, below)
    return None


def _read_chinese_fraction(text: str) -> Fraction | None:
    if text in ("一半", "半"):
        return Fraction(1, 2)
    whole, cut, part = text.partition("又")
    if cut:
        count, rest = _read_chinese(whole), _read_chinese_fraction(part)
        return None if count is None or rest is None else count + rest
    bottom, cut, top = text.partition("分之")
    if cut:
        below = Fraction(100) if bottom == "百" else _read_chinese(bottom)
        above = Fraction(top) if top.isdecimal() else _read_chinese(top)
        return above / below if below and above is not None else None
    whole, cut, digits = text.partition("点")
    if cut and digits and set(digits) <= set(_CHINESE_DIGITS):
        count, shift = _read_chinese(whole), 10 ** len(digits)
        part = Fraction(int("".join(str(_CHINESE_DIGITS[c]) for c in digits)), shift)
        return None if count is None else count + part
    return _read_chinese(text)


def _read_chinese(text: str) -> Fraction | None:
    """The value of a Chinese numeral: 十二, 二十, 一百零五, 两千, 一万二千, 三亿."""
    for mark, size in (("亿", 10**8), ("万", 10**4)):
        above, cut, below = text.partition(mark)
        if cut:
            head = _read_chinese(above)
            rest = _read_chinese(below.removeprefix("零")) if below else Fraction(0)
            return None if head is None or rest is None or rest >= size else head * size + rest
    total, digit = 0, None
    for char in text:
        if char in _CHINESE_DIGITS:
            if digit:
                return None
            digit = _CHINESE_DIGITS[char]
        elif char in _CHINESE_UNITS:
            if digit is None and char != "十":
                return None
            total += (1 if digit is None else digit) * _CHINESE_UNITS[char]
            digit = None
        else:
            return None
    return Fraction(total + (digit or 0)) if text else None

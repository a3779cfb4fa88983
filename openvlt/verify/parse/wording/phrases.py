"""Words with one meaning and several spellings: the empty set, infinity, weekdays, months, turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_THINGS = (
    r"(?:(?:real|integer|rational|such|possible|valid|common|feasible|other)[- ])*"
    r"(?:solutions?|roots?|values?|numbers?|zeros|integers?|[a-z])"
)
_WHERE = r"(?:\s+(?:exists?|(?:in|over|for|to|of|satisf\w+)\s.{1,40}))?"
_PHRASES = {
    r"\emptyset": (
        rf"(?:the )?(?:empty|null) set|(?:there (?:is|are|exists?) )?no {_THINGS}{_WHERE}|"
        rf"(?:(?:it|this|the \w+(?: of \w+)?) )?has no {_THINGS}{_WHERE}|"
        r"(?:原?(?:方程|不等式)组?|该方程|此方程)?(?:无|没有)(?:实数?)?(?:解|根)|空集|\\varnothing|\\\{\s*\\\}|\\phi"
    ),
    "does not exist": (
        r"dne|d\.n\.e|(?:(?:it|the (?:limit|value|function|expression|slope|number)) )?"
        r"(?:does not exist|doesn't exist|is undefined|is not defined)|undefined|not defined|non-?existent|"
        r"no limit|不存在|无意义|没有意义"
    ),
    r"\infty": r"(?:positive |plus |\+\s*)?(?:infinity|\\infty)|inf|(?:正)?无穷大?",
    r"-\infty": r"(?:negative |minus |-\s*)infinity|负无穷大?",
    "infinitely many": (
        rf"(?:there (?:is|are) )?(?:infinitely many|an infinite number of|infinite(?: number of)?) {_THINGS}|"
        r"infinitely many|an infinite number|(?:有?无穷|有?无数)多?个?解?"
    ),
}
_PATTERNS = {meaning: re.compile(pattern, re.IGNORECASE) for meaning, pattern in _PHRASES.items()}
_QUICK = re.compile(r"[a-z]{3}|无|空|不存在|\\\{|\\[a-z]", re.IGNORECASE)
WEEKDAYS: tuple[str, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS: Sequence[str] = (
    "january february march april may june july august september october november december".split()
)
_SHORT = {
    "tues": "tuesday",
    "weds": "wednesday",
    "thur": "thursday",
    "thurs": "thursday",
    "sept": "september",
}
_CHINESE_NUMBERS = ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")
SYNONYMS = (
    {name[:3]: name for name in (*WEEKDAYS, *MONTHS)}
    | _SHORT
    | {
        f"{week}{sign}": day
        for week in ("星期", "周", "礼拜")
        for sign, day in zip("一二三四五六", WEEKDAYS, strict=False)
    }
    | {f"{week}{sign}": "sunday" for week in ("星期", "周", "礼拜") for sign in "日天"}
    | {f"{sign}月": month for sign, month in zip(_CHINESE_NUMBERS, MONTHS, strict=True)}
    | {f"{index}月": month for index, month in enumerate(MONTHS, 1)}
    | dict.fromkeys(
        (
            "anticlockwise",
            "anti-clockwise",
            "counter-clockwise",
            "counter clockwise",
            "ccw",
            "逆时针",
            "逆时针方向",
        ),
        "counterclockwise",
    )
    | dict.fromkeys(("cw", "顺时针", "顺时针方向"), "clockwise")
)
"""The usual word for an abbreviation or a synonym, in lower case."""


def read_phrase(text: str) -> str | None:
    """The usual form of words for the empty set, infinity or no value; None for other texts."""
    return _read_short_phrase(text) if len(text) <= 90 and _QUICK.search(text) else None


@lru_cache(maxsize=4096)
def _read_short_phrase(text: str) -> str | None:
    bare = text.strip(" .!。")
    return next((meaning for meaning, pattern in _PATTERNS.items() if pattern.fullmatch(bare)), None)


def use_synonym(word: str) -> str:
    """The usual word for a folded word or abbreviation; other words as they are."""
    return SYNONYMS.get(word.rstrip("."), word)

"""Reads the words that say where a number points: `25% increase`, `90 degrees clockwise`, `5 below zero`."""

from __future__ import annotations

import re
from dataclasses import replace

from openvlt.verify.parse.answer import Quantity
from openvlt.verify.parse.expression import Unreadable
from openvlt.verify.parse.number_words import read_number_word
from openvlt.verify.parse.wording.value_words import ReadQuantity

# axis | words of one sense | words of the other
_DIRECTIONS = """
growth   | increase increases increased increasing rise rises rose raise gain growth grew grows up higher | \
decrease decreases decreased decreasing fall falls fell drop drops dropped decline declines declined \
reduction reduced down lower
growth   | 增加 上升 上涨 增长 提高 | 减少 下降 下跌 降低
profit   | profit 盈利 | loss deficit 亏损
vertical | above upward upwards | below downward downwards under
turn     | clockwise 顺时针 | counterclockwise anticlockwise counter-clockwise anti-clockwise 逆时针
east     | east eastward | west westward
north    | north northward | south southward
side     | right | left
amount   | more | less fewer
order    | later after | earlier before
"""
DIRECTIONS: dict[str, tuple[str, int]] = {
    word: (axis.strip(), sign)
    for axis, *sides in (line.split("|") for line in _DIRECTIONS.strip().splitlines())
    for sign, words in zip((1, -1), sides, strict=True)
    for word in words.split()
}
"""Axis and sign of a word that says where a number points."""
_WORDS = "|".join(sorted(DIRECTIONS, key=len, reverse=True))
_LEADING = "|".join(
    word
    for word in _WORDS.split("|")
    if DIRECTIONS[word][0] not in ("vertical", "order", "amount")  # above 5: a relation
)
_DIRECTED = (
    re.compile(
        rf"(?:an? |the |it )?(?:overall |net |total |percent(?:age)? )?({_LEADING})(?: of| by|了)?"
        r"[ :]?\s*(.+)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(.*?[\d%}})a-z\u4e00-\u9fff])[ ,(-]{{0,3}}(?:an? |to the |in the |due )?({_WORDS})"
        r"(?: (?:direction|rotation|turn))?\)?",
        re.IGNORECASE,
    ),
)
_HAS_DIRECTION = re.compile(rf"(?<![a-z])(?:{_WORDS})(?![a-z])", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")
_BELOW_ZERO = re.compile(r"(.+?) (above|below) (?:zero|sea level|freezing)|(零[上下])(.+)", re.IGNORECASE)


def read_directed(text: str, read: ReadQuantity) -> Quantity | None:
    """A quantity with a word for its direction; None if the text has none that can be read."""
    match = (
        _BELOW_ZERO.fullmatch(text)
        if text.lower().endswith(("zero", "level", "freezing")) or "零" in text
        else None
    )
    if match:
        inner = read(match[1] or match[4])
        down = (match[2] or "").lower() == "below" or match[3] == "零下"
        if inner.value is None:
            return None
        return replace(inner, node=("num", -inner.value), value=-inner.value) if down else inner
    if DIRECTIONS.keys().isdisjoint(_WORD.findall(text.lower())) and (
        text.isascii() or not _HAS_DIRECTION.search(text)
    ):
        return None
    for pattern, word, rest in ((_DIRECTED[0], 1, 2), (_DIRECTED[1], 2, 1)):
        match = pattern.fullmatch(text)
        if match is None or read_number_word(match[word]) is not None:
            continue
        try:
            inner = read(match[rest].strip())
        except Unreadable:
            continue
        if inner.is_closed and inner.direction is None:
            return replace(inner, direction=DIRECTIONS[match[word].lower()])
    return None

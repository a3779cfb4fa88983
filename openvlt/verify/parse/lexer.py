"""Splits mathematics into tokens: numbers, commands, letters and operators, bounded in length and number."""

from __future__ import annotations

import re
from fractions import Fraction

from openvlt.verify.parse.expression import Unreadable

MAX_EXPRESSION_CHARS, MAX_TOKENS, MAX_DIGITS = 1_500, 400, 400


FUNCTIONS = {
    name: name for name in "sqrt sin cos tan sinh cosh tanh exp ln abs floor ceil max min gcd lcm".split()
} | {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "asin": "asin",
    "acos": "acos",
    "atan": "atan",
    "tg": "tan",
    "hcf": "gcd",
    "gcf": "gcd",
}
VARIADIC = frozenset(("max", "min", "gcd", "lcm"))
"""Functions of several arguments."""
RECIPROCALS = {"cot": "tan", "sec": "cos", "csc": "sin", "ctg": "tan"}
NAMES = {**{f: "f" for f in (*FUNCTIONS, *RECIPROCALS, "log", "lg")}, "pi": "c"}
MATH_WORDS = frozenset(NAMES)
_PROSE = frozenset(
    "or and to is of if in at by no on so as we it an the are but not for yes out per was".split()
)
_WORD_PARTS = re.compile("|".join(sorted(NAMES, key=len, reverse=True)) + "|[A-Za-z]")
_TOKEN = re.compile(
    r"\s+|(?P<num>(?:[1-9]\d{0,2}(?:(?:,|\{,\}|\s)\d{3})+(?![\d])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,4}(?![\w.]))?|"
    r"\.\d+)"
    r"|(?P<cmd>\\[A-Za-z]+|\\[%{}|])|(?P<word>[A-Za-z]+)|(?P<op>\*\*|[-+*/^_()\[\]{}|!%',=])"
)


_GROUPING = re.compile(r"[,{}\s]")


def tokenize_math(text: str) -> list[tuple[str, str]]:
    """The `(kind, text)` tokens of a text. Raises Unreadable for what is outside the grammar or too long."""
    if len(text) > MAX_EXPRESSION_CHARS:
        raise Unreadable("an expression of more than 1,500 characters")
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"{text[position]!r} is no mathematics")
        position = match.end()
        kind = match.lastgroup
        if kind == "word":
            found += _split_word(match.group())
        elif kind:
            found.append((kind, match.group()))
        if len(found) > MAX_TOKENS:
            raise Unreadable("an expression of more than 400 tokens")
    return found


def _split_word(word: str) -> list[tuple[str, str]]:
    """The tokens of a word: `xcosx` is x, cos, x. Raises Unreadable for prose.

    Prose is a run of more than three letters (of four in capitals, which name a figure), and three letters
    that can be spoken (`red`; but `abc` is a product).
    """
    parts = _WORD_PARTS.findall(word)
    letters = sum(len(part) == 1 for part in parts)
    spoken = (
        letters == len(word) == 3
        and not word.isupper()
        and re.search("[aeiou]", word)
        and re.search("[^abc]", word)
    )
    if letters > (4 if word.isupper() else 3) or spoken or word.lower() in _PROSE:
        raise Unreadable(f"{word!r} is a word")
    return [("cmd", "\\" + part) if part in NAMES else ("let", part) for part in parts]


def read_literal(text: str) -> Fraction:
    """The value of a decimal literal with optional thousands separators and exponent."""
    if text.isdecimal() and len(text) <= MAX_DIGITS:
        return Fraction(int(text))
    digits = _GROUPING.sub("", text)
    mantissa, _, exponent = digits.lower().partition("e")
    if len(mantissa) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_DIGITS:
        raise Unreadable("a number of more than 400 digits")
    return Fraction(digits)

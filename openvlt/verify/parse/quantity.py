"""Reads one number or expression with its currency, percent, unit, magnitude, counted thing and precision."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from openvlt.verify.parse.answer import Quantity
from openvlt.verify.parse.expression import Undefined, Unreadable, exact
from openvlt.verify.parse.grammar import parse_math
from openvlt.verify.parse.lexer import MATH_WORDS, MAX_DIGITS, read_literal
from openvlt.verify.parse.number_words import FILLER, MAGNITUDES, read_number_word, read_ordinal
from openvlt.verify.parse.units import CHINESE_COUNTERS, GENERIC, lookup_unit, split_unit
from openvlt.verify.parse.wording.directions import read_directed
from openvlt.verify.parse.wording.modular import read_based
from openvlt.verify.parse.wording.value_words import apply_value_words

_PLAIN = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:(?:,\d{3})+|(?:'\d{3})+)|\d+)(?:\.(\d*))?|[-+]?\.(\d+)")
_SCIENTIFIC = re.compile(
    r"([-+]?\d*\.?\d+)\s*(?:[eE]|(?:\\times|\\cdot|[*xX])\s*10\s*(?:\^|"
    r"\*\*))\s*[{(]?\s*([-+]?\d{1,3})\s*[})]?"
)
_MIXED = re.compile(r"([-+]?)(\d{1,9})(?:\s+|\s*-\s*|\s+and\s+)(\d{1,9})\s*/\s*(\d{1,9})")
_OUT_OF = re.compile(r"(\d{1,9})\s+(?:out\s+of|in)(?:\s+every)?\s+(\d{1,9})")
_DEGREE_TERM = re.compile(r"(?<=\d)\s*\^\s*\{?\s*\\circ\s*\}?(?=\s*[-+]\s*[\d.]+\s*\^)")  # 180° - 120°
_ARC_MINUTES = re.compile(
    r"(\d{1,4})\s*\^\s*\{?\s*\\circ\s*\}?\s*(\d{1,2})\s*(?:'|\^\s*\{?\s*\\prime\s*\}?)$"
)  # 30°15'
# 1 hour 30 minutes, 5 feet and 6 inches, 2小时30分钟
_COMPOUND = re.compile(r"(\d[\d.,]{0,12}\s?[^\d\s=+*/^-][^\d=+*/^-]{0,20}?)(?:\s+and)?\s*(\d.{0,60})")
_REPEATING = re.compile(r"([-+]?\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot)\s*\{?(\d{1,20})\}?")
_MINUS = re.compile(r"(?:minus|negative)\s+(?=[\d.\\(])|负(?=[\d.])", re.IGNORECASE)
_PERCENT = re.compile(
    r"\s*(?:\\?%|(?<![A-Za-z])(?:per\s?cents?|percentage points?|pct)\b\.?)(?:\s+of(?:\s+[a-z]+){0,4})?$",
    re.IGNORECASE,
)
_PER_MILLE = re.compile(r"(?<=[\d)}])\s*(?:‰|\\perthousand|\\textperthousand|per mille?\b)$", re.IGNORECASE)
_CURRENCY = re.compile(
    r"([-+]?)\s*(US\$|HK\$|\$|€|£|¥|₹|RMB\b|USD\b|EUR\b|Rs\.?)\s*(?=[\d.\\])", re.IGNORECASE
)
# `2ab` and `2\pi rh` are products: a short word counts something only after a number and a space or hyphen.
_NOUN = re.compile(
    r"(.*?(?:[\d})%](?=[\s-])|(?:[\d})%]|\\pi)(?=\s*(?:[A-Za-z]{4}|(?:st|nd|rd|th)\b))))\s*-?\s*"
    r"([A-Za-z][A-Za-z'’-]+(?:[,\s]\s*[A-Za-z][A-Za-z'’-]+){0,7},?\s*)"
)
_WORD_NOUN = re.compile(r"([A-Za-z]+(?:-[a-z]+)?)\s+([A-Za-z][A-Za-z' -]{1,40})")
_DIMENSION = re.compile(
    r"\s+(?:long|wide|tall|high|deep|old|away|each|in (?:total|all|length|area|height|width)|total|left|"
    r"remaining|more|apart|per person|altogether|approximately|approx\.?)$",
    re.IGNORECASE,
)
_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)\b[^()]*$")
_GENERIC_UNIT = re.compile(
    r"(?<=\S)\s*(?<![A-Za-z])(?:square\s|sq\b\.?|cubic\s)?\s*units?\s*(?:\^\s*\{?\s*[23]\s*\}?|squared|"
    r"cubed)?$",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"([A-Za-z]{3,})\s+#?(\d[\d,.]*)(?:st|nd|rd|th)?")
_NOT_LABELS = frozenset(
    "not over under below above less more than between minus negative after before until least "
    "most the and per".split()
)
_CHINESE_COUNT = re.compile(
    rf"(.*?[\d}})一二两三四五六七八九十百])\s*([万亿百千]?)([{CHINESE_COUNTERS}]?[\u4e00-\u9fff]{{0,6}})"
)
_NO_COUNTER = re.compile("[或和与至到多不非以左右]")
_PLACES = frozenset(
    "place position one floor grade term quadrant row column day week month number digit figure picture "
    "item line person step".split()
)
"""What an ordinal counts; before any other noun it may be a name (the First National Bank)."""
_STOP = frozenset(
    "or and to but not if when is are was be between versus vs either neither nor except because since "
    "can cannot could will would should may might must does".split()
)


def read_quantity(text: str, *, units: bool = True) -> Quantity:
    """The quantity of a cleaned text; with `units=False` all letters are symbols. Raises Unreadable."""
    text = text.strip()
    quick = _read_number(text) if len(text) <= MAX_DIGITS else None
    if quick is not None:
        return quick
    if len(text) > MAX_DIGITS or text.endswith(("%%", "%\\%")):
        return _read_expression(text)
    for _ in range(3):
        text, count = FILLER.subn("", text)
        if not count:
            break
    text = _MINUS.sub("-", text)
    if units and (" " in text or "_" in text or text[:1] == "0" or not text.isascii()):
        found = (
            read_directed(text, read_quantity) or apply_value_words(text, read_quantity) or read_based(text)
        )
        if found is not None:
            return found
    match = _CURRENCY.match(text)
    if match:
        inner = read_quantity(match[1] + text[match.end() :])
        return replace(inner, unit=inner.unit or lookup_unit(match[2].lower()))
    match = _PERCENT.search(text) if "%" in text or "p" in text or "P" in text else None
    if match and text[: match.start()].strip():
        return replace(read_quantity(text[: match.start()], units=False), percent=True)
    if text.startswith("百分之"):
        return replace(read_quantity(text[3:], units=False), percent=True)
    if text.startswith("千分之") or _PER_MILLE.search(text):
        return _read_per_mille(_PER_MILLE.sub("", text.removeprefix("千分之")))
    return _read_with_unit(text, units)


def _read_per_mille(text: str) -> Quantity:
    inner = read_quantity(text, units=False)
    value = None if inner.value is None else inner.value / 1000
    ulp = None if inner.ulp is None else inner.ulp / 1000
    return replace(inner, node=("mul", ("num", Fraction(1, 1000)), inner.node), value=value, ulp=ulp)


def _read_number(text: str) -> Quantity | None:
    """A plain, scientific, mixed or repeating number by pattern, which most answers are; else None."""
    match = _PLAIN.fullmatch(text)
    if match:
        decimals = match[1] or match[2]
        value = read_literal(text.rstrip(".").replace("'", ""))
        return Quantity(("num", value), value, Fraction(1, 10 ** len(decimals)) if decimals else None)
    match = _SCIENTIFIC.fullmatch(text)
    if match and abs(int(match[2])) <= MAX_DIGITS:
        scale = Fraction(10) ** int(match[2])
        decimals = len(match[1].partition(".")[2])
        value = read_literal(match[1]) * scale
        return Quantity(("num", value), value, scale / 10**decimals if decimals else None)
    match = _MIXED.fullmatch(text)
    if match and int(match[3]) < int(match[4]):
        value = (int(match[2]) + Fraction(int(match[3]), int(match[4]))) * (-1 if match[1] == "-" else 1)
        return Quantity(("num", value), value)
    match = _OUT_OF.fullmatch(text)
    if match and 0 < int(match[1]) <= int(match[2]):
        value = Fraction(int(match[1]), int(match[2]))
        return Quantity(("num", value), value)
    match = _REPEATING.fullmatch(text)
    return _read_repeating(*match.groups()) if match else None


def _read_repeating(whole: str, fixed: str, cycle: str) -> Quantity:
    shift = 10 ** len(fixed)
    part = (Fraction(int(fixed or 0)) + Fraction(int(cycle), 10 ** len(cycle) - 1)) / shift
    value = abs(int(whole.strip("+-") or 0)) + part
    value = -value if whole.startswith("-") else value
    return Quantity(("num", value), value)


def _read_with_unit(text: str, units: bool) -> Quantity:
    """A number or expression with a unit or a counted thing, if `units`, or without."""
    if "circ" in text:
        text = _ARC_MINUTES.sub(r"(\1+\2/60)^\\circ", _DEGREE_TERM.sub("", text))
    if units:
        whole = _read_compound(text)
        if whole is not None:
            return whole
        text = _GENERIC_UNIT.sub("", text)
        shorter = _DIMENSION.sub("", text)
        head, unit = split_unit(shorter)
        if unit is not None:
            inner = _read_head(head, single=len(shorter) - len(head) <= 2)
            if inner is not None:
                return replace(inner, unit=unit)
    value = read_number_word(text)
    if value is None and (place := read_ordinal(text)) is not None:
        value = Fraction(place)
    if value is not None:
        return Quantity(("num", value), value)
    counted = _read_count(text) if units else None
    if counted is not None:
        return counted
    try:
        return _read_expression(text)
    except Unreadable:
        if text[:1].isdigit() and text[-1:] in "])}":
            return _read_expression(text[:-1])
        raise


def _read_compound(text: str) -> Quantity | None:
    """A sum of two amounts such as `1 hour 30 minutes`, in the unit of the first; None for other texts.

    Both have the same dimension, and the second is less than one unit of the first.
    """
    match = _COMPOUND.fullmatch(text) if text[:1].isdigit() and len(text) > 3 else None
    if match is None:
        return None
    try:
        major, minor = read_quantity(match[1]), read_quantity(match[2])
    except Unreadable:
        return None
    if not (major.unit and minor.unit and major.unit.dims == minor.unit.dims):
        return None
    if major.value is None or minor.value is None:
        return None
    part = minor.value * minor.unit.scale / major.unit.scale
    total = major.value + part
    return replace(major, node=("num", total), value=total, ulp=None) if part < 1 else None


def _read_expression(text: str) -> Quantity:
    """An expression by the grammar alone. Raises Unreadable also if it has no value (a division by zero)."""
    node = parse_math(text)
    try:
        return Quantity(node, exact(node))
    except Undefined as error:
        raise Unreadable(str(error)) from error


def _read_head(head: str, *, single: bool) -> Quantity | None:
    """The number before a unit; None if there is none.

    Before a one-letter unit (`single`) it must have no symbols: `2m` is metres, `xm` a product.
    """
    if _FUNCTION.search(head):
        return None
    try:
        inner = read_quantity(head, units=False)
    except Unreadable:
        return None
    return inner if inner.is_closed or not single else None


def _read_count(text: str) -> Quantity | None:
    """A number with what it counts: `3 apples`, `five cats`, `2.5 million`, `12个`; else None."""
    text = text.removeprefix("the ").removeprefix("The ")
    labelled = _LABELLED.fullmatch(text)
    if (
        labelled
        and labelled[1].lower() not in _NOT_LABELS | MATH_WORDS
        and (inner := _read_number(labelled[2]))
    ):
        return replace(inner, noun=labelled[1].lower())
    match = _NOUN.fullmatch(text) or _WORD_NOUN.fullmatch(text)
    head, noun = (match[1], match[2].strip(" ,").lower()) if match else _split_chinese_counter(text)
    words = set(noun.replace(",", " ").split())
    if not noun or _STOP & words or "n't" in noun or words & MATH_WORDS or _NO_COUNTER.search(noun):
        return None
    value = read_number_word(head)
    if value is None and read_ordinal(head) is not None and noun not in _PLACES:
        return None
    try:
        inner = Quantity(("num", value), value) if value is not None else read_quantity(head, units=False)
    except Unreadable:
        return None
    if not inner.is_closed:
        return None
    first, _, rest = noun.partition(" ")
    if first in MAGNITUDES:
        unit = lookup_unit(rest) if rest else None
        return replace(inner, magnitude=MAGNITUDES[first], unit=unit, noun="" if unit else rest)
    return replace(inner, noun="" if noun in GENERIC else noun)


def _split_chinese_counter(text: str) -> tuple[str, str]:
    match = None if text.isascii() else _CHINESE_COUNT.fullmatch(text)
    if not match or not (match[2] or match[3]):
        return text, ""
    return match[1], match[2] or match[3]

"""Compares golds in a notation of their own: chemical formulas and reactions, times of day, dates."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from openvlt.verify.grade.figures import compare_figures
from openvlt.verify.parse.normalize import clean
from openvlt.verify.parse.wording.chemistry import is_formula, read_formula, read_reaction
from openvlt.verify.parse.wording.dates import read_clock, read_date

_CLOCK_SIGN = re.compile(
    r":|[ap]\.?\s?m\b|o'?clock|\b(?:past|to|noon|midnight|morning|evening)\b|[点时午]", re.IGNORECASE
)
_DATE_SIGN = re.compile(
    r"\d{4}|[日号]|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b", re.IGNORECASE
)
_SUBJECT = re.compile(
    r".*(?:\b(?:is|are|was|be|formula|date|time)\b:?|[:是为])\s*", re.DOTALL | re.IGNORECASE
)
_REMARK = re.compile(r"\s*\([a-z][a-z -]*\)\s*$")
_ORDER = re.compile(r"[A-Za-z](?:[<>][A-Za-z]){2,20}")
_LONGEST = 200
T = TypeVar("T")


def compare_notations(gold: str, answer: str) -> tuple[bool, str] | None:
    """Whether gold and answer are the same formula, reaction, date or time, and which of these; else None."""
    if len(gold) > _LONGEST:
        return None
    figure = compare_figures(gold, answer)
    if figure is not None:
        return figure, "figure"
    order = _read_order(gold) if "<" in gold or ">" in gold or "\\lt" in gold or "\\gt" in gold else None
    if order is not None:
        given = _read_order(answer)
        return None if given is None else (order == given, "order")
    kind = _find_kind(gold)
    if kind == "formula":
        given = _read(read_formula, answer) or frozenset()
        return bool((read_formula(clean(gold)) or frozenset()) & given), kind
    if kind == "reaction":
        return read_reaction(clean(gold)) == _read(read_reaction, answer), kind
    if kind == "date":
        wanted, day = read_date(clean(gold)), _read(read_date, answer)
        if wanted is None or day is None:  # "14" names no month
            return (False, kind) if clean(answer).isdecimal() else None
        pairs = ((wanted.year, day.year), (wanted.month, day.month), (wanted.day, day.day))
        return all(a is None or a == b for a, b in pairs), kind
    if kind == "time":
        clock, other = read_clock(clean(gold)), _read(read_clock, answer)
        if clock is None or other is None or not (clock.is_marked or other.is_marked):
            return None  # a ratio
        return bool(clock.minutes & other.minutes), kind
    return None


def _read_order(text: str) -> tuple[str, ...] | None:
    """The names of an order of letters from the smallest on, `C < A < B` or `B > A > C`; None for others."""
    text = clean(text[:_LONGEST]).replace("\\lt", "<").replace("\\gt", ">").replace(" ", "")
    if not _ORDER.fullmatch(text) or "<" in text and ">" in text:
        return None
    names = tuple(re.split("[<>]", text))
    return names if "<" in text else names[::-1]


@lru_cache(maxsize=4096)
def _find_kind(gold: str) -> str:
    """The notation of a gold answer; empty for the usual kinds."""
    text = clean(gold)
    if re.search("[A-Z]", text):
        if is_formula(text):
            return "formula"
        if re.search(r"[=→⇌>]|arrow|\\to|harpoon", text) and read_reaction(text) is not None:
            return "reaction"
    if _DATE_SIGN.search(text) and read_date(text) is not None:
        return "date"
    return "time" if _CLOCK_SIGN.search(text) and read_clock(text) is not None else ""


def _read(read: Callable[[str], T | None], answer: str) -> T | None:
    """What `read` finds in an answer, in the part after its verb, or without a remark in brackets."""
    text = clean(answer[:_LONGEST])
    bare = _REMARK.sub("", text)
    return read(text) or read(bare) or read(_SUBJECT.sub("", bare))

"""Reads bounds in words or without a left side: `at least 3` is [3, ∞), `x is less than 5` is x < 5."""

from __future__ import annotations

import re

from openvlt.verify.parse.normalize import clean

_LOWEST = "at least|no less than|not less than|no fewer than|no smaller than|greater than or equal to"
_HIGHEST = (
    "at most|no more than|not more than|no greater than|no larger than|not exceeding|less than or equal to"
)
_ABOVE = "greater than|more than|larger than|bigger than|higher than|strictly greater than|exceeding"
_BELOW = "less than|fewer than|smaller than|lower than|strictly less than"
_SIGNS = {
    ">=": rf"{_LOWEST}|≥|>=|\\geq?(?![a-z])|\\geqslant",
    "<=": rf"{_HIGHEST}|≤|<=|\\leq?(?![a-z])|\\leqslant",
    ">": rf"{_ABOVE}|>|\\gt(?![a-z])",
    "<": rf"{_BELOW}|<|\\lt(?![a-z])",
}
BOUND_WORDS = rf"(?:{_LOWEST}|{_HIGHEST}|{_ABOVE}|{_BELOW})"
_SIGN = "|".join(f"(?:{words})" for words in _SIGNS.values())
_NUMBER = (
    r"[-−]?\s?(?:\d[\d.,]*(?:\s?/\s?\d+)?|\\(?:frac|sqrt|pi)[^=<>]{0,40}?|π)(?:\s?(?:%|\\%|°|[a-z]{1,12}))?"
)
_SUBJECT = (
    r"(?:(?:(?P<name>[A-Za-z])|it|they|(?:any|all|the) (?:real )?(?:values?|numbers?)(?: of [A-Za-z])?)\s+"
    r"(?:is|are|must be|has to be|should be|can be)\s+|(?:any|all)(?: real)? numbers? |)"
)
_BOUND = re.compile(
    rf"{_SUBJECT}(?P<first>{_SIGN})\s*(?P<a>{_NUMBER})"
    rf"(?:\s*,?\s*(?:and|but)(?: is)?\s+(?P<second>{_SIGN})\s*(?P<b>{_NUMBER}))?",
    re.IGNORECASE,
)
_OPEN_ENDED = re.compile(
    rf"{_SUBJECT}(?P<a>{_NUMBER})\s+(?:or|and)\s+(?:(?P<up>more|greater|above|larger|higher|over)|"
    "less|fewer|below|smaller|lower|under)",
    re.IGNORECASE,
)
_HAS_SIGN = re.compile(
    r"[<>≤≥]|\\[gl](?:e|t)|than|least|most|more|less|fewer|above|below|under|over|imum|exceed"
)


def read_bound(text: str) -> str | None:
    """An inequality or an interval in mathematics, for a text that only bounds a number; else None."""
    if len(text) > 120 or not _HAS_SIGN.search(text):
        return None
    match = _BOUND.fullmatch(text)
    if match is not None:
        bounds = [(_find_sign(match["first"]), match["a"])]
        if match["second"]:
            bounds.append((_find_sign(match["second"]), match["b"]))
        return _write(match["name"], bounds)
    match = _OPEN_ENDED.fullmatch(text)
    return None if match is None else _write(match["name"], [(">=" if match["up"] else "<=", match["a"])])


def is_bound(text: str) -> bool:
    """Whether a text, with its delimiters and emphasis, is a bound on a number and nothing else."""
    return len(text) <= 120 and _HAS_SIGN.search(text) is not None and read_bound(clean(text)) is not None


def _find_sign(words: str) -> str:
    return next(sign for sign, pattern in _SIGNS.items() if re.fullmatch(pattern, words, re.IGNORECASE))


def _write(name: str | None, bounds: list[tuple[str, str]]) -> str | None:
    """The bounds as an interval; as an inequality where they have a name. None for two of one side."""
    low = next(((sign, number) for sign, number in bounds if sign[0] == ">"), None)
    high = next(((sign, number) for sign, number in bounds if sign[0] == "<"), None)
    if len(bounds) == 2 and (low is None or high is None):
        return None
    if name is not None:
        left = f"{low[1]} {_FLIPPED[low[0]]} " if low else ""
        right = f" {_LATEX[high[0]]} {high[1]}" if high else ""
        return f"{left}{name}{right}"
    start = ("[" if low[0] == ">=" else "(") + low[1] if low else "(-\\infty"
    return f"{start}, {high[1]}{']' if high[0] == '<=' else ')'}" if high else f"{start}, \\infty)"


_LATEX = {"<": "<", "<=": "\\le"}
_FLIPPED = {">": "<", ">=": "\\le"}

"""Finds an answer of a form of its own in a sentence: a date, a time of day, an order, named values."""

from __future__ import annotations

import re

from openvlt.verify.parse.number_words import COUNT
from openvlt.verify.parse.wording.bounds import BOUND_WORDS
from openvlt.verify.parse.wording.dates import DATE_PATTERNS
from openvlt.verify.parse.wording.directions import DIRECTIONS

_LIMITS = ("not", "before", "after", "until", "by", "since", "or", "a", "the")
_NO_ANSWER = "".join(rf"(?<!\b{word} )" for word in _LIMITS)
"""What may not stand before an answer: `before 5 March` is no date."""
_VALUE = r"\$?[A-Za-z](?:_\{?\w\}?)?\s*=\s*[-−]?\d[\d./]*\$?"
_BOUND = r"[-−]?\d[\d.,/]*"
_ORDINALS = (
    "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|"
    r"\d{1,3}(?:st|nd|rd|th)"
)
_PLACED = r"(?:finish|finishes|finished|came|comes|come|ranks?|ranked|placed?|places|is|was|stands?|in|the)"
_END = r"[\s.!*]*$"
_FORMS = (  # what a look finds first, and the pattern
    # at a quarter to four
    (
        " past | to ",
        rf"{_NO_ANSWER}\b((?:a )?(?:quarter|half|(?:{COUNT}|\d{{1,2}})(?: minutes)?) (?:past|to) "
        rf"(?:{COUNT}|\d{{1,2}}|noon|midnight)"
        rf"(?: (?:in the (?:morning|afternoon|evening)|[ap]\.?m\b\.?))?){_END}",
    ),
    # b = 5 and a = 3
    ("=.*=", rf"({_VALUE}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+){_VALUE})+){_END}"),
    # from least to greatest: C < A < B
    (
        r": .*(?:[<>]|\\[lg]t)",
        rf"(?-i:[a-z]{{3}}):\s+(\$?[A-Za-z](?:\s*(?:[<>]|\\[lg]t\b)\s*[A-Za-z])+\$?){_END}",
    ),
    # finished third, in third place
    (
        r"(?:st|nd|rd|th)(?: place| position)?[\s.!*]*$",
        rf"\b{_PLACED} ((?:{_ORDINALS})(?=(?: (?:place|position))?{_END}))",
    ),
    # a dozen eggs
    ("dozen", rf"\b((?:half a|an?|{COUNT}|\d{{1,3}}) dozen)\b(?! or\b)(?=[a-z ]{{0,30}}{_END})"),
)
_PATTERNS = [(re.compile(sign), re.compile(pattern, re.IGNORECASE)) for sign, pattern in _FORMS]
_MONTH = re.compile("jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec")
_SEVERAL = re.compile(
    r"\b(?:or|either|between|than|about|from (?![a-z]+ to [a-z]+:).{1,40} to)\b", re.IGNORECASE
)
_DATES = "|".join(re.sub(r"[?]P<[a-z]+>", "?:", pattern.pattern) for pattern in DATE_PATTERNS[:2])
_DATE = re.compile(rf"{_NO_ANSWER}(?<![\w/-])(?:{_DATES})(?={_END})", re.IGNORECASE)
_WHERE = "(right|left|north|south|east|west|up|down|upwards?|downwards?)"
_LEADS = ("by ", "at ", "with ", " of ", "about ", "approximately ", "exactly ")
_LEADING = re.compile(
    rf"(?<![a-z-])({'|'.join(sorted(DIRECTIONS, key=len, reverse=True))}) (?:by|at|with) (?:an? [a-z]+ of )?"
    r"(?:about |approximately |exactly )?\$?$",
    re.IGNORECASE,
)
_ENDING = re.compile(rf"[\s$]{{0,3}},?\s{{1,3}}(?:due |to the )?{_WHERE}{_END}", re.IGNORECASE)
_DIRECTED = re.compile(
    r"\b(?:directed|direction|pointing|points|acts|acting|moves|moving|heading|headed|travel(?:s|ing|l?ed))"
    r",? (?:is |due |in the )?(?:to(?:ward|wards)? )?(?:the )?"
    rf"{_WHERE}\b(?!-)",
    re.IGNORECASE,
)


_BOUNDS = (
    re.compile(  # x > 3, 2 ≤ x ≤ 5
        rf"((?:{_BOUND}\s*(?:[<≤]|<=)\s*)?\b[a-z]\s*(?:[<>≤≥]=?)\s*{_BOUND}){_END}", re.IGNORECASE
    ),
    re.compile(rf"\b([a-z] (?:is|must be|has to be|should be) {BOUND_WORDS} {_BOUND}){_END}", re.IGNORECASE),
)


_RELATION = re.compile("[<>≤≥]")


def find_bound(sentence: str) -> str | None:
    """The bound on a named number that a sentence ends in: `x > 3`, `x must be at least 3`; else None."""
    ending = sentence[-100:]
    signs, words = _BOUNDS
    found = signs.search(ending) if _RELATION.search(ending) else None
    if found is None and ("than " in ending or " at least " in ending or " at most " in ending):
        found = words.search(ending)
    return found[1] if found else None


def find_form(sentence: str) -> str | None:
    """The date, time, order, place, dozen or list of named values that a sentence ends in; else None."""
    ending = sentence[-100:]
    for sign, pattern in _PATTERNS:
        found = pattern.search(ending) if sign.search(ending) else None
        if found:
            return None if _SEVERAL.search(sentence) else found[1]
    found = _DATE.search(ending) if _MONTH.search(ending.lower()) else None
    return found[0] if found and not _SEVERAL.search(sentence) else None


def find_direction(before: str, rest: str) -> str:
    """The one direction that a sentence gives its value: `to the right`, `fell` of `fell by`; else ""."""
    leading = _LEADING.search(before[-60:]) if before.rstrip("$").endswith(_LEADS) else None
    if leading:
        return f" {leading[1].lower()}"
    if len(rest) < 3:
        return ""
    ending = _ENDING.match(rest)
    found = {match[1].lower() for match in (*_DIRECTED.finditer(rest), *((ending,) if ending else ()))}
    if len(found) != 1:
        return ""
    word = found.pop()
    return f" to the {word}" if word in ("right", "left", "north", "south", "east", "west") else f" {word}"

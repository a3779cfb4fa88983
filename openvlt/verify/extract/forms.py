"""Finds an answer of a form of its own in a sentence: a date, a time of day, an order, named values."""

from __future__ import annotations

import re

from openvlt.verify.parse.number_words import COUNT
from openvlt.verify.parse.wording.dates import DATE_PATTERNS

_LIMITS = ("not", "before", "after", "until", "by", "since", "or", "a", "the")
_NO_ANSWER = "".join(rf"(?<!\b{word} )" for word in _LIMITS)
"""What may not stand before an answer: `before 5 March` is no date."""
_VALUE = r"\$?[A-Za-z](?:_\{?\w\}?)?\s*=\s*[-−]?\d[\d./]*\$?"
_ORDINALS = (
    "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|"
    r"\d{1,3}(?:st|nd|rd|th)"
)
_PLACED = r"(?:finish|finishes|finished|came|comes|come|ranks?|ranked|placed?|places|is|was|stands?|in|the)"
_END = r"[\s.!*]*$"
_FORMS = (
    # at a quarter to four
    re.compile(
        rf"{_NO_ANSWER}\b((?:a )?(?:quarter|half|(?:{COUNT}|\d{{1,2}})(?: minutes)?) (?:past|to) "
        rf"(?:{COUNT}|\d{{1,2}}|noon|midnight)"
        rf"(?: (?:in the (?:morning|afternoon|evening)|[ap]\.?m\b\.?))?){_END}",
        re.IGNORECASE,
    ),
    # b = 5 and a = 3
    re.compile(rf"({_VALUE}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+){_VALUE})+){_END}"),
    # from least to greatest: C < A < B
    re.compile(rf"[a-z]{{3}}:\s+(\$?[A-Za-z](?:\s*(?:[<>]|\\[lg]t\b)\s*[A-Za-z])+\$?){_END}"),
    # finished third, in third place
    re.compile(
        rf"\b{_PLACED} ((?:{_ORDINALS})(?=(?: (?:place|position))?{_END}))",
        re.IGNORECASE,
    ),
    # a dozen eggs
    re.compile(
        rf"\b((?:half a|an?|{COUNT}|\d{{1,3}}) dozen)\b(?! or\b)(?=[a-z ]{{0,30}}{_END})", re.IGNORECASE
    ),
)
_SIGNS = re.compile(r"dozen|past| to |[=<>]|(?:st|nd|rd|th)\b|\\[lg]t\b", re.IGNORECASE)
_SEVERAL = re.compile(
    r"\b(?:or|either|between|than|about|from (?![a-z]+ to [a-z]+:).{1,40} to)\b", re.IGNORECASE
)
_DATES = "|".join(re.sub(r"[?]P<[a-z]+>", "?:", pattern.pattern) for pattern in DATE_PATTERNS[:2])
_DATE = re.compile(rf"{_NO_ANSWER}(?<![\w/-])(?:{_DATES})(?={_END})", re.IGNORECASE)
_WHERE = "(right|left|north|south|east|west|up|down|upwards?|downwards?)"
_ENDING = re.compile(rf"[\s$]{{0,3}},?\s{{1,3}}(?:due |to the )?{_WHERE}{_END}", re.IGNORECASE)
_DIRECTED = re.compile(
    r"\b(?:directed|direction|pointing|points|acts|acting|moves|moving|heading|headed|travel(?:s|ing|l?ed))"
    r",? (?:is |due |in the )?(?:to(?:ward|wards)? )?(?:the )?"
    rf"{_WHERE}\b(?!-)",
    re.IGNORECASE,
)


def find_form(sentence: str) -> str | None:
    """The date, time, order, place, dozen or list of named values that a sentence ends in; else None."""
    if _SIGNS.search(sentence) and not _SEVERAL.search(sentence):
        for pattern in _FORMS:
            found = pattern.search(sentence[-200:])
            if found:
                return found[1]
    if any(char.isdigit() for char in sentence[-30:]) and not _SEVERAL.search(sentence):
        found = _DATE.search(sentence[-60:])
        return found[0] if found else None
    return None


def find_direction(rest: str) -> str:
    """The one direction that the rest of a sentence gives its value: `to the right`; else empty."""
    ending = _ENDING.match(rest)
    found = {match[1].lower() for match in (*_DIRECTED.finditer(rest), *((ending,) if ending else ()))}
    if len(found) != 1:
        return ""
    word = found.pop()
    return f" to the {word}" if word in ("right", "left", "north", "south", "east", "west") else f" {word}"

"""Finds the one value of a sentence: `So the total cost is $48, which is $12 less` means 48 dollars."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from openvlt.verify.denials import drop_denied
from openvlt.verify.extract import patterns as p
from openvlt.verify.extract.forms import find_direction, find_form
from openvlt.verify.extract.yes_no import begins_with_truth
from openvlt.verify.parse.number_words import COUNT
from openvlt.verify.parse.units import lookup_unit

_NUMBER = (
    r"(?:[$€£¥]\s?)?-?(?:\d{1,3} \d{1,2}/\d{1,3}|"
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\s?:\s?\d{1,3}(?: \d{3})+(?!\d)|\d+(?:\.\d+)?\s?:\s?\d+(?:\.\d+)?|"
    r"\d+\s+out\s+of\s+\d+|√\d+|\d+(?:\.\d+)?|\.\d+)"
    r"(?:\s*(?:/\s*\d+|\\?%|°|percent\b)|\s?(?:π|pi\b|√\d+))?"
    r"(?:\s*[×x]\s*10(?:\^?\{?-?\d+\}?|⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))?"
)
_VALUE = rf"(?:\$[^$\n]{{1,80}}\$|\\\([^\n]{{1,80}}?\\\)|\*\*[^*\n]{{1,60}}\*\*|{_NUMBER})"
_NUMBERS = re.compile(
    rf"(?<![A-Za-z0-9_.,])(?<![^=-][<>≤≥≠])(?<![^=-][<>≤≥≠] )(?:{_NUMBER})(?![A-Za-z0-9_]|[,.]\d)"
)
"""The numbers of a sentence, without those that bound another one (`x > 3`)."""
_TWO_COUNTS = re.compile(
    rf"\b(?:there (?:is|are|was|were)|has|have|had|contains?|shows?|consists? of|includes?) "
    rf"(?:only |exactly )?{_NUMBER} ([a-z]+) and (?:[a-z]+ )?{_NUMBER} ([a-z]+)\W*$",
    re.IGNORECASE,
)
"""`There are 4 cats and 5 dogs.`"""
_NUMBER_WORD = re.compile(rf"\b{COUNT}\b", re.IGNORECASE)
_MATH_SPAN = re.compile(r"\$\$?[^$]{1,400}\$\$?(?!\d)|\\\(.{1,400}?\\\)|\\\[.{1,400}?\\\]", re.DOTALL)
BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_HAS_CONTENT = re.compile(r"[\d=<>]|\\[a-z]")

_AFTER_EQUALS = re.compile(rf"[=≈]\s*({_VALUE}(?:\s?[A-Za-z°%²³/^{{}}\\]{{1,15}}){{0,3}})$")
_LISTED = re.compile(rf"\bare:?\s+({_VALUE}(?:,\s+{_VALUE})*,?\s+and\s+{_VALUE})$")
_EITHER = re.compile(rf"\b(?:is|are|=)\s+({_VALUE},?\s+or\s+{_VALUE})$")
_COPULA = r"\b(?:is|are|was|were|equals|becomes|totals|gives?|yields?|makes?|leaves?)\s"
_FINAL_IS = re.compile(
    rf"(?:(?!{_COPULA}).)*{_COPULA}+(?:equal to\s|about\s|approximately\s|exactly\s|only\s)?"
    rf"({_VALUE}(?:\s?[A-Za-z°%²³/]{{1,15}}){{0,2}})$",
    re.IGNORECASE,
)
_LAST_EQUALS = re.compile(
    rf"=\s*({_NUMBER})(?=\s+(?:more|less|fewer|times|units?|in total)\b)(?!.*=)", re.IGNORECASE
)
_TOTAL = re.compile(
    rf"\b(?:for|or|is|are|was|were|makes?|making|giving) (?:a|the|in) total(?: of)?\s+({_VALUE})",
    re.IGNORECASE,
)
_THERE = re.compile(
    rf"\bthere (?:is|are|was|were|will be|would be)\s+(?:(?:a total of|only|exactly|about|approximately|"
    rf"also)\s+)?({_VALUE}|{COUNT}\b)",
    re.IGNORECASE,
)
_AFTER_IS = re.compile(
    rf"(?:\b(?:is|are|was|were|be|equals?|has|have|shows?|contains?|totals?|gives?|gives us|get|becomes?|"
    rf"took|takes|needs?|sold|left|remain|number|value)|(?<!\d )\b(?:of|to))\s+(?:equal to\s+|about\s+|"
    rf"approximately\s+|around\s+|roughly\s+|exactly\s+|a total of\s+|only\s+|the\s+)?({_VALUE})",
    re.IGNORECASE,
)
_CHINESE_IS = re.compile(rf"(?:为|是|等于|共有?|有|得)\s*({_VALUE})")
_IS_NUMBER = rf"{_COPULA}[-$]{{0,2}}\d"
_TWO_CLAIMS = re.compile(rf"{_IS_NUMBER}[^;]{{0,40}}?\sand\s[^;]{{0,60}}?{_IS_NUMBER}", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"[^.;=]{0,20}\s(?:or|to)\s+\S*\d|[\u4e00-\u9fff]{0,4}(?:或|至|到|~)\s*\d")
_UNIT_AFTER = re.compile(
    r"\s?(?!(?:to|for|on|in|of|at|by|from|is|are|was|were|and|or|than|more|less|fewer|the|that|which|while|"
    r"when|as|but|so|if|after|before|with)\b)(?:[A-Za-z°%Ωμµ]+(?:/[a-z]+)?(?:\s?\^?[23])?|"
    r"[\u4e00-\u9fff]{1,4})(?=[\s.,:;)。，]|$)"
)

_BETWEEN = re.compile(rf"\b(?:between|from)\s+{_VALUE}(?:\s[a-z]+)?\s+(?:and|to)\s+{_VALUE}", re.IGNORECASE)
_BECAUSE = re.compile(
    r",?\s+(?:because|since|as (?:there (?:is|are)|it|they|we)|due to)\b|，?因为", re.IGNORECASE
)
_TAKEN_BACK = re.compile(
    r"\b(?:was|were|thought|guess(?:ed)?|first|initially|originally|expected|might|would|looks?|"
    r"seems?)\b[^.]{0,120}?,?\s+but\s+(?=\D{0,60}\d)",
    re.IGNORECASE,
)
_WHERE = re.compile(r"^(?:in|by|from|during|after|on|at|for|of)\s+[^,]{1,60},\s+(?=.*\d)", re.IGNORECASE)
_PREMISE = re.compile(r"^(?:given|since|because|if|as|when|assuming)\b.*,\s+(?=[^,]*\d)", re.IGNORECASE)
_SIDE_CLAUSE = re.compile(
    r",?\s+(?:with|which|while|whereas|compared|followed|because|since|as|so that|where|when|if|although|"
    r"but|and)\b|,(?!\s*[-$_]?\d|\s*_)|，|[:：](?!\s?\d+\b(?!\s+[a-z]))",
    re.IGNORECASE,
)


_DIGIT = re.compile(r"\d")


def cut_reasons(text: str) -> str:
    """The claim of `15, since 5·3 = 15` without its reason; the whole text if the claim has no number."""
    claim = _BECAUSE.split(text, maxsplit=1)[0] if len(text) > 7 else text
    return claim if _DIGIT.search(claim) else text


_CHANGES_NEXT = re.compile(
    r"\b(?:(?:the|a|an)\s+)?(?:(?:negative|minus|half|twice|thrice|double|triple)\s+(?:of\s+)?|"
    r"(?:half|third|quarter|fifth|tenth|square|cube|(?:square|cube|fourth|fifth)\s+root|root|log|logarithm|ln|sine?|"
    r"cosine|tangent|reciprocal|inverse|opposite|negative|absolute\s+value|factorial|digit\s+sum|complement|"
    r"supplement|multiple|factor|divisor|\d+(?:\.\d+)?\s?(?:%|percent))\s+of\s+)+$",
    re.IGNORECASE,
)
_CHANGING = ("of", "negative", "minus", "half", "twice", "thrice", "double", "triple")
_CHANGES_LAST = re.compile(
    r"\s+(?:squared|cubed|doubled|tripled|halved|factorial|divided by\s+\d+|times\s+\d+|percent of\s+\d+)\b",
    re.IGNORECASE,
)
"""Words that change a value; reading them, or refusing to, is the parser's business."""


_NAMED_ANSWER = re.compile(
    r"\b(no (?:real )?solutions?|does not exist|infinitely many solutions|"
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day)"
    r"\W*$|\b(?:is|says|reads|spells|called|named)\s+[\"“]([^\"“”]{1,40})[\"”]\W*$",
    re.IGNORECASE,
)
"""An answer that is no number, at the end of its sentence."""
_ENDING = 120
"""Characters at the end of a sentence in which such an answer stands."""


def find_value(sentence: str) -> str | None:
    """The one value of a sentence, with the words that change it; None if it gives none or several."""
    named = _NAMED_ANSWER.search(sentence[-_ENDING:])
    if named:
        return named[1] or named[2]
    form = None if begins_with_truth(sentence) else find_form(sentence)
    value = form or _find_value(sentence)
    if value is None or value == sentence or form:
        return value
    at = sentence.rfind(value)
    leading = sentence[max(0, at - 60) : max(at, 0)]
    before = _CHANGES_NEXT.search(leading) if leading.rstrip().lower().endswith(_CHANGING) else None
    after = _CHANGES_LAST.match(sentence, at + len(value)) if at >= 0 else None
    direction = find_direction(sentence[:at], sentence[at + len(value) :]) if at >= 0 else ""
    return (before[0] if before else "") + value + (after[0] if after else direction)


def _find_value(sentence: str) -> str | None:
    if begins_with_truth(sentence):
        return sentence
    if p.OTHERWISE.search(sentence):
        return None
    sentence = _TAKEN_BACK.sub("", cut_reasons(" ".join(_BETWEEN.sub(" ", drop_denied(sentence)).split())))
    spans = [span for span in _MATH_SPAN.findall(sentence) if _HAS_CONTENT.search(span[1:-1])]
    if len(spans) == 1 and not _NUMBERS.search(_MATH_SPAN.sub(" ", sentence)):
        return spans[0]
    marker = list(p.CONCLUSION.finditer(sentence))
    if marker and marker[-1].start() > 0 and (value := _find_value(sentence[marker[-1].end() :])) is not None:
        return value
    sentence = _WHERE.sub("", sentence.rstrip(" .。!*"))
    bold = BOLD.findall(sentence + "**" * (sentence.count("**") % 2))
    if len(bold) == 1 and len(bold[0].split()) <= 6:
        return bold[0].strip(" .:")
    match = (
        _AFTER_EQUALS.search(sentence)
        or _LISTED.search(sentence)
        or _EITHER.search(sentence)
        or _FINAL_IS.match(sentence)
    )
    return match[1] if match else _find_unmarked_value(sentence)


def _find_unmarked_value(sentence: str) -> str | None:
    """The value of a sentence without mathematics or emphasis.

    Tried in this order: after "there are" or "in total", the only number, after "is", the only number word.
    """
    counts = _TWO_COUNTS.search(sentence) if " and " in sentence else None
    if counts and not (lookup_unit(counts[1]) and lookup_unit(counts[2])):
        return None  # 4 cats and 5 dogs
    for pattern in (_LAST_EQUALS, _TOTAL, _THERE):
        found = list(pattern.finditer(sentence))
        if found:
            return _append_unit(sentence, found[-1][1])
    if _TWO_CLAIMS.search(sentence):
        return None
    for clause in _iter_clauses(_PREMISE.sub("", sentence)):
        numbers = list(dict.fromkeys(m.group().strip() for m in _NUMBERS.finditer(clause)))
        if len(numbers) == 1:
            return _append_unit(clause, numbers[0])
    for pattern in (_AFTER_IS, _CHINESE_IS):
        found = list(pattern.finditer(sentence))
        if found:
            return _append_unit(sentence, found[-1][1])
    if _NUMBERS.search(sentence):
        return None
    words = {m.group().lower() for m in _NUMBER_WORD.finditer(sentence)}
    return words.pop() if len(words) == 1 else None


def _iter_clauses(sentence: str) -> Iterator[str]:
    """Yields the sentence, then the part before its first side clause, before its second, … (at most ten)."""
    yield sentence
    for separator in islice(_SIDE_CLAUSE.finditer(sentence), 10):
        yield sentence[: separator.start()]


def _append_unit(sentence: str, number: str) -> str | None:
    """The number with the word after it, which may be its unit; None if it is one of two (`12 or 13`)."""
    rest = sentence[sentence.rfind(number) + len(number) :]
    if _ALTERNATIVE.match(rest):
        return None
    match = _UNIT_AFTER.match(rest)
    return number + (match.group() if match else "")

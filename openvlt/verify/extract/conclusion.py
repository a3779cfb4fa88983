"""The answer of a response that announces none: what its conclusion, or else its first or last sentence, says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from openvlt.verify.extract import patterns as p
from openvlt.verify.extract.sentence import BOLD, value_in
from openvlt.verify.options import REJECTED, mentions_option
from openvlt.verify.parse.normalize import fold
from openvlt.verify.parse.number_words import refuses

_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z*\\$(\d\"'])|(?<=。)")
_LETTERED = re.compile(
    r"\(([A-Z])\)|(?i:option|choice|选项|answer|target|figure|picture|image|diagram|drawing)\s*\(?([A-Z])\b|"
    r"^\W{0,3}([A-Z])[.):](?=\s|$)|"
    r"\b(?:is|be)\s+([A-Z])(?=\s*[.,;!]|\s*$)"
)
_LABELLED_LINE = re.compile(r"\(?([A-Z])[).:]\s")
_THAN = re.compile(
    r"\s(?:than|compared (?:to|with)|instead of|followed by|whereas|while|because|since)\s", re.IGNORECASE
)
_DANGLING = re.compile(
    r"(?:\s(?:is|are|was|were|be|has|have|and|or|but|the|an?|of|to|by|with|for|from|that|which|than|then|so|we|our|its|"
    r"equals?|because|since|therefore|thus|if|when)|\w\s*[=+*/<>]|,\s+(?:the|and|so|but|while)\s+\w+)$",
    re.IGNORECASE,
)
SENTENCE_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|get|got|gives|obtain|find|found|needs?|so|"
    r"therefore|thus|hence)\s",
    re.IGNORECASE,
)
_NOT_THIS = re.compile(
    r"(?:\b(?:not|cannot|never)|n't)\s+(?:be\s+)?(?:(?:an?|the)\s+)?(?:(?:option|choice|answer)\s+)?[(\[]?\w+[)\]]?",
    re.IGNORECASE,
)
SEVERAL = "several options named"
_TABLE_ROW = re.compile(r"^\s*\||\|.*\||^\s*[-|: ]+$|^```")


def conclusion(lines: Sequence[str], choices: Sequence[str] | None) -> tuple[str | None, str]:
    """The answer and the rule that found it; (None, why) when the text commits itself to nothing."""
    if lines and lines[-1].endswith(","):
        return None, "cut off in a list"
    if lines and _DANGLING.search(lines[-1]):
        return None, "cut off in a sentence"
    sentences = _sentences(lines)
    if not sentences:
        return (lines[-1], "last line") if lines else (None, "nothing there")
    closing = sentences[-2:]
    if any(map(p.OTHERWISE.match, closing)):
        return None, "it depends"
    if choices:
        return _choice(_without_listing(sentences), choices)
    concluding = [s for s in sentences[-4:] if p.CONCLUSION.search(s)]
    emphasised = [s for s in sentences[:2] if len(BOLD.findall(s)) == 1]
    for sentence in (*reversed(concluding), *emphasised, sentences[-1], sentences[0]):
        if refuses(sentence):
            return None, "a refusal"
        value = value_in(sentence)
        if value is not None:
            return value, "conclusion"
    if any(map(refuses, closing)):
        return None, "a refusal"
    return sentences[-1][:300], "last sentence"


def _sentences(lines: Sequence[str]) -> list[str]:
    """Sentences of prose in order; tables, code, headings and pleasantries are left out."""
    prose = [line for line in lines[-60:] if not _TABLE_ROW.search(line)]
    found = [s.strip() for line in prose for s in _SENTENCE.split(line[-2_000:]) if s.strip(" *#-")]
    found = [s for s in found if not p.PLEASANTRY.match(s) and not _is_series(s)]
    for index in range(len(found) - 2, -1, -1):  # "we get the area as follows:" and what follows
        if found[index].endswith(":") and p.CONCLUSION.search(found[index]):
            found[index : index + 2] = [f"{found[index]} {found[index + 1]}"]
    return found


def _is_series(sentence: str) -> bool:
    """`1, 2, 3, __, 5` is no sentence."""
    return sentence.count(",") >= 2 and not any(char.isalpha() for char in sentence)


def _choice(sentences: Sequence[str], choices: Sequence[str]) -> tuple[str | None, str]:
    """The only option that the last sentence naming any option names."""
    for sentence in reversed(sentences[-6:]):
        if refuses(sentence, choices):
            return None, "a refusal"
        marker = list(p.CONCLUSION.finditer(sentence))
        named = (marker and _named(sentence[marker[-1].end() :], choices)) or _named(sentence, choices)
        if len(named) == 1:
            return named[0], "the only option named"
        if named:
            value = value_in(sentence)
            return (value, "conclusion") if value is not None else (None, SEVERAL)
        value = value_in(sentence)
        if value is not None and p.CONCLUSION.search(sentence):
            return value, "conclusion"
    value = value_in(sentences[-1])
    return (value, "conclusion") if value is not None else (sentences[-1][:300], "last sentence")


def _without_listing(sentences: list[str]) -> list[str]:
    """Options repeated at the end, `(A) 1`, `(B) 2`, …, are the question again."""
    labels = [match[1] if (match := _LABELLED_LINE.match(sentence)) else "" for sentence in sentences]
    start = len(sentences)
    while start and labels[start - 1]:
        start -= 1
    return sentences[:start] if labels[start : start + 2] == ["A", "B"] and start else sentences


def _named(sentence: str, choices: Sequence[str]) -> list[str]:
    """Options a sentence names by letter, else by text; a text inside a longer option's text doesn't count."""
    if not any(re.search(r"\b(?:not|wrong|incorrect)\b|n't\b", choice) for choice in choices):
        sentence = _NOT_THIS.sub(" ", REJECTED.sub(" ", sentence))
    letters = {next(filter(None, m.groups())) for m in _LETTERED.finditer(sentence)}
    letters = {letter for letter in letters if ord(letter) - 65 < len(choices)}
    if letters:
        return [f"({letter})" for letter in sorted(letters)]
    folded = [fold(choice) for choice in choices]
    named = mentions_option(folded, fold(sentence))
    if len(named) > 1 and (than := _THAN.search(sentence)):  # "the sun is larger than the moon" says the sun
        named = mentions_option(folded, fold(sentence[: than.start()]))
    return [choices[index] for index in named]

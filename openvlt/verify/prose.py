"""The answer of a response that announces none: what its conclusion, or else its first or last sentence, says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from openvlt.verify import phrases as p
from openvlt.verify.choices import mentioned
from openvlt.verify.text import fold
from openvlt.verify.words import SMALL, refuses, yes_no

_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z*\\$(\d\"'])|(?<=。)")
_NUMBER = (r"(?:[$€£¥]\s?)?-?(?:\d{1,3}(?:,\d{3})+|\d+)?\.?\d+(?:\s*(?:/\s*\d+|\\?%|°|percent\b))?"
           r"(?:\s*[×x]\s*10\^?\{?-?\d+\}?)?")
_VALUE = rf"(?:\$[^$\n]{{1,80}}\$|\\\([^\n]{{1,80}}?\\\)|\*\*[^*\n]{{1,60}}\*\*|{_NUMBER})"
_NUMBERS = re.compile(rf"(?<![\w.,])(?:{_NUMBER})(?![\w]|[,.]\d)")
_MATH_SPAN = re.compile(r"\$\$?[^$]{1,400}\$\$?(?!\d)|\\\(.{1,400}?\\\)|\\\[.{1,400}?\\\]", re.DOTALL)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_AFTER_EQUALS = re.compile(rf"[=≈]\s*({_VALUE}(?:\s?[A-Za-z°%²³/^{{}}\\]{{1,15}}){{0,3}})$")
_LAST_EQUALS = re.compile(rf"=\s*({_NUMBER})(?=\s+(?:more|less|fewer|times|units?|in total)\b)(?!.*=)", re.IGNORECASE)
_COUNT = f"(?:{'|'.join(SMALL)})"
_THERE = re.compile(
    rf"\bthere (?:is|are|was|were|will be|would be)\s+(?:(?:a total of|only|exactly|about|approximately|also)\s+)?"
                    rf"({_VALUE}|{_COUNT}\b)", re.IGNORECASE)
_AFTER_IS = re.compile(
    rf"\b(?:is|are|was|were|be|equals?|of|to|has|have|shows?|contains?|totals?|gives?|gives us|get|becomes?|took|"
    rf"takes|needs?|sold|left|remain)\s+"
    rf"(?:equal to\s+|about\s+|approximately\s+|around\s+|roughly\s+|exactly\s+|a total of\s+|only\s+|"
    rf"the\s+)?({_VALUE})", re.IGNORECASE)
_SIDE_CLAUSE = re.compile(r",?\s+(?:with|which|while|whereas|compared|followed|because|since|as|so that|where|when|if|"
                          r"although|but|and)\b.*|,.*",
                          re.IGNORECASE | re.DOTALL)
_CHINESE_IS = re.compile(rf"(?:为|是|等于|共有?|有|得)\s*({_VALUE}[\u4e00-\u9fff]{{0,6}})")
_NUMBER_WORD = re.compile(rf"\b{_COUNT}\b", re.IGNORECASE)
_LETTERED = re.compile(
    r"\(([A-Z])\)|(?:option|choice|选项|answer|target|figure|picture)\s*\(?([A-Z])\b|^\W{0,3}([A-Z])[.):](?=\s|$)|"
    r"\b(?:is|be)\s+([A-Z])(?=\s*[.,;!]|\s*$)")
_LABELLED_LINE = re.compile(r"\(?([A-Z])[).:]\s")
_SAYS_SOMETHING = re.compile(r"[\d=<>]|\\[a-z]")
_ALTERNATIVE = re.compile(r"[^.;=]{0,20}\s(?:or|to)\s+\S*\d")
_DENIED = re.compile(rf"(?:\bnot|n't|\bnever)\s+(?:be\s+)?(?:equal to\s+)?(?:the\s+)?{_VALUE}")
SENTENCE_VERB = re.compile(r"\b(?:is|are|was|were|has|have|so|therefore|thus|hence)\s", re.IGNORECASE)
SEVERAL = "several options named"
_TABLE_ROW = re.compile(r"^\s*\||\|.*\||^\s*[-|: ]+$|^```")


def conclusion(lines: Sequence[str], choices: Sequence[str] | None) -> tuple[str | None, str]:
    """The answer and the rule that found it; (None, why) when the text commits itself to nothing."""
    if lines and lines[-1].endswith(","):
        return None, "cut off in a list"
    sentences = _sentences(lines)
    if not sentences:
        return (lines[-1], "last line") if lines else (None, "nothing there")
    closing = sentences[-2:]
    if choices:
        return _choice(_without_listing(sentences), choices)
    concluding = [s for s in sentences[-4:] if p.CONCLUSION.search(s)]
    emphasised = [s for s in sentences[:2] if len(_BOLD.findall(s)) == 1]
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
    return [s for s in found if not p.PLEASANTRY.match(s) and not _is_series(s)]


def _is_series(sentence: str) -> bool:
    """`1, 2, 3, __, 5` is no sentence."""
    return sentence.count(",") >= 2 and not any(char.isalpha() for char in sentence)


def value_in(sentence: str) -> str | None:
    """The one value a sentence commits to, None if it names none or several."""
    if yes_no(sentence) is not None and re.match(r"\W*(?:yes|no|true|false)\b", sentence, re.IGNORECASE):
        return sentence
    sentence = _DENIED.sub(" ", sentence)
    spans = _MATH_SPAN.findall(sentence)
    elsewhere = _NUMBERS.search(_MATH_SPAN.sub(" ", sentence))
    if len(spans) == 1 and not elsewhere and _SAYS_SOMETHING.search(spans[0][1:-1]):
        return spans[0]
    marker = list(p.CONCLUSION.finditer(sentence))
    if marker and marker[-1].start() > 0 and (value := value_in(sentence[marker[-1].end():])) is not None:
        return value
    sentence = sentence.rstrip(" .。!*")
    bold = _BOLD.findall(sentence + "**" * (sentence.count("**") % 2))
    if len(bold) == 1 and len(bold[0].split()) <= 6:
        return bold[0].strip(" .:")
    match = _AFTER_EQUALS.search(sentence)
    if match:
        return match[1]
    match = _LAST_EQUALS.search(sentence)
    if match:
        return _with_unit(sentence, match[1])
    there = list(_THERE.finditer(sentence))
    if there:
        return _with_unit(sentence, there[-1][1])
    for clause in (sentence, _SIDE_CLAUSE.sub("", sentence)):
        numbers = list(dict.fromkeys(m.group().strip() for m in _NUMBERS.finditer(clause)))
        if len(numbers) == 1:
            return _with_unit(clause, numbers[0])
    for pattern in (_AFTER_IS, _CHINESE_IS):
        found = list(pattern.finditer(sentence))
        if found:
            return _with_unit(sentence, found[-1][1])
    words = {m.group().lower() for m in _NUMBER_WORD.finditer(sentence)}
    return words.pop() if len(words) == 1 and not _NUMBERS.search(sentence) else None


def _with_unit(sentence: str, number: str) -> str | None:
    """The number and the word after it, which may be its unit; None if it is one of two (`12 or 13`)."""
    rest = sentence[sentence.rfind(number) + len(number):]
    if _ALTERNATIVE.match(rest):
        return None
    match = re.match(r"\s?(?:[A-Za-z°%]+(?:/[a-z]+)?(?:\s?\^?[23])?|[\u4e00-\u9fff]{1,4})(?=[\s.,;)]|$)", rest)
    return number + (match.group() if match else "")


def _choice(sentences: Sequence[str], choices: Sequence[str]) -> tuple[str | None, str]:
    """The only option that the last sentence naming any option names."""
    for sentence in reversed(sentences[-6:]):
        if refuses(sentence, choices):
            return None, "a refusal"
        marker = list(p.CONCLUSION.finditer(sentence))
        named = (marker and _named(sentence[marker[-1].end():], choices)) or _named(sentence, choices)
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
    return sentences[:start] if labels[start:start + 2] == ["A", "B"] and start else sentences


def _named(sentence: str, choices: Sequence[str]) -> list[str]:
    """Options a sentence names by letter, else by text; a text inside a longer option's text doesn't count."""
    letters = {next(filter(None, m.groups())) for m in _LETTERED.finditer(sentence)}
    letters = {letter for letter in letters if ord(letter) - 65 < len(choices)}
    if letters:
        return [f"({letter})" for letter in sorted(letters)]
    folded = [fold(choice) for choice in choices]
    return [choices[index] for index in mentioned(folded, fold(sentence))]

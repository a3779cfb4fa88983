"""Finds an answer that is not announced: in the conclusion, else in the first or last sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from openvlt.verify.denials import drop_denied, has_value, is_denial, says_something, tidy
from openvlt.verify.extract import patterns as p
from openvlt.verify.extract.forms import find_bound
from openvlt.verify.extract.sentence import BOLD, find_value
from openvlt.verify.extract.yes_no import begins_with_truth, read_truth
from openvlt.verify.options import find_mentioned_options
from openvlt.verify.parse.normalize import fold
from openvlt.verify.parse.number_words import is_refusal

_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z*\\$(\d\"'])|(?<=。)")
_LETTERED = re.compile(
    r"\(([A-Z])\)|(?i:option|choice|选项|answer|target|figure|picture|image|diagram|drawing)\s*\(?([A-Z])\b|"
    r"^\W{0,3}([A-Z])[.):](?=\s|$)|(?:\b(?:is|be)|['’]s)\s+([A-Z])(?=\s*[.,;!]|\s*$)"
)
_LABELLED_LINE = re.compile(r"\(?([A-Z])[).:]\s")
_THAN = re.compile(
    r"\s(?:than|compared (?:to|with)|instead of|followed by|whereas|while|because|since)\s", re.IGNORECASE
)
_DANGLING = frozenset(
    "is are was were be has have and or but the a an of to by with for from that which than then so we our "
    "its equals because since therefore thus if when".split()
)
"""Words that no sentence ends in."""
_CUT_OFF = re.compile(r"(?:\w\s*[=+*/<>]|,\s+(?:the|and|so|but|while)\s+[^\W\d]\w*)$", re.IGNORECASE)
SENTENCE_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|get|got|gives|obtain|find|found|needs?|so|"
    r"therefore|thus|hence)\s",
    re.IGNORECASE,
)
NAMED = ("conclusion", "the only option named")
"""The rules that find an answer in a sentence, in contrast to taking the sentence itself."""
SEVERAL = "several options named"
_SAYS_ANYTHING = re.compile(r"[\w$\\∞∅]")
_TABLE_ROW = re.compile(r"^\s*\||\|.*\||^\s*[-|: ]+$|^```")


def find_conclusion(lines: Sequence[str], choices: Sequence[str] | None) -> tuple[str | None, str]:
    """The answer and the rule that found it; (None, reason) where the text gives no single answer."""
    if lines and lines[-1].endswith(","):
        return None, "cut off in a list"
    if lines and is_cut_off(lines[-1][-100:]):
        return None, "cut off in a sentence"
    sentences = _split_sentences(lines)
    if not sentences:
        return (lines[-1], "last line") if lines else (None, "nothing there")
    closing, stated = sentences[-2:], sentences[-1]
    bound = None if choices else find_bound(stated)
    if bound is not None:
        return bound, "conclusion"
    sentences = _settle_sentences(sentences, choices)
    if any(map(p.OTHERWISE.match, closing)):
        return None, "it depends"
    if choices:
        return _find_choice(_drop_option_list(sentences), choices)
    concluding = [s for s in sentences[-4:] if p.CONCLUSION.search(s)]
    emphasised = [s for s in sentences[:2] if len(BOLD.findall(s)) == 1]
    for sentence in (*reversed(concluding), *emphasised, sentences[-1], sentences[0]):
        if is_refusal(sentence):
            return None, "a refusal"
        value = find_value(sentence)
        if value is not None:
            return value, "conclusion"
    if any(map(is_refusal, closing)):
        return None, "a refusal"
    return _take_sentence(stated, sentences[-1])


def is_cut_off(line: str) -> bool:
    """Whether a line ends in the middle of a sentence."""
    words = line.split()
    return len(words) > 1 and words[-1].lower() in _DANGLING or _CUT_OFF.search(line) is not None


def denies_in_options(choices: Sequence[str] | None) -> bool:
    """Whether an option denies something (`not red`), so that a denial may be the answer."""
    return any(is_denial(choice) and not is_refusal(choice) for choice in choices or ())


def _take_sentence(stated: str, settled: str) -> tuple[str | None, str]:
    """The last sentence, without what is denied in it if that leaves a statement."""
    if settled == stated or read_truth(stated) is not None:
        return stated[:300], "last sentence"
    return (settled[:300], "last sentence") if says_something(settled) else (None, "the claim is denied")


def _settle_sentences(sentences: list[str], choices: Sequence[str] | None) -> list[str]:
    """The sentences without denied values: the first two and the last six, which alone are read."""
    if len(sentences) > 8:
        sentences = sentences[:2] + sentences[-6:]
    settled = drop_denied("\n".join(sentences), letters=bool(choices), words=bool(choices)).split("\n")
    if settled == sentences or denies_in_options(choices):
        return sentences
    return [
        old if new == old or is_refusal(old) or begins_with_truth(old) and not has_value(new) else tidy(new)
        for old, new in zip(sentences, settled, strict=True)
    ]


def _split_sentences(lines: Sequence[str]) -> list[str]:
    """The sentences of prose in order, without tables, code, headings and pleasantries."""
    prose = [
        line for line in lines[-60:] if line[:1].isalpha() and "|" not in line or not _TABLE_ROW.search(line)
    ]
    prose = [line.rstrip(" ✅☑🎉👍") for line in prose]
    found = [s.strip() for line in prose for s in _SENTENCE.split(line[-2_000:]) if _SAYS_ANYTHING.search(s)]
    found = [s for s in found if not p.PLEASANTRY.match(s) and not _is_series(s)]
    for index in range(len(found) - 2, -1, -1):  # "we get the area as follows:" and what follows
        if (found[index].endswith(":") or len(found[index]) < 14) and p.CONCLUSION.search(found[index]):
            found[index : index + 2] = [f"{found[index]} {found[index + 1]}"]
    return found


def _is_series(sentence: str) -> bool:
    """Whether a sentence is only a series such as `1, 2, 3, __, 5`."""
    return sentence.count(",") >= 2 and not any(char.isalpha() for char in sentence)


def _find_choice(sentences: Sequence[str], choices: Sequence[str]) -> tuple[str | None, str]:
    """The option of the last sentence that names options, if it names only one; and the rule."""
    for sentence in reversed(sentences[-6:]):
        if is_refusal(sentence, choices):
            return None, "a refusal"
        marker = list(p.CONCLUSION.finditer(sentence))
        named = _find_options(sentence[marker[-1].end() :], choices) if marker else []
        named = named or _find_options(sentence, choices)
        if len(named) == 1:
            return named[0], "the only option named"
        if named:
            value = find_value(sentence)
            return (value, "conclusion") if value is not None else (None, SEVERAL)
        value = find_value(sentence)
        if value is not None and p.CONCLUSION.search(sentence):
            return value, "conclusion"
    value = find_value(sentences[-1])
    return (value, "conclusion") if value is not None else (sentences[-1][:300], "last sentence")


def _drop_option_list(sentences: list[str]) -> list[str]:
    """The sentences without a list of options at the end, `(A) 1`, `(B) 2`, …, which repeats the question."""
    labels = [match[1] if (match := _LABELLED_LINE.match(sentence)) else "" for sentence in sentences]
    start = len(sentences)
    while start and labels[start - 1]:
        start -= 1
    return sentences[:start] if labels[start : start + 2] == ["A", "B"] and start else sentences


def _find_options(sentence: str, choices: Sequence[str]) -> list[str]:
    """The options that a sentence names by letter, else by text outside of a longer option's text."""
    letters = {next(filter(None, m.groups())) for m in _LETTERED.finditer(sentence)}
    letters = {letter for letter in letters if ord(letter) - 65 < len(choices)}
    label = _LABELLED_LINE.match(sentence)
    if label and (text := fold(sentence[label.end() :])) in (folded := list(map(fold, choices))):
        letters.add(chr(65 + folded.index(text)))  # `(A) 12`, where 12 is B's text: both are named
    if letters:
        return [f"({letter})" for letter in sorted(letters)]
    folded = [fold(choice) for choice in choices]
    named = find_mentioned_options(folded, fold(sentence))
    if len(named) > 1 and (than := _THAN.search(sentence)):  # "the sun is larger than the moon" means the sun
        named = find_mentioned_options(folded, fold(sentence[: than.start()]))
    return [choices[index] for index in named]

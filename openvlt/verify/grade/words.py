"""Compares answers in words: yes and no, synonyms, lists of words, and a longer wording of the same words."""

from __future__ import annotations

import re

from openvlt.verify.parse.normalize import clean, fold
from openvlt.verify.parse.number_words import YES_NO, is_refusal
from openvlt.verify.parse.wording.phrases import read_phrase, use_synonym

_IS = r"(?:(?:it|this|that)['’]s|is|are|was|were|be|called|named|equals|will|would|should|must)"
_IN = r"(?:in|on|at|during|of|as|by|to)"
ARTICLE = r"\s*(?:the |a |an |一[个种条只名位]\s*)?"
VERB = re.compile(rf"(?:.*\b{_IS}\b|[^:]{{0,60}}:|.*[是为在叫]){ARTICLE}", re.DOTALL | re.IGNORECASE)
"""What stands before a value in a sentence, up to its verb."""
# Between two numbers a preposition doesn't introduce the answer: "1 of 12", "10 to 12".
BARE_PREPOSITION = re.compile(rf"\D*\b{_IN}\b{ARTICLE}", re.IGNORECASE)
_COPULA = re.compile(
    rf"(?:.*\b(?:{_IS}|{_IN})\b|[^:]{{0,60}}:|.*[是为在叫]){ARTICLE}", re.DOTALL | re.IGNORECASE
)
_REASON = re.compile(r"\s*(?:,|;|\.\s|\(|\bbecause\b|\bsince\b|\bas\b|\bdue to\b|，|因为)")
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|\w+n't|except|without|or|such as|instead of|opposite of|"
    r"day (?:before|after)|(?:other|rather) than|(?:all|any\w*|every\w*) but)\b|不|非|没|或"
)
_CHANGING = re.compile(
    r"\b(?:before|after|next|previous|opposite|near|beside|between|unlike|like|almost|part of|half|twice|"
    r"less|more|most|least|and|than|either|maybe|perhaps|possibly|versus|vs|anything|any|some|all|but)\b|[/?]|和"
)
_FILLERS = frozenset(
    "the a an it this that its their is are was were be in on at of to as by from for gets get becomes "
    "answer result value one type kind shape figure color colour triangle quadrilateral polygon angle line "
    "lines graph curve function number set sequence direction day month year city country state animal "
    "person object picture image called named so thus hence therefore turn rotation order".split()
)
"""Words that a longer wording may add because they say nothing."""
_NOT_NAMES = frozenset(
    "north south east west new old great saint san upper lower central the a an not no only mid non".split()
)
_LIST_JOINT = re.compile(r"\s*(?:[,;]\s*(?:and\b)?|\band\b)\s*")


def compare_word_lists(gold: list[str], answer: str, *, is_set: bool) -> bool:
    """Whether an answer lists the gold words: `red and blue` for ['red', 'blue']; a set may be reordered."""
    wanted = [fold(word) for word in gold]
    given = [fold(item) for item in _LIST_JOINT.split(clean(answer).strip("[](){}\\"))]
    return given == wanted or is_set and sorted(given) == sorted(wanted)


def compare_words(gold: str, answer: str) -> tuple[bool, str]:
    """Whether an answer is the words of the gold, and why.

    Right are the same words or a synonym, a sentence that ends in them, and both with a reason after them.
    """
    wanted, given = _read_meaning(gold), _read_meaning(answer)
    if wanted == given:
        return True, "the same words"
    if "," not in wanted and _is_word_list(given):
        return False, "a list"
    if _NEGATION.search(given) and not _NEGATION.search(wanted) or is_refusal(answer, (gold,)):
        return False, "negated, or alternatives"
    if not wanted.endswith("one"):
        given = given.removesuffix(" one")  # it's the red one
    for text in (given, _REASON.split(given, maxsplit=1)[0]):
        copula = _COPULA.match(text)
        if _read_meaning(text) == wanted or copula and _read_meaning(text[copula.end() :]) == wanted:
            return True, "says the same words"
    if _is_longer_form(wanted, given) or _is_full_name(gold.strip(), answer):
        return True, "a longer form of the same words"
    same = sorted(re.findall(r"\w+", wanted)) == sorted(re.findall(r"\w+", given)) and (
        "," in gold or " and " in gold
    )
    return same, "the same list" if same else "different words"


def _read_meaning(text: str) -> str:
    """The folded text, or the usual word for it if it is a synonym."""
    return read_phrase(clean(text)) or use_synonym(fold(text))


_WORDS = re.compile(r"[\w'-]+")
_WORD_CHAR = re.compile(r"[\w-]")


def _find_words(wanted: str, given: str) -> tuple[int, int]:
    """Where a text holds words as whole words, start and end; (-1, -1) where it doesn't."""
    start = given.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if not _WORD_CHAR.match(given, end) and not (start and _WORD_CHAR.match(given, start - 1)):
            return start, end
        start = given.find(wanted, start + 1)
    return -1, -1


def _is_longer_form(wanted: str, given: str) -> bool:
    """Whether an answer is the gold words with few others that say nothing: `a scalene triangle`."""
    if len(wanted) <= 2 or wanted not in given or _CHANGING.search(given) and not _CHANGING.search(wanted):
        return False
    start, end = _find_words(wanted, given)
    if start < 0:
        return False
    added = _WORDS.findall(given[:start] + " " + given[end:])
    is_sentence = len(wanted.split()) > 2 and not given[end:].strip()
    return 0 < len(added) <= 4 and (is_sentence or all(word in _FILLERS for word in added))


def _is_full_name(gold: str, answer: str) -> bool:
    """Whether an answer is a first name before the surname that is the gold; `West` is no first name."""
    if not (gold.istitle() and gold.isalpha() and gold in answer):
        return False
    match = re.search(rf"([A-Z][a-z]+) {gold}\W*$", answer)
    return match is not None and match[1].lower() not in _NOT_NAMES


def _is_word_list(given: str) -> bool:
    """Whether a text is single words with commas between: `march, april`."""
    return (
        re.fullmatch(r"[\w'-]+(?:, ?[\w'-]+)+", given) is not None and given.partition(",")[0] not in YES_NO
    )

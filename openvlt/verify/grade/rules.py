"""Grades an extracted answer against the gold answer by a sequence of rules, cheapest and surest first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from openvlt.types import Verdict
from openvlt.verify.extract.sentence import cut_reasons, find_value
from openvlt.verify.extract.yes_no import read_truth
from openvlt.verify.grade.figures import is_figure
from openvlt.verify.grade.notations import compare_notations
from openvlt.verify.grade.typed import compare_values
from openvlt.verify.grade.words import (
    BARE_PREPOSITION,
    VERB,
    compare_word_lists,
    compare_words,
)
from openvlt.verify.options import Options, find_letter, letter_set
from openvlt.verify.parse.answer import Group, Quantity, Range, Relation, Value, Words
from openvlt.verify.parse.normalize import clean, fold
from openvlt.verify.parse.number_words import YES_NO, read_ordinal
from openvlt.verify.parse.reader import read_answer
from openvlt.verify.parse.wording.value_words import changes_value


class Grade(NamedTuple):
    """A verdict, the rule that decided it, the reason in words, and both values where they were read.

    `pending` means that typed comparison cannot decide and a symbolic one may; the verdict is UNPARSED until
    then.
    """

    verdict: Verdict
    rule: str
    why: str
    values: tuple[Value, Value] | None = None
    pending: bool = False


def _decide(same: bool, rule: str, why: str) -> Grade:
    return Grade(Verdict.CORRECT if same else Verdict.WRONG, rule, why)


_SHORT = 300
_ONE_CAPITAL = re.compile("[A-Z]")


def grade_answer(
    gold: str, answer: str, choices: Sequence[str] | None = None, answer_type: str | None = None
) -> Grade:
    """The grade of one extracted answer; `pending` where typed comparison cannot decide."""
    if choices:
        grade_choice = _grade_choice if len(answer) <= _SHORT else _grade_choice.__wrapped__
        grade = grade_choice(gold, answer, tuple(map(str, choices)), answer_type)
        if grade is not None:
            return grade
    elif _ONE_CAPITAL.fullmatch(gold.strip()):
        letter = find_letter(answer)
        if letter is not None:
            return _decide(letter.upper() == gold.strip(), "letter", f"option {letter}")
    elif (wanted := letter_set(gold)) and not is_figure(gold) and (given := letter_set(answer)):
        return _decide(wanted == given, "letters", f"options {''.join(sorted(given))}")
    return _grade_without_options(gold, answer, answer_type)


@lru_cache(maxsize=1024)
def _grade_choice(gold: str, answer: str, choices: tuple[str, ...], answer_type: str | None) -> Grade | None:
    """The grade of a multiple-choice answer; None if the gold answer is none of the options."""
    options = _cached_options(choices)
    wanted = letter_set(gold)
    if wanted:
        return _decide(
            letter_set(answer) == wanted, "choices", f"options {''.join(sorted(wanted))} were meant"
        )
    index = options.index_of_gold(gold, as_text=answer_type == "text")
    if index is None:
        return None
    given = options.index_of_answer(answer)
    if given is None:
        return _decide(False, "choice", "means no option, several, or contradicts itself")
    return _decide(given == index, "choice", f"means option {chr(65 + given)}, gold is {chr(65 + index)}")


@lru_cache(maxsize=512)
def _cached_options(choices: tuple[str, ...]) -> Options:
    """The options of a question, cached because the rows of a batch share them."""
    return Options(
        choices, lambda option, text: _grade_without_options(option, text, None).verdict is Verdict.CORRECT
    )


def _grade_without_options(gold: str, answer: str, answer_type: str | None) -> Grade:
    """The grade of an answer without options, remembered if it is short: a group's answers are often one."""
    grade = _grade_short if len(gold) + len(answer) <= _SHORT else _grade_text
    return grade(gold, answer, answer_type)


@lru_cache(maxsize=1024)
def _grade_short(gold: str, answer: str, answer_type: str | None) -> Grade:
    return _grade_text(gold, answer, answer_type)


def _grade_text(gold: str, answer: str, answer_type: str | None) -> Grade:
    """The grade of an answer without options: by the text itself, as yes or no, as mathematics, as words."""
    text = clean(answer)
    same = gold == answer or clean(gold) in (text, text.removeprefix("the "))
    if same and (gold == answer or not is_figure(gold)):  # a vector is no segment
        return _decide(True, "text", "the same text")
    folded = fold(gold)
    truth = YES_NO.get(folded) if len(folded) > 1 or not folded.isascii() else None
    stated = None if truth is None else read_truth(fold(answer))
    if truth is not None and (stated is not None or folded != "right"):  # "to the right" is a place
        return _decide(stated is truth, "yes/no", f"says {stated}")
    decided = compare_notations(gold, answer)
    if decided is not None:
        same, kind = decided
        return _decide(same, kind, f"the same {kind}" if same else f"another {kind}, or none")
    claim = _read_claim(answer)
    if "£" in gold:
        claim = _POUNDS.sub(" £", claim)
    elif "£" in claim:
        gold = _POUNDS.sub(" £", gold)
    if _RATIO.fullmatch(clean(gold)):  # "3 to 4" is 3:4 beside a ratio, else a range
        claim = _RATIO_TO.sub(":", claim)
    elif _RATIO.fullmatch(clean(claim)):
        gold = _RATIO_TO.sub(":", gold)
    wanted, given = read_pair(gold, claim)
    if isinstance(wanted, Words):
        same, why = compare_words(gold, answer)
        return _decide(same, "words", why)
    if isinstance(given, Words):
        given = _read_predicate(claim)
    if isinstance(given, Quantity) and given.unit and read_ordinal(gold) is not None:
        return _decide(False, "ordinal", "an amount is no place")
    same = compare_values(wanted, given, ordered=answer_type == "list")
    if not same and isinstance(wanted, Group):
        words = [item.text for item in wanted.items if isinstance(item, Words)]
        if len(words) == len(wanted.items):
            same = compare_word_lists(words, claim, is_set=wanted.brackets == "{}") or same
    if same is not None:
        verdict = Verdict.CORRECT if same else Verdict.WRONG
        return Grade(verdict, type(given).__name__.lower(), "equal" if same else "not equal", (wanted, given))
    if isinstance(given, Words):
        readable = not re.search(r"[\d\\]", answer)
        verdict = Verdict.WRONG if readable else Verdict.UNPARSED
        return Grade(verdict, "words", "the answer cannot be read as mathematics")
    if not _is_symbolic_question(wanted, given):
        why = "has no finite value to compare"
        return Grade(Verdict.UNPARSED, type(given).__name__.lower(), why, (wanted, given))
    return Grade(Verdict.UNPARSED, "symbolic", "typed comparison cannot tell", (wanted, given), pending=True)


@lru_cache(maxsize=1024)
def _read_claim(answer: str) -> str:
    """An answer without its reason and without what restates it; every option is compared with it."""
    return _RESTATED.sub("", cut_reasons(answer))


def _is_symbolic_question(gold: Value, answer: Value) -> bool:
    """Whether sympy may decide; never for a gold without symbols, so that hostile answers cannot reach it."""
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return bool(gold.symbols) and gold.symbols == answer.symbols
    return isinstance(gold, (Relation, Range, Group)) and isinstance(answer, (Relation, Range, Group))


def read_pair(gold: str, answer: str) -> tuple[Value, Value]:
    """Gold and answer as values, each read with regard to the other.

    Unit letters are symbols when the other side uses them as symbols (`2m` against `m + m`), and a comma is a
    decimal point when the other side is a decimal (`1,22` against `1.22`).
    """
    wanted, given = read_answer(gold), read_answer(answer)
    for one, other, text in ((wanted, given, answer), (given, wanted, gold)):
        if (
            isinstance(one, Quantity)
            and one.ulp
            and isinstance(other, Group)
            and _DECIMAL_COMMA.fullmatch(clean(text))
        ):
            comma = read_answer(clean(text).replace(",", "."))
            return (wanted, comma) if text is answer else (comma, given)
        if isinstance(one, Quantity) and isinstance(other, Quantity):  # noqa: SIM102
            if one.unit and not other.unit and other.symbols:
                return read_answer(gold, units=False), read_answer(answer, units=False)
    return wanted, given


_POUNDS = re.compile(r"\s*\bpounds?\b", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_RATIO = re.compile(r"\d[\d\s.]*:[\d\s.:]*\d")
_RATIO_TO = re.compile(r"(?<=\d)\s+to\s+(?=\d)")


@lru_cache(maxsize=1024)
def _read_predicate(answer: str) -> Value:
    """The value in a short sentence such as `the area is 8`; Words if it hedges: `it is less than 8`."""
    text = clean(answer)
    value: Value = Words(text)
    if len(text) > 200 or _HEDGE.search(text):
        return value
    verb = VERB.match(text)
    if verb:
        value = read_answer(text[verb.end() :])
    if not isinstance(value, Words) or changes_value(text):
        return value
    preposition = BARE_PREPOSITION.match(text)
    if preposition:
        value = read_answer(text[preposition.end() :])
    is_prose = not _NO_PROSE.search(text) and re.search(r"[A-Za-z]{3}|[^\x00-\x7f]", text)
    if not isinstance(value, Words) or not is_prose:
        return value
    found = find_value(text)
    return value if found is None else read_answer(found)


_RESTATED = re.compile(
    r"(?<=\S),?\s+(?:i\.\s?e\.|that is,|in other words|namely)\s.*", re.DOTALL | re.IGNORECASE
)
_NO_PROSE = re.compile(r"[#_\"{}<>\[\]@&|\\~^`]|\w\(|\)\.\w")
_HEDGE = re.compile(
    r"\b(?:not|less|more|fewer|greater|than|least|most|between|or|maybe|perhaps|either|neither|if|unless|"
    r"except|over|under|(?:above|below|beyond)(?=\s\S?\d)|exceed\w*|up to|besides|"
    r"(?:apart|aside|different) from|"
    r"(?:all|any\w*|every\w*|no|none|nothing)(?:\s\w+){0,2}\sbut)\b|n't\b|不|或",
    re.IGNORECASE,
)

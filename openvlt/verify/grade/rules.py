"""Grades an extracted answer against the gold answer by a sequence of rules, cheapest and surest first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from openvlt.types import Verdict
from openvlt.verify.extract.sentence import cut_reasons, find_value
from openvlt.verify.extract.yes_no import read_truth
from openvlt.verify.grade.typed import compare_values
from openvlt.verify.options import Options, find_letter, letter_set
from openvlt.verify.parse.answer import Group, Range, Relation, Value, Words
from openvlt.verify.parse.expression import symbols
from openvlt.verify.parse.normalize import clean, fold
from openvlt.verify.parse.number_words import YES_NO, is_refusal
from openvlt.verify.parse.quantity import Quantity
from openvlt.verify.parse.reader import read_answer


@dataclass(frozen=True)
class Grade:
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


def grade_answer(
    gold: str, answer: str, choices: Sequence[str] | None = None, answer_type: str | None = None
) -> Grade:
    """The grade of one extracted answer; `pending` where typed comparison cannot decide."""
    if choices:
        grade = _grade_choice(gold, answer, tuple(map(str, choices)), answer_type)
        if grade is not None:
            return grade
    elif re.fullmatch(r"[A-Z]", gold.strip()):
        letter = find_letter(answer)
        if letter is not None:
            return _decide(letter.upper() == gold.strip(), "letter", f"option {letter}")
    elif (wanted := letter_set(gold)) and (given := letter_set(answer)):
        return _decide(wanted == given, "letters", f"options {''.join(sorted(given))}")
    return _grade_without_options(gold, answer, answer_type)


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
    """The grade of an answer without options: by the text itself, as yes or no, as mathematics, as words."""
    if gold == answer or clean(gold) == clean(answer):
        return _decide(True, "text", "the same text")
    truth = YES_NO.get(fold(gold)) if len(fold(gold)) > 1 or not fold(gold).isascii() else None
    if truth is not None:
        stated = read_truth(fold(answer))
        return _decide(stated is truth, "yes/no", f"says {stated}")
    same = _compare_times(gold, answer)
    if same is not None:
        return _decide(same, "time", "the same time" if same else "another time")
    claim = cut_reasons(answer)
    if _RATIO.fullmatch(clean(gold)):  # "3 to 4" is 3:4 beside a ratio, else a range
        claim = _RATIO_TO.sub(":", claim)
    elif _RATIO.fullmatch(clean(claim)):
        gold = _RATIO_TO.sub(":", gold)
    wanted, given = read_pair(gold, claim)
    if isinstance(wanted, Words):
        return _grade_words(gold, answer)
    if isinstance(given, Words):
        given = _read_predicate(claim)
    same = compare_values(wanted, given, ordered=answer_type == "list")
    if not same and isinstance(wanted, Group):
        words = [item.text for item in wanted.items if isinstance(item, Words)]
        if len(words) == len(wanted.items):
            same = _is_same_word_list(words, claim, is_set=wanted.brackets == "{}") or same
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


def _is_symbolic_question(gold: Value, answer: Value) -> bool:
    """Whether sympy may decide; never for a gold without symbols, so that hostile answers cannot reach it."""
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return bool(symbols(gold.node)) and symbols(gold.node) == symbols(answer.node)
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
            if one.unit and not other.unit and symbols(other.node):
                return read_answer(gold, units=False), read_answer(answer, units=False)
    return wanted, given


_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_RATIO = re.compile(r"\d[\d\s.]*:[\d\s.:]*\d")
_RATIO_TO = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_TIME_SIGN = re.compile("[:：mM]")
_CLOCK = re.compile(r"(\d{1,2})(?:\s?:\s?(\d{2}))?\s*(?:([ap])\.?\s?m\b\.?)?", re.IGNORECASE)


def _compare_times(gold: str, answer: str) -> bool | None:
    """Whether two times of day are the same; None if one of them isn't a time.

    `3:00` counts as a time only beside one with am, pm or a leading zero; else it is a ratio.
    """
    if not _TIME_SIGN.search(gold):
        return None
    wanted, given = _CLOCK.fullmatch(clean(gold)), _CLOCK.fullmatch(clean(answer))
    if wanted is None or given is None or not all(clock[2] or clock[3] for clock in (wanted, given)):
        return None
    if not any(clock[3] or clock[2].startswith("0") for clock in (wanted, given)):
        return None
    return bool(_minutes_of_day(wanted) & _minutes_of_day(given))


def _minutes_of_day(clock: re.Match[str]) -> set[int]:
    """The minutes of the day a clock may mean: two for 3:45, one for 15:45 and 3:45 pm."""
    hour, minute, half = int(clock[1]), int(clock[2] or 0), (clock[3] or "").lower()
    halves = {"": (0, 12) if hour <= 12 else (hour - hour % 12,), "a": (0,), "p": (12,)}[half]
    return {60 * (hour % 12 + later) + minute for later in halves}


_LIST_JOINT = re.compile(r"\s*(?:[,;]\s*(?:and\b)?|\band\b)\s*")


def _is_same_word_list(gold: list[str], answer: str, *, is_set: bool) -> bool:
    """Whether an answer lists the gold words: `red and blue` for ['red', 'blue']; a set may be reordered."""
    wanted = [fold(word) for word in gold]
    given = [fold(item) for item in _LIST_JOINT.split(clean(answer).strip("[](){}\\"))]
    return given == wanted or is_set and sorted(given) == sorted(wanted)


def _read_predicate(answer: str) -> Value:
    """The value in a short sentence such as `the area is 8`; Words if it hedges: `it is less than 8`."""
    text = clean(answer)
    if len(text) > 200 or _HEDGE.search(text):
        return Words(text)
    value: Value = Words(text)
    for opening in filter(None, (_VERB.match(text), _BARE_PREPOSITION.match(text))):
        if isinstance(value, Words):
            value = read_answer(text[opening.end() :])
    if (
        isinstance(value, Words)
        and not _NO_PROSE.search(text)
        and re.search(r"[A-Za-z]{3}|[^\x00-\x7f]", text)
    ):
        found = find_value(text)
        return value if found is None else read_answer(found)
    return value


_NO_PROSE = re.compile(r"[#_\"{}<>\[\]@&|\\~^`]|\w\(|\)\.\w")
_HEDGE = re.compile(
    r"\b(?:not|less|more|fewer|greater|than|least|most|between|or|maybe|perhaps|either|neither|if|unless|"
    r"except|over|under|up to|besides|(?:apart|aside|different) from|(?:all|any\w*|every\w*|no|none|"
    r"nothing)(?:\s\w+){0,2}\sbut)\b|n't\b|不|或",
    re.IGNORECASE,
)
_IS = r"(?:is|are|was|were|be|called|named|equals|will|would|should|must)"
_IN = r"(?:in|on|at|during|of|as|by|to)"
_ARTICLE = r"\s*(?:the |a |an )?"
_VERB = re.compile(rf"(?:.*\b{_IS}\b|[^:]{{0,60}}:|.*[是为在叫]){_ARTICLE}", re.DOTALL | re.IGNORECASE)
# Between two numbers a preposition doesn't introduce the answer: "1 of 12", "10 to 12".
_BARE_PREPOSITION = re.compile(rf"\D*\b{_IN}\b{_ARTICLE}", re.IGNORECASE)
_COPULA = re.compile(
    rf"(?:.*\b(?:{_IS}|{_IN})\b|[^:]{{0,60}}:|.*[是为在叫]){_ARTICLE}", re.DOTALL | re.IGNORECASE
)
_REASON = re.compile(r"\s*(?:,|;|\.\s|\(|\bbecause\b|\bsince\b|\bas\b|\bdue to\b|，|因为)")
_ALTERNATIVE = re.compile(
    r"\b(?:and|or|than|either|maybe|perhaps|possibly|versus|vs|anything|any|some|all|but|"
    r"like|almost)\b|[/?]|和|或"
)
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|\w+n't|except|without|or|such as|instead of|opposite of|"
    r"(?:other|rather) than|(?:all|any\w*|every\w*) but)\b|不|非|没|或"
)


def _is_longer_form(wanted: str, given: str) -> bool:
    """Whether an answer is the gold words with few others, not alternatives: `Paris, France` for Paris."""
    more = len(given.split()) - len(wanted.split())
    alternatives = _ALTERNATIVE.search(given) and not _ALTERNATIVE.search(wanted)
    return (
        len(wanted) > 2
        and 0 < more <= 4
        and not alternatives
        and re.search(rf"(?<![\w-]){re.escape(wanted)}(?![\w-])", given) is not None
    )


def _is_word_list(given: str) -> bool:
    """Whether a text is single words with commas between: `march, april`."""
    return (
        re.fullmatch(r"[\w'-]+(?:, ?[\w'-]+)+", given) is not None and given.partition(",")[0] not in YES_NO
    )


def _grade_words(gold: str, answer: str) -> Grade:
    """The grade of a gold that is words.

    Right are the same words, a sentence that ends in them, and both with a reason after them.
    """
    wanted, given = fold(gold), fold(answer)
    if wanted == given:
        return _decide(True, "words", "the same words")
    if "," not in wanted and _is_word_list(given):
        return _decide(False, "words", "a list")
    if _NEGATION.search(given) and not _NEGATION.search(wanted) or is_refusal(answer, (gold,)):
        return _decide(False, "words", "negated, or alternatives")
    for text in (given, _REASON.split(given, maxsplit=1)[0]):
        copula = _COPULA.match(text)
        if fold(text) == wanted or copula and fold(text[copula.end() :]) == wanted:
            return _decide(True, "words", "says the same words")
    if _is_longer_form(wanted, given):
        return _decide(True, "words", "a longer form of the same words")
    same = sorted(re.findall(r"\w+", wanted)) == sorted(re.findall(r"\w+", given)) and (
        "," in gold or " and " in gold
    )
    return _decide(same, "words", "the same list" if same else "different words")

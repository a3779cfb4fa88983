"""Whether an extracted answer means the gold answer: the order of the rules, cheapest and surest first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from openvlt.types import Verdict
from openvlt.verify import options as letters
from openvlt.verify.extract.sentence import cut_reasons, value_in
from openvlt.verify.grade.typed import compare_values
from openvlt.verify.parse.answer import Group, Range, Relation, Value, Words
from openvlt.verify.parse.expression import symbols
from openvlt.verify.parse.normalize import clean, fold
from openvlt.verify.parse.number_words import YES_NO, refuses, yes_no
from openvlt.verify.parse.quantity import Quantity
from openvlt.verify.parse.reader import read_answer


@dataclass(frozen=True)
class Ruling:
    """A verdict, the rule that decided it, the reason in words, and both sides as they were read, if they were.

    `pending`: typed comparison could not tell (the verdict is UNPARSED), a symbolic one may.
    """

    verdict: Verdict
    rule: str
    why: str
    values: tuple[Value, Value] | None = None
    pending: bool = False


def _ruling(same: bool, rule: str, why: str) -> Ruling:
    return Ruling(Verdict.CORRECT if same else Verdict.WRONG, rule, why)


def grade_answer(
    gold: str, answer: str, choices: Sequence[str] | None = None, answer_type: str | None = None
) -> Ruling:
    """The ruling on one extracted answer; `pending` where typed comparison cannot tell."""
    if choices:
        ruling = _by_choice(gold, answer, tuple(map(str, choices)), answer_type)
        if ruling is not None:
            return ruling
    elif re.fullmatch(r"[A-Z]", gold.strip()):
        letter = letters.bare_letter(answer)
        if letter is not None:
            return _ruling(letter.upper() == gold.strip(), "letter", f"option {letter}")
    elif (wanted := letters.letter_set(gold)) and (said := letters.letter_set(answer)):
        return _ruling(wanted == said, "letters", f"options {''.join(sorted(said))}")
    return _plain(gold, answer, answer_type)


def _by_choice(gold: str, answer: str, choices: tuple[str, ...], answer_type: str | None) -> Ruling | None:
    table = options(choices)
    wanted = letters.letter_set(gold)
    if wanted:
        return _ruling(
            letters.letter_set(answer) == wanted, "choices", f"options {''.join(sorted(wanted))} were meant"
        )
    index = table.of_gold(gold, as_text=answer_type == "text")
    if index is None:
        return None
    meant = table.meant(answer)
    if meant is None:
        return _ruling(False, "choice", "means no option, several, or contradicts itself")
    return _ruling(meant == index, "choice", f"means option {chr(65 + meant)}, gold is {chr(65 + index)}")


@lru_cache(maxsize=512)
def options(choices: tuple[str, ...]) -> letters.Options:
    """The options of a question, kept: the rows of a batch share them."""
    return letters.Options(
        choices, lambda option, text: _plain(option, text, None).verdict is Verdict.CORRECT
    )


def _plain(gold: str, answer: str, answer_type: str | None) -> Ruling:
    """Without options: the text itself, yes or no, mathematics, words."""
    if gold == answer or clean(gold) == clean(answer):
        return _ruling(True, "text", "the same text")
    truth = YES_NO.get(fold(gold)) if len(fold(gold)) > 1 or not fold(gold).isascii() else None
    if truth is not None:
        said = yes_no(fold(answer))
        said = said if said is not None else _truth_at_end(answer)
        return _ruling(said is truth, "yes/no", f"says {said}")
    same = _same_time(gold, answer)
    if same is not None:
        return _ruling(same, "time", "the same time" if same else "another time")
    claim = cut_reasons(answer)
    if _RATIO.fullmatch(clean(gold)):  # "3 to 4" is 3:4 beside a ratio, else a range
        claim = _RATIO_TO.sub(":", claim)
    elif _RATIO.fullmatch(clean(claim)):
        gold = _RATIO_TO.sub(":", gold)
    wanted, given = readings(gold, claim)
    if isinstance(wanted, Words):
        return _words(gold, answer)
    if isinstance(given, Words):
        given = _predicate(claim)
    same = compare_values(wanted, given, ordered=answer_type == "list")
    if not same and isinstance(wanted, Group) and all(isinstance(item, Words) for item in wanted.items):
        same = _same_word_list(wanted, claim) or same
    if same is not None:
        verdict = Verdict.CORRECT if same else Verdict.WRONG
        return Ruling(
            verdict, type(given).__name__.lower(), "equal" if same else "not equal", (wanted, given)
        )
    if isinstance(given, Words):
        readable = not re.search(r"[\d\\]", answer)
        verdict = Verdict.WRONG if readable else Verdict.UNPARSED
        return Ruling(verdict, "words", "the answer cannot be read as mathematics")
    if not _askable(wanted, given):
        why = "has no finite value to compare"
        return Ruling(Verdict.UNPARSED, type(given).__name__.lower(), why, (wanted, given))
    return Ruling(Verdict.UNPARSED, "symbolic", "typed comparison cannot tell", (wanted, given), pending=True)


def _askable(gold: Value, answer: Value) -> bool:
    """Whether sympy may know more: never for a gold that is a plain number, so hostile answers to one can't reach
    it."""
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return bool(symbols(gold.node)) and symbols(gold.node) == symbols(answer.node)
    return isinstance(gold, (Relation, Range, Group)) and isinstance(answer, (Relation, Range, Group))


def readings(gold: str, answer: str) -> tuple[Value, Value]:
    """Both sides as values, read in the light of each other.

    Unit letters are symbols when the other side uses them as symbols (`2m` against `m + m`), and a comma is a decimal
    point when the other side is a decimal (`1,22` against `1.22`).
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
        both = isinstance(one, Quantity) and isinstance(other, Quantity)
        if both and one.unit and not other.unit and symbols(other.node):
            return read_answer(gold, units=False), read_answer(answer, units=False)
    return wanted, given


_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_RATIO = re.compile(r"\d[\d\s.]*:[\d\s.:]*\d")
_RATIO_TO = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_TIME_SIGN = re.compile("[:：mM]")
_CLOCK = re.compile(r"(\d{1,2})(?:\s?:\s?(\d{2}))?\s*(?:([ap])\.?\s?m\b\.?)?", re.IGNORECASE)


def _same_time(gold: str, answer: str) -> bool | None:
    """Times of day; None for what isn't one: a ratio says neither am nor pm, and its parts don't begin with 0."""
    if not _TIME_SIGN.search(gold):
        return None
    clocks = [_CLOCK.fullmatch(clean(text)) for text in (gold, answer)]
    if None in clocks or not all(clock[2] or clock[3] for clock in clocks):
        return None
    if not any(clock[3] or clock[2].startswith("0") for clock in clocks):
        return None
    return bool(_minutes(clocks[0]) & _minutes(clocks[1]))


def _minutes(clock: re.Match[str]) -> set[int]:
    """The minutes of the day a clock may mean: two for 3:45, one for 15:45 and 3:45 pm."""
    hour, minute, half = int(clock[1]), int(clock[2] or 0), (clock[3] or "").lower()
    halves = {"": (0, 12) if hour <= 12 else (hour - hour % 12,), "a": (0,), "p": (12,)}[half]
    return {60 * (hour % 12 + later) + minute for later in halves}


_LIST_JOINT = re.compile(r"\s*(?:[,;]\s*(?:and\b)?|\band\b)\s*")


def _same_word_list(gold: Group, answer: str) -> bool:
    """`red and blue` for ['red', 'blue']; only a set in braces may be in another order."""
    wanted = [fold(item.text) for item in gold.items]
    given = [fold(item) for item in _LIST_JOINT.split(clean(answer).strip("[](){}\\"))]
    return given == wanted or gold.brackets == "{}" and sorted(given) == sorted(wanted)


def _truth_at_end(answer: str) -> bool | None:
    """`The statement is true`, `it is not correct`: the last yes/no word of a short answer, unless several disagree."""
    words = re.findall(r"\b(?:yes|no|true|false|correct|incorrect|wrong)\b", answer.lower())
    said = {YES_NO[word] for word in words}
    negated = re.search(r"\bnot (?:yes|no|true|correct|false|wrong)\b", answer.lower())
    return said.pop() != bool(negated) if len(said) == 1 else None


def _predicate(answer: str) -> Value:
    """What a short sentence says its subject is: `the area is 8`. Not if it hedges: `it is less than 8`."""
    text = clean(answer)
    if len(text) > 200 or _HEDGE.search(text):
        return Words(text)
    value: Value = Words(text)
    for said in filter(None, (_VERB.match(text), _BARE_PREPOSITION.match(text))):
        if isinstance(value, Words):
            value = read_answer(text[said.end() :])
    if (
        isinstance(value, Words)
        and not _NO_PROSE.search(text)
        and re.search(r"[A-Za-z]{3}|[^\x00-\x7f]", text)
    ):
        named = value_in(text)
        return value if named is None else read_answer(named)
    return value


_NO_PROSE = re.compile(r"[#_\"{}<>\[\]@&|\\~^`]|\w\(|\)\.\w")
_HEDGE = re.compile(
    r"\b(?:not|less|more|fewer|greater|than|least|most|between|or|maybe|perhaps|either|neither|if|unless|except|"
    r"over|under|up to|besides|(?:apart|aside|different) from|(?:all|any\w*|every\w*|no|none|nothing)(?:\s\w+){0,2}\sbut)\b|"
    r"n't\b|不|或",
    re.IGNORECASE,
)
_IS = r"(?:is|are|was|were|be|called|named|equals|will|would|should|must)"
_IN = r"(?:in|on|at|during|of|as|by|to)"
_ARTICLE = r"\s*(?:the |a |an )?"
_VERB = re.compile(rf"(?:.*\b{_IS}\b|[^:]{{0,60}}:|.*[是为在叫]){_ARTICLE}", re.DOTALL | re.IGNORECASE)
# Between two numbers a preposition doesn't say that the second is the answer: "1 of 12", "10 to 12".
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
    r"\b(?:not|no|never|neither|nor|cannot|\w+n't|except|without|or|such as|instead of|opposite of|(?:other|rather) than|"
    r"(?:all|any\w*|every\w*) but)\b|不|非|没|或"
)


def _longer_form(wanted: str, given: str) -> bool:
    """`Paris, France` for Paris: the gold words in a row among few others, none of which offers an alternative."""
    more = len(given.split()) - len(wanted.split())
    alternatives = _ALTERNATIVE.search(given) and not _ALTERNATIVE.search(wanted)
    return (
        len(wanted) > 2
        and 0 < more <= 4
        and not alternatives
        and re.search(rf"(?<![\w-]){re.escape(wanted)}(?![\w-])", given) is not None
    )


def _is_word_list(given: str) -> bool:
    """`march, april`: words in a row, one after each comma."""
    return (
        re.fullmatch(r"[\w'-]+(?:, ?[\w'-]+)+", given) is not None and given.partition(",")[0] not in YES_NO
    )


def _words(gold: str, answer: str) -> Ruling:
    """Text: the same words, or a sentence that ends in them, with or without a reason after."""
    wanted, given = fold(gold), fold(answer)
    if wanted == given:
        return _ruling(True, "words", "the same words")
    if "," not in wanted and _is_word_list(given):
        return _ruling(False, "words", "a list")
    if _NEGATION.search(given) and not _NEGATION.search(wanted) or refuses(answer, (gold,)):
        return _ruling(False, "words", "negated, or alternatives")
    for text in (given, _REASON.split(given, maxsplit=1)[0]):
        copula = _COPULA.match(text)
        if fold(text) == wanted or copula and fold(text[copula.end() :]) == wanted:
            return _ruling(True, "words", "says the same words")
    if _longer_form(wanted, given):
        return _ruling(True, "words", "a longer form of the same words")
    same = sorted(re.findall(r"\w+", wanted)) == sorted(re.findall(r"\w+", given)) and (
        "," in gold or " and " in gold
    )
    return _ruling(same, "words", "the same list" if same else "different words")

"""Whether an extracted answer means the gold answer: the order of the rules, cheapest and surest first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from openvlt.types import Verdict
from openvlt.verify import choices as options
from openvlt.verify.compare import compare
from openvlt.verify.reading import Group, Quantity, Range, Relation, Value, Words, read
from openvlt.verify.nodes import symbols
from openvlt.verify.text import clean, fold
from openvlt.verify.words import REFUSAL, YES_NO, yes_no

@dataclass(frozen=True)
class Ruling:
    """A verdict, the rule that decided it and the reason in words."""

    verdict: Verdict
    rule: str
    why: str
    pending: tuple[Value, Value] | None = None


def _ruling(same: bool, rule: str, why: str) -> Ruling:
    return Ruling(Verdict.CORRECT if same else Verdict.WRONG, rule, why)


def judge(gold: str, answer: str, choices: Sequence[str] | None = None, answer_type: str | None = None) -> Ruling:
    """The ruling on one extracted answer; `pending` holds both values where typed comparison cannot tell."""
    if choices:
        ruling = _by_choice(gold, answer, tuple(map(str, choices)), answer_type)
        if ruling is not None:
            return ruling
    elif re.fullmatch(r"[A-Z]", gold.strip()):
        letter = options.bare_letter(answer)
        if letter is not None:
            return _ruling(letter.upper() == gold.strip(), "letter", f"option {letter}")
    elif (letters := options.letter_set(gold)) and (said := options.letter_set(answer)):
        return _ruling(letters == said, "letters", f"options {''.join(sorted(said))}")
    return _plain(gold, answer, answer_type)


def _by_choice(gold: str, answer: str, choices: tuple[str, ...], answer_type: str | None) -> Ruling | None:
    table = _options(choices)
    wanted = options.letter_set(gold)
    if wanted:
        return _ruling(options.letter_set(answer) == wanted, "choices", f"options {''.join(sorted(wanted))} were meant")
    index = table.of_gold(gold, as_text=answer_type == "text")
    if index is None:
        return None
    meant = table.meant(answer)
    if meant is None:
        return _ruling(False, "choice", "means no option, several, or contradicts itself")
    return _ruling(meant == index, "choice", f"means option {chr(65 + meant)}, gold is {chr(65 + index)}")


@lru_cache(maxsize=512)
def _options(choices: tuple[str, ...]) -> options.Options:
    return options.Options(choices, lambda option, text: _plain(option, text, None).verdict is Verdict.CORRECT)


def _plain(gold: str, answer: str, answer_type: str | None) -> Ruling:
    """Without options: the text itself, yes or no, mathematics, words."""
    if gold == answer or clean(gold) == clean(answer):
        return _ruling(True, "text", "the same text")
    truth = YES_NO.get(fold(gold)) if len(fold(gold)) > 1 or not fold(gold).isascii() else None
    if truth is not None:
        said = yes_no(fold(answer))
        said = said if said is not None else _truth_at_end(answer)
        return _ruling(said is truth, "yes/no", f"says {said}")
    wanted, given = readings(gold, answer)
    if isinstance(wanted, Words):
        return _words(gold, answer)
    same = compare(wanted, given, ordered=answer_type == "list")
    if same is not None:
        return _ruling(same, type(given).__name__.lower(), "equal" if same else "not equal")
    if isinstance(given, Words):
        readable = not re.search(r"[\d\\]", answer)
        return Ruling(Verdict.WRONG if readable else Verdict.UNPARSED, "words", "the answer cannot be read as mathematics")
    if not _askable(wanted, given):
        return Ruling(Verdict.UNPARSED, type(given).__name__.lower(), "has no finite value to compare")
    return Ruling(Verdict.UNPARSED, "symbolic", "typed comparison cannot tell", (wanted, given))


def _askable(gold: Value, answer: Value) -> bool:
    """Whether sympy may know more: never for a gold that is a plain number, so hostile answers to one can't reach it."""
    if isinstance(gold, Quantity) and isinstance(answer, Quantity):
        return bool(symbols(gold.node)) and symbols(gold.node) == symbols(answer.node)
    return isinstance(gold, (Relation, Range, Group)) and isinstance(answer, (Relation, Range, Group))


def readings(gold: str, answer: str) -> tuple[Value, Value]:
    """Both sides as values; unit letters are symbols when the other side uses them as symbols (`2m` against `m + m`)."""
    wanted, given = read(gold), read(answer)
    for one, other in ((wanted, given), (given, wanted)):
        if isinstance(one, Quantity) and isinstance(other, Quantity) and one.unit and not other.unit and symbols(other.node):
            return read(gold, units=False), read(answer, units=False)
    return wanted, given


def _truth_at_end(answer: str) -> bool | None:
    """`The statement is true`, `it is not correct`: the last yes/no word of a short answer, unless several disagree."""
    words = re.findall(r"\b(?:yes|no|true|false|correct|incorrect|wrong)\b", answer.lower())
    said = {YES_NO[word] for word in words}
    negated = re.search(r"\bnot (?:true|correct|false|wrong)\b", answer.lower())
    return said.pop() != bool(negated) if len(said) == 1 else None


_REASON = re.compile(r"\s*(?:,|;|\.\s|\(|\bbecause\b|\bsince\b|\bas\b|\bdue to\b|，|因为)")
_COPULA = re.compile(r"(?:.*\b(?:is|are|was|were|be|called|named|in|on|at|during|equals|of|as|by)|[^:]{0,60}:|.*[是为在叫])\s*(?:the |a |an )?", re.DOTALL)
_NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|isn't|aren't|except|without|or)\b|不|非|没|或")


def _words(gold: str, answer: str) -> Ruling:
    """Text: the same words, or a sentence that ends in them, with or without a reason after."""
    wanted, given = fold(gold), fold(answer)
    if wanted == given:
        return _ruling(True, "words", "the same words")
    if _NEGATION.search(given) and not _NEGATION.search(wanted) or REFUSAL.search(answer):
        return _ruling(False, "words", "negated, or alternatives")
    for text in (given, _REASON.split(given, maxsplit=1)[0]):
        copula = _COPULA.match(text)
        if fold(text) == wanted or copula and fold(text[copula.end():]) == wanted:
            return _ruling(True, "words", "says the same words")
    same = sorted(re.findall(r"\w+", wanted)) == sorted(re.findall(r"\w+", given)) and ("," in gold or " and " in gold)
    return _ruling(same, "words", "the same list" if same else "different words")

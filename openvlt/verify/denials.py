"""Takes denied values out of a text: `not 24 but 25` leaves 25, `24, which is wrong` leaves nothing.

A text is cut into clauses. In a clause, a word of the closed lists (`denial_words`) denies the value that it
governs. A clause that only says "that is wrong" denies the clause before it. Words that aren't values stay,
because "not red" may be the answer. The same lists serve numbers, option letters and options in words.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from openvlt.verify import denial_words as w
from openvlt.verify.parse.number_words import COUNT

_NUMBER = r"[-−$€£¥]{0,2} ?(?:\d[\d.,/:]{0,20}\d|\d)(?:\s?(?:\\?%|°|π|percent\b))?"
_VALUE = re.compile(
    rf"\*{{0,2}}(?:\$[^$\n]{{1,80}}\$|\\\([^\n]{{1,80}}?\\\)|"
    rf"(?<![A-Za-z0-9_.,]){_NUMBER}(?![A-Za-z0-9_])|\b{COUNT}\b)\*{{0,2}}",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\*{0,2}[(\[]?\b[A-Z]\b[)\]]?\*{0,2}")
_CLAUSE = re.compile(
    r"[,:](?!\d)|[;!?—…，；：！？。\n]|\.+(?=\s|$|\*)|[ \t]--?[ \t]|→|->|⇒|"
    r"\((?=(?:wrong|incorrect|false|impossible|rejected|not|no|this|that|which|it)\b)|"
    r"\b(?:so|but|and|then|thus|hence|therefore|because|since|while|whereas|although|though|nor)\b|而(?!不是|非)",
)
"""What ends a clause. It begins the next one, so that `nor` still denies."""


_SUBJECT_END = re.compile(
    r"(?:\s+(?!who\b|that\b|which\b|where\b|is\b|are\b)[a-z°]{1,12}){0,2}\s*,?\s*(?:which\s+|that\s+)?"
    r"(?:(?:is|was)\s+(?:right|correct|the (?:right |correct )?(?:answer|option|choice))\s+)?",
    re.IGNORECASE,
)
"""What may stand between a value and the predicate that denies it: its unit, "is correct"."""
_LEADING = re.compile(
    r"\W*(?:(?:be|is|are|it|that|the|an?|to|think|believe|say|claim|mean|answer|pick|choose|select|accept|"
    r"correct|right|best|option|choice|letter|figure|picture|image|number|answer|equal)\W+)*",
    re.IGNORECASE,
)
_REJECTS = re.compile(
    rf"{w.BE}|(?:\w+(?:n['’]t|\s+not|\s+never)|cannot|fails?)\s*(?:(?:be\s+)?(?:the|an?|right|correct|true|"
    r"possible|valid|it|work|fit|match|make sense)\b|\W*$)",
    re.IGNORECASE,
)
"""A predicate that denies an option, not one of its properties: `cannot be right`, not `cannot be made`."""
_SHORT = 600
_REACH, _FAR = 6, 120
"""Words, and characters, between `not` and the value that it denies."""
_COPULA = re.compile(r"\s(?:is|are|was|were|equals?|gives?|=)\s", re.IGNORECASE)
_NEXT_CLAIM = re.compile(rf"{_COPULA.pattern}|\s(?:it|that)['’]s\s", re.IGNORECASE)
"""What ends a denied value: `not 10 it's 11`."""
_ONLY_A_VALUE = re.compile(rf"[,:]?\s*(?:{_VALUE.pattern})(?:\s?[a-z°]{{1,12}})?\W*", re.IGNORECASE)


def drop_denied(text: str, *, letters: bool = False, words: bool = False) -> str:
    """The text without its denied values; with `letters` capitals are values, with `words` all words are."""
    return _drop_in_short(text, letters, words) if len(text) <= _SHORT else _drop(text, letters, words)


@lru_cache(maxsize=4096)
def _drop_in_short(text: str, letters: bool, words: bool) -> str:
    return _drop(text, letters, words)


def _drop(text: str, letters: bool, words: bool) -> str:
    lower = lower_case(text)
    if not w.may_deny(lower):
        return text
    kept: list[str] = []
    clauses = _split_clauses(text, lower)
    for index, clause in enumerate(clauses):
        if not w.may_deny(lower_case(clause)):
            kept.append(clause)
            continue
        revision = w.REVISES.match(clause)
        if index and (
            w.ONLY_DENIES.fullmatch(clause) or w.NO.fullmatch(clause) or _is_retraction(clauses, index)
        ):
            _drop_values_before(kept, letters)
        if revision:
            _drop_values_before(kept, letters)
            clause = f"{_line_break(clause)} it is{clause[revision.end() :]}"
        contrast = _BUT.match(clauses[index + 1]) if index + 1 < len(clauses) else None
        left = _drop_in_clause(clause, letters, words or contrast is not None)
        if left != clause:
            _drop_series_after(clauses, index)
        if left != clause and contrast:
            clauses[index + 1] = clauses[index + 1][contrast.end() :]
        kept.append(left)
    return "".join(kept)


def _drop_series_after(clauses: list[str], index: int) -> None:
    """Empties what goes on with a denied value: `, green or yellow` after `not blue`."""
    end = index + 1
    while end < len(clauses) and _MEMBER.fullmatch(clauses[end]):
        end += 1
        if _OR.search(clauses[end - 1]):
            clauses[index + 1 : end] = [" "] * (end - index - 1)
            if end < len(clauses) and (contrast := _BUT.match(clauses[end])):
                clauses[end] = clauses[end][contrast.end() :]
            return


_MEMBER = re.compile(r"(?:,|nor\b)\s*(?:or\s+)?[^\s,;.]+(?:\s+or\s+[^\s,;.]+)?\s*", re.IGNORECASE)
_OR = re.compile(r"\b(?:or|nor)\s", re.IGNORECASE)
_BUT = re.compile(r"(?:but|而)[ \t]*(?:rather\b|instead\b)?(?=\s*\S)", re.IGNORECASE)


def _is_retraction(clauses: list[str], index: int) -> bool:
    """Whether a clause is the "no" of `actually, no` or `42, no, 24`."""
    if not w.ALONE_NO.fullmatch(clauses[index]):
        return False
    before, after = clauses[index - 1], "".join(clauses[index + 1 : index + 2])
    return (
        len(before) > 2
        and w.ASIDE.fullmatch(before) is not None
        or _ONLY_A_VALUE.fullmatch(after) is not None
    )


def tidy(text: str) -> str:
    """A text from which something was dropped, without punctuation and interjections left at its ends."""
    return _LEFT_OVER.sub("", " ".join(text.split())).rstrip(" ,;:")


_LEFT_OVER = re.compile(
    r"\A(?:[,;:.!?…—→⇒)\s]|->|--?\s|\b(?:no|nope|wait|sorry|actually|oops|well|but|rather|so)\b(?=\W))+",
    re.IGNORECASE,
)


def says_something(text: str) -> bool:
    """Whether more than function words is left of a text."""
    return any(word.casefold() not in _FUNCTION_WORDS for word in _SAID.findall(text))


_SAID = re.compile(r"[\w√π∞]+|\\[a-z]+")
_FUNCTION_WORDS = frozenset(
    "a an and answer are but be final i is it its no my of option result s so that the there this to value "
    "was we which would".split()
)


def is_denial(text: str) -> bool:
    """Whether a text has a word that could deny a value; an option may have one."""
    return w.DENIAL.search(lower_case(text)) is not None


def has_value(text: str, *, letters: bool = False) -> bool:
    """Whether a text holds a number, mathematics or, with `letters`, a capital letter."""
    return _VALUE.search(text) is not None or letters and _LETTER.search(text) is not None


def lower_case(text: str) -> str:
    """The text in lower case, position by position."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text


def _split_clauses(text: str, lower: str) -> list[str]:
    """The clauses of a text, each beginning with what parts it from the one before."""
    cuts = [0, *(cut.start() for cut in _CLAUSE.finditer(lower) if cut.start()), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


def _line_break(clause: str) -> str:
    """The line break that a clause begins with, which always stays: sentences are told apart by it."""
    return "\n" if clause.startswith("\n") else ""


def _drop_values_before(clauses: list[str], letters: bool) -> None:
    """Empties the last clause that says anything: the one that "that is wrong" is about."""
    for index in range(len(clauses) - 1, -1, -1):
        if not w.ASIDE.fullmatch(clauses[index]):
            if has_value(clauses[index], letters=letters):
                clauses[index] = _line_break(clauses[index]) or (
                    clauses[index][:1] if clauses[index][:1] in ",.;" else " "
                )
            return


def _drop_in_clause(clause: str, letters: bool, words: bool) -> str:
    if start_of_line := _line_break(clause):
        return start_of_line + _drop_in_clause(clause[1:], letters, words)
    at, kept = 0, []
    for denial in w.DENIAL.finditer(lower_case(clause)):
        if denial.start() < at:
            continue
        start, end = denial.span()
        subject = _find_subject(clause, at, start, letters) if denial["untrue"] else None
        if subject is None and words and w.CALLED_WRONG.match(denial[0]):
            subject = at
        if subject is not None:
            start, end = subject, len(clause)
        elif denial["governs"]:
            end = len(clause)
        elif denial["excludes"]:
            end = copula.start() if (copula := _COPULA.search(clause, end, end + _FAR)) else len(clause)
        else:
            start += len(copula[0]) if (copula := w.BE_BEFORE.match(denial[0])) else 0
            end = _find_denied_end(clause, end, denial, letters, words)
            if end < 0:
                continue
        kept.append(clause[at:start])
        at = end
    left = " ".join((*kept, clause[at:])) if at else clause
    return " " if left.strip() == "(" else left


def _find_denied_end(clause: str, at: int, denial: re.Match[str], letters: bool, words: bool) -> int:
    """Where the words end that `not` or `more than` denies; -1 if these words hold no value."""
    value = _find_value(clause, at, letters)
    reach = 0 if value is None else len(clause[at : value.start()].split())
    if reach > _REACH or denial["limits"] and reach > 1:
        return -1
    if value is not None and denial["limits"]:
        return value.end()
    if value is None and (denial["limits"] or not words or not clause[at:].strip(" .")):
        return -1
    pattern, after = (_COPULA, at) if value is None else (_NEXT_CLAIM, value.end())
    copula = pattern.search(clause, after, after + _FAR)
    return copula.start() if copula else len(clause)


def _find_value(clause: str, at: int, letters: bool) -> re.Match[str] | None:
    """The first value of a clause from `at` on; a letter only after words that lead up to an answer."""
    found = [_VALUE.search(clause, at, at + _FAR)]
    if (
        letters
        and (letter := _LETTER.search(clause, at, at + _FAR))
        and _LEADING.fullmatch(clause, at, letter.start())
    ):
        found.append(letter)
    return min((match for match in found if match), key=lambda match: match.start(), default=None)


def _find_subject(clause: str, at: int, end: int, letters: bool) -> int | None:
    """Where the value begins that a predicate at `end` speaks of; None if it speaks of something else."""
    for pattern in (_VALUE, _LETTER) if letters else (_VALUE,):
        found = list(pattern.finditer(clause, max(at, end - _FAR), end))
        last = found[-1] if found else None
        if (
            last
            and _SUBJECT_END.fullmatch(clause, last.end(), end)
            and (pattern is _VALUE or _REJECTS.match(clause, end))
        ):
            return last.start()
    return None

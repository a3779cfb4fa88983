"""MathVision (arXiv 2402.14804): competition problems, 16 subjects, 5 levels; scored by the authors' rules, without a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.benchmark.scorers.formula import value
from openvlt.types import Problem

OPTION_LETTERS = "ABCDE"


def read_mathvision(row: dict[str, Any], part: str) -> Problem:
    """A row of MathLLMs/MathVision. `options` may be the five letters themselves (they are in the picture), or missing."""
    options = tuple(str(option) for option in row["options"] or ())
    answer, subject, level = cell_text(row, "answer"), cell_text(row, "subject"), int(row["level"])
    return Problem(
        id=cell_text(row, "id"),
        question=cell_text(row, "question"),
        answer=answer,
        choices=options or None,
        source="mathvision",
        level=level,
        meta={
            "cells": {"subject": subject, "level": str(level), "subject, level": f"{subject}, level {level}"},
            "cluster": cell_text(row, "id"),
            "faults": _faults(answer, options),
            "listed": options if "".join(options) != OPTION_LETTERS else (),
        },
    )


def _faults(answer: str, options: Sequence[str]) -> list[str]:
    found = []
    if not options and answer in tuple(OPTION_LETTERS):
        found.append(f"the answer is {answer!r}, but the row has no options")
    if len(set(options)) < len(options):
        found.append("an option occurs twice")
    if any(ord(letter) < 32 for letter in answer):
        found.append("the answer holds a control character")
    return found


def score_mathvision(cases: Sequence[Case], judge: JudgeModel | None = None) -> list[Answer]:
    """mathllm/MATH-V, evaluation/evaluate.py with `regen_answer`: equal to the letter or to that option's text."""
    return [_official(case) for case in cases]


def _official(case: Case) -> Answer:
    gold, options = case.problem.answer, case.problem.choices or ()
    place = ord(gold) - ord("A") if options and len(gold) == 1 else -1
    option = options[place] if 0 <= place < len(options) else ""
    answer = extract_mathvision(case.response)
    return Answer.of(
        answer or None, same_mathvision_answer(gold, answer) or same_mathvision_answer(option, answer)
    )


# --- extraction ---------------------------------------------------------------------------------------------------------

_ANNOUNCED = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")


def extract_mathvision(response: str) -> str:
    """The answer of a response: a letter at an end, a number after "is", what is announced, the last box; cleaned."""
    answer = response.strip()
    for letter in OPTION_LETTERS:
        ends = answer.endswith((f" {letter}.", f" ({letter})."))
        if ends or answer.startswith((f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")):
            answer = letter
    last = answer.split("is ")[-1].rstrip(".")
    if is_number(last):
        answer = last
    if "oxed{" not in answer:
        for words in _ANNOUNCED:
            answer = _after(_after(answer, words), words.replace("the", "The"))
    elif answer.count("oxed{") > 1:
        answer = "\\boxed{" + answer.split("oxed{")[-1]
    answer = read_box(answer)
    for letter in "abcde":
        answer = answer.replace(f"({letter})", letter)
    for letter in "abcde":
        answer = answer.replace(f"{{{letter}}}", letter)
    return answer.rstrip(".").lstrip(":").strip()


def is_number(words: str) -> bool:
    """Whether Python reads the text as a float."""
    try:
        float(words)
    except ValueError:
        return False
    return True


def _after(answer: str, words: str) -> str:
    """What follows the last `words`, to the end of its sentence."""
    rest = answer.split(words)[-1].strip()
    return rest.split("\n")[0].split(". ")[0] if words in answer else rest


def read_box(answer: str) -> str:
    """`find_math_answer`: from the first box to the last brace, lower case, cleaned."""
    answer = answer.lower().replace("{}", "")
    start, end = answer.find("oxed{"), answer.rfind("}")
    if 0 <= start < end - 4:
        answer = answer[start + 5 : end]
    closing, opening = answer.find("}"), answer.find("{")
    if closing != -1 and (opening == -1 or closing < opening):
        answer = answer.split("}")[0]
    answer = answer.split("=")[-1].split("\\approx")[-1]
    for old, new in _FIRST:
        answer = answer.replace(old, new)
    return strip_answer(answer)


_FIRST = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""), ("\\text", ""), ("\\mbox", ""),
    ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("{m}^3", ""), ("m^3", ""),
    ("{units}", ""), ("units", ""), ("{km}", ""), ("km", ""),
)  # fmt: skip
_SECOND = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""),
    ("^\\circ", ""), ("\\$", ""), ("$", ""),
)  # fmt: skip


def strip_answer(answer: str) -> str:
    """`_strip_string`: units, percent signs, braces around roots and (only beside a root) fractions."""
    for old, new in _SECOND:
        answer = answer.replace(old, new)
    answer = answer.split("\\text{ ")[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if answer.startswith("."):
        answer = f"0{answer}"
    for mark in ("=", "\\approx"):
        if answer.count(mark) == 1:
            answer = answer.split(mark)[-1]
    if "sqrt" in answer:
        answer = _fractions(_roots(answer).replace(" ", ""))
    answer = answer.replace(" ", "")
    return _slash("\\frac{1}{2}" if answer == "0.5" else answer)


def _roots(answer: str) -> str:
    first, *rest = answer.split("\\sqrt")
    return first + "".join(
        f"\\sqrt{part}" if not part or part[0] == "{" else f"\\sqrt{{{part[0]}}}{part[1:]}" for part in rest
    )


def _fractions(answer: str) -> str:
    """`\\frac12` to `\\frac{1}{2}`, `\\frac1{2}` to `\\frac{1}{2}`; untouched when one can't be read."""
    first, *rest = answer.split("\\frac")
    for part in rest:
        if part.startswith("{"):
            first += f"\\frac{part}"
        elif len(part) < 2:
            return answer
        else:
            first += f"\\frac{{{part[0]}}}" + (part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}")
    return first


def _slash(answer: str) -> str:
    """`a/b` of two integers as a LaTeX fraction."""
    parts = answer.split("/")
    try:
        one, other = (int(part) for part in parts)
    except ValueError:
        return answer
    return f"\\frac{{{one}}}{{{other}}}" if answer == f"{one}/{other}" else answer


# --- comparison ---------------------------------------------------------------------------------------------------------


def same_mathvision_answer(gold: str, answer: str) -> bool:
    """`is_equal`: the same text, the same tuple, or the same number to two decimals; never for an empty text."""
    gold, answer = gold.lower(), answer.lower()
    if not gold.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if gold.strip() == answer.strip():
        return True
    gold, answer = _tuple(gold), _tuple(answer)
    if gold == answer:
        return True
    number = value(gold)
    return number is not None and number == value(answer)


def _tuple(words: str) -> str:
    """`(2*3, 5+2)` as `(6,7)`; anything else as it is."""
    parts = words[1:-1].split(",")
    if len(parts) < 2 or (words[0], words[-1]) not in (("(", ")"), ("[", "]")):
        return words
    values = [part if "infty" in part or part in ("a", "-a") else value(part) for part in parts]
    return words if None in values else f"{words[0]}{','.join(map(str, values))}{words[-1]}"

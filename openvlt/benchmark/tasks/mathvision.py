"""MathVision (arXiv 2402.14804): competition problems, 16 subjects, 5 levels.

Scored by the authors' rules, without a judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openvlt.benchmark.prompts import OPTION_LETTERS
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.benchmark.scorers.formula import rounded_value
from openvlt.benchmark.scorers.text import is_float
from openvlt.types import Problem

MATHVISION_LETTERS = OPTION_LETTERS[:5]


def read_mathvision(row: dict[str, Any], subset: str) -> Problem:
    """The problem of a row of MathLLMs/MathVision.

    `options` may be missing, or be the five letters themselves where the image shows the options.
    """
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
            "listed": options if "".join(options) != MATHVISION_LETTERS else (),
        },
    )


def _faults(answer: str, options: Sequence[str]) -> list[str]:
    found = []
    if not options and answer in tuple(MATHVISION_LETTERS):
        found.append(f"the answer is {answer!r}, but the row has no options")
    if len(set(options)) < len(options):
        found.append("an option occurs twice")
    if any(ord(letter) < 32 for letter in answer):
        found.append("the answer holds a control character")
    return found


def score_mathvision(cases: Sequence[Case], judge: JudgeModel | None = None) -> list[Answer]:
    """Scores by mathllm/MATH-V, evaluation/evaluate.py with `regen_answer`.

    The extracted answer has to equal the letter or that option's text.
    """
    return [_score_case(case) for case in cases]


def _score_case(case: Case) -> Answer:
    gold, options = case.problem.answer, case.problem.choices or ()
    place = ord(gold) - ord("A") if options and len(gold) == 1 else -1
    option = options[place] if 0 <= place < len(options) else ""
    answer = extract_mathvision(case.response)
    return Answer.of(
        answer or None, same_mathvision_answer(gold, answer) or same_mathvision_answer(option, answer)
    )


# --- extraction ---------------------------------------------------------------------------------------------

_ANNOUNCED = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")


def extract_mathvision(response: str) -> str:
    """The cleaned answer: a letter at an end, a number after "is", an announced answer, or the last box."""
    answer = response.strip()
    for letter in MATHVISION_LETTERS:
        ends = answer.endswith((f" {letter}.", f" ({letter})."))
        if ends or answer.startswith((f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")):
            answer = letter
    last = answer.split("is ")[-1].rstrip(".")
    if is_float(last):
        answer = last
    if "oxed{" not in answer:
        for words in _ANNOUNCED:
            answer = _text_after(_text_after(answer, words), words.replace("the", "The"))
    elif answer.count("oxed{") > 1:
        answer = "\\boxed{" + answer.split("oxed{")[-1]
    answer = read_box(answer)
    for letter in "abcde":
        answer = answer.replace(f"({letter})", letter)
    for letter in "abcde":
        answer = answer.replace(f"{{{letter}}}", letter)
    return answer.rstrip(".").lstrip(":").strip()


def _text_after(answer: str, words: str) -> str:
    """What follows the last `words`, to the end of its sentence."""
    rest = answer.split(words)[-1].strip()
    return rest.split("\n")[0].split(". ")[0] if words in answer else rest


def read_box(answer: str) -> str:
    """`find_math_answer`: the text from the first box to the last brace, in lower case, cleaned."""
    answer = answer.lower().replace("{}", "")
    start, end = answer.find("oxed{"), answer.rfind("}")
    if 0 <= start < end - 4:
        answer = answer[start + 5 : end]
    closing, opening = answer.find("}"), answer.find("{")
    if closing != -1 and (opening == -1 or closing < opening):
        answer = answer.split("}")[0]
    answer = answer.split("=")[-1].split("\\approx")[-1]
    for old, new in _BOX_REPLACEMENTS:
        answer = answer.replace(old, new)
    return strip_answer(answer)


_BOX_REPLACEMENTS = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"),
    ("\n", ""), ("\\text", ""), ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""),
    ("{km}", ""), ("km", ""),
)  # fmt: skip
_STRIP_REPLACEMENTS = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""),
    ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""), ("$", ""),
)  # fmt: skip


def strip_answer(answer: str) -> str:
    """`_strip_string`: drops units and percent signs, adds braces to roots and, beside a root, fractions."""
    for old, new in _STRIP_REPLACEMENTS:
        answer = answer.replace(old, new)
    answer = answer.split("\\text{ ")[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if answer.startswith("."):
        answer = f"0{answer}"
    for mark in ("=", "\\approx"):
        if answer.count(mark) == 1:
            answer = answer.split(mark)[-1]
    if "sqrt" in answer:
        answer = _brace_fractions(_brace_roots(answer).replace(" ", ""))
    answer = answer.replace(" ", "")
    return _slash_to_fraction("\\frac{1}{2}" if answer == "0.5" else answer)


def _brace_roots(answer: str) -> str:
    """`\\sqrt2` as `\\sqrt{2}`."""
    first, *rest = answer.split("\\sqrt")
    return first + "".join(
        f"\\sqrt{part}" if not part or part[0] == "{" else f"\\sqrt{{{part[0]}}}{part[1:]}" for part in rest
    )


def _brace_fractions(answer: str) -> str:
    """`\\frac12` and `\\frac1{2}` as `\\frac{1}{2}`; the answer as it is when one can't be read."""
    first, *rest = answer.split("\\frac")
    for part in rest:
        if part.startswith("{"):
            first += f"\\frac{part}"
        elif len(part) < 2:
            return answer
        else:
            first += f"\\frac{{{part[0]}}}" + (part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}")
    return first


def _slash_to_fraction(answer: str) -> str:
    """`a/b` of two integers as a LaTeX fraction."""
    parts = answer.split("/")
    try:
        one, other = (int(part) for part in parts)
    except ValueError:
        return answer
    return f"\\frac{{{one}}}{{{other}}}" if answer == f"{one}/{other}" else answer


# --- comparison ---------------------------------------------------------------------------------------------


def same_mathvision_answer(gold: str, answer: str) -> bool:
    """`is_equal`: the same text, tuple, or number to two decimals; an empty text equals nothing."""
    gold, answer = gold.lower(), answer.lower()
    if not gold.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if gold.strip() == answer.strip():
        return True
    gold, answer = _evaluate_tuple(gold), _evaluate_tuple(answer)
    if gold == answer:
        return True
    number = rounded_value(gold)
    return number is not None and number == rounded_value(answer)


def _evaluate_tuple(text: str) -> str:
    """`(2*3, 5+2)` as `(6,7)`; anything else as it is."""
    parts = text[1:-1].split(",")
    if len(parts) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    values = [part if "infty" in part or part in ("a", "-a") else rounded_value(part) for part in parts]
    return text if None in values else f"{text[0]}{','.join(map(str, values))}{text[-1]}"

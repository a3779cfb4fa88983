"""EMMA (arXiv 2501.05444): mathematics, physics, chemistry and coding, with images in questions and options.

Scored by the authors' "fast" rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openvlt.benchmark.prompts import OPTION_LETTERS, QUESTION_IN_IMAGE
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.benchmark.scorers.formula import same_rounded_value
from openvlt.benchmark.scorers.number_words import number_of_words
from openvlt.benchmark.scorers.text import find_boxes, is_float
from openvlt.types import Problem

EMMA_LETTERS = OPTION_LETTERS[:8]


def read_emma(row: dict[str, Any], subset: str) -> Problem:
    """The problem of a row of luckychao/EMMA or -mini. Options count only if `type` is multiple choice."""
    is_choice = cell_text(row, "type").lower() == "multiple choice"
    options = tuple(str(option) for option in row["options"] or ()) if is_choice else ()
    subject = cell_text(row, "subject")
    context = row.get("context")
    question = str(row["question"] or "")  # chem_146 of the full set has its question in the image
    return Problem(
        id=cell_text(row, "pid"),
        question=question,
        answer=cell_text(row, "answer"),
        choices=options or None,
        source="emma",
        meta={
            "cells": {
                "subject": subject,
                "type": cell_text(row, "type").lower(),
                "category": tuple(f"{subject}: {label}" for label in _labels(row, "category", subject)),
                "task": tuple(f"{subject}: {label}" for label in _labels(row, "task", subject)),
            },
            "cluster": cell_text(row, "pid"),
            "context": "None" if context is None else str(context),  # as the authors' format string prints it
            "shown": f"{context}\n{question}" if context else question or QUESTION_IN_IMAGE,
        },
    )


def _labels(row: Mapping[str, Any], column: str, subject: str) -> list[str]:
    """The labels of a cell: none of an empty one, of Coding's categories those between the `;`.

    Source: EMMA-Bench/EMMA, evaluation/calculate_acc.py.
    """
    cell = str(row[column] or "")
    labels = cell.split(";") if subject == "Coding" and column == "category" else [cell]
    return [label.strip() for label in labels if label.strip()]


def score_emma(cases: Sequence[Case], judge: JudgeModel | None = None) -> list[Answer]:
    """Scores by EMMA-Bench/EMMA, evaluation/evaluate.py without `--gpt_eval`.

    The extracted answer has to equal the letter or that option's text.
    """
    return [_score_case(case) for case in cases]


def _score_case(case: Case) -> Answer:
    gold, options = case.problem.answer, case.problem.choices or ()
    place = ord(gold.upper()) - ord("A") if len(gold) == 1 else -1
    content = options[place] if 0 <= place < len(options) else gold
    if not case.response:
        return Answer.of(None, False)
    answer = extract_emma(case.response)
    return Answer.of(answer or None, same_emma_answer(answer, gold) or same_emma_answer(answer, content))


def extract_emma(response: str) -> str:
    """`fast_extract_answer`: a bare letter or number, the last box, or an announced answer; "" for none.

    Of a box that holds `\\text{}`, the last such text is taken.
    """
    response = response.strip()
    for letter in EMMA_LETTERS:
        if response.upper() == letter or response.startswith((f"{letter}:", f"{letter}.")):
            return letter
    if is_float(response):
        return response
    if boxes := find_boxes(response):
        texts = re.findall(r"\\text{(.*?)}", boxes[-1])
        return (texts or boxes)[-1].strip()
    lower = response.lower()
    for words in ("final answer is", "correct answer is", "answer should be", "answer is", "answer:"):
        if words in lower:
            return lower.split(words)[-1].strip().split("\n")[0].split(".")[0]
    return ""


def same_emma_answer(answer: str, gold: str) -> bool:
    """`is_equal`: the same text, a number in words, or the same number to two decimals."""
    answer, gold = answer.lower(), gold.lower()
    if answer.strip() == gold.strip():
        return True
    number = number_of_words(answer)
    return number is not None and str(number) == gold.strip() or same_rounded_value(answer, gold)

"""MathVista (arXiv 2310.02255): an answer is extracted, then compared by type as a string.

In the original a language model extracts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openvlt.benchmark.prompts import OPTION_LETTERS
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.types import Problem
from openvlt.verify import extract as extract_answer

_CELLS = ("language", "source", "category", "task", "context", "grade", "skills")


def read_mathvista(row: dict[str, Any], subset: str) -> Problem:
    """The problem of a row of AI4Math/MathVista. The gold of a choice is the option's text.

    `precision` is a float on the hub, an integer in git.
    """
    metadata = row["metadata"]
    cells = {"question_type": cell_text(row, "question_type"), "answer_type": cell_text(row, "answer_type")}
    cells |= {
        name: tuple(metadata[name]) if isinstance(metadata[name], list) else str(metadata[name])
        for name in _CELLS
    }
    choices = tuple(str(choice) for choice in row["choices"] or ())
    return Problem(
        id=cell_text(row, "pid"),
        question=cell_text(row, "question"),
        answer=cell_text(row, "answer"),
        choices=choices or None,
        answer_type="list" if row["answer_type"] == "list" else "text" if choices else None,
        source="mathvista",
        meta={
            "cells": cells,
            "cluster": cell_text(row, "pid"),
            "query": str(row.get("query") or mathvista_query(row)),
            "kind": "choice" if choices else row["answer_type"],
            "precision": None if row["precision"] is None else int(row["precision"]),
        },
    )


_VALUES_WANTED = {
    ("integer", None): ("an integer answer", "value, e.g., 1, 2, 3"),
    ("float", 1): ("a floating-point number with one decimal place", "value, e.g., 1.2, 1.3, 1.4"),
    ("float", 2): ("a floating-point number with two decimal places", "value, e.g., 1.23, 1.34, 1.45"),
    ("list", None): ("a Python list as an answer", "list, e.g., [1, 2, 3], [1.2, 1.3, 1.4]"),
}


def mathvista_query(row: Mapping[str, Any]) -> str:
    """The prompt of a row of `data/testmini.json`, which has none: as in the hub's column `query`.

    Source: lupantech/MathVista, evaluation/build_query.py (no examples, no caption).
    """
    if row["question_type"] == "multi_choice":
        wanted = "and provide the correct option letter, e.g., A, B, C, D, at the end."
    else:
        places = int(row["precision"]) if row["answer_type"] == "float" else None
        kind, value = _VALUES_WANTED[row["answer_type"], places]
        wanted = f"requiring {kind} and provide the final {value}, at the end."
    unit = f" (Unit: {row['unit']})" if row.get("unit") else ""
    lines = [f"Hint: Please answer the question {wanted}", f"Question: {row['question']}{unit}"]
    if choices := row["choices"]:
        letters = zip(OPTION_LETTERS, choices, strict=False)
        lines += ["Choices:", *(f"({letter}) {choice}" for letter, choice in letters)]
    return "\n".join(lines).strip()


def score_mathvista(
    cases: Sequence[Case], judge: JudgeModel | None = None, *, prompt: str = ""
) -> list[Answer]:
    """Scores by lupantech/MathVista, extract_answer.py, calculate_score.py (today's rule, `int(float(x))`).

    A recorded `extraction` is used, else the response itself where it is an option, an integer or a float.
    For the other cases the judge extracts, with the authors' examples in `prompt`; without a judge our own
    rules do.
    """
    plain = [plain_extraction(case) for case in cases]
    rest = [case for case, extraction in zip(cases, plain, strict=True) if extraction is None]
    if judge is not None:
        replies = judge.ask([_extraction_prompt(case, prompt) for case in rest])
    else:
        replies = [extract_answer(case.response, choices=case.problem.choices) or "" for case in rest]
    remaining = iter(replies)
    return [
        _grade(case.problem, next(remaining) if extraction is None else extraction)
        for case, extraction in zip(cases, plain, strict=True)
    ]


def _extraction_prompt(case: Case, prompt: str) -> str:
    return f"{prompt.strip()}\n\n{case.problem.question}\n\n{case.response}\n\nExtracted answer: "


def has_recorded_extraction(case: Case) -> bool:
    """Whether the answer needs no language model to extract it."""
    return plain_extraction(case) is not None


def plain_extraction(case: Case) -> str | None:
    """The extraction without a language model: a recorded one, or the response itself; None if one is needed.

    A recorded one is taken as it is: of an empty one the original takes the nearest option, a number it reads
    as text.
    """
    recorded, response, kind = case.recorded.get("extraction"), case.response, case.problem.meta["kind"]
    if recorded is not None:
        return str(recorded)
    if response == "" or response in (case.problem.choices or ()):
        return response
    for name, read_number in (("integer", int), ("float", float)):
        if kind == name:
            try:
                return str(read_number(response))
            except ValueError:
                return None
    return None


def _grade(problem: Problem, extraction: str) -> Answer:
    """Compares as strings. An empty extraction is correct if the nearest option is, else it is no answer."""
    prediction = normalise_extraction(extraction, problem.choices, problem.meta)
    correct = prediction == problem.answer
    return Answer.of(prediction if extraction.strip() or correct else None, correct)


def normalise_extraction(
    extraction: str, choices: Sequence[str] | None, meta: Mapping[str, Any]
) -> str | None:
    """The prediction, written as the gold is: an option's text, an integer, a rounded float; else None."""
    if choices:
        answer = extraction.strip()
        if letters := re.findall(r"\(([a-zA-Z])\)", answer):
            answer = letters[0].upper()
        place = ord(answer) - ord("A") if len(answer) == 1 else -1
        return (
            choices[place]
            if 0 <= place < len(choices)
            else min(choices, key=lambda choice: edit_distance(answer, choice))
        )
    try:
        if meta["kind"] == "integer":
            return str(int(float(extraction)))
        return str(round(float(extraction), meta["precision"])) if meta["kind"] == "float" else extraction
    except (ValueError, OverflowError):
        return None


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's edit distance."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, 1):
        before, row[0] = row[0], index
        for place, second in enumerate(other, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (letter != second)),
            )
    return row[-1]

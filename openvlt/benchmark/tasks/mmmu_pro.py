"""MMMU-Pro (arXiv 2409.02813): questions with up to ten options, and the same questions as screenshots.

Parsed by the authors' rules, but never at random.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openvlt.benchmark.prompts import OPTION_LETTERS, QUESTION_IN_IMAGE, PromptTemplate, template_style
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.types import Problem

STANDARD, FOUR, VISION = "standard (10 options)", "standard (4 options)", "vision"
SCREENSHOT = {"shown": QUESTION_IN_IMAGE, "lists_options": False}
_MARKS = re.compile(r"vision|standard|(?:10|4)[ _]?opt")


def read_mmmu_pro(row: dict[str, Any], subset: str) -> Problem:
    """The problem of a row of MMMU/MMMU_Pro, or of the authors' published outputs.

    Those outputs keep the ten options beside MMMU's own four. `options` is a list or its string form. Rows of
    the vision configuration have no question on the hub.
    """
    if row.get("shuffled_options") and subset != FOUR:
        row = {**row, "options": row["shuffled_options"], "answer": row.get("shuffled_options_answer")}
    given = row["options"]
    try:
        options = tuple(map(str, ast.literal_eval(given) if isinstance(given, str) else given))
    except (ValueError, SyntaxError, TypeError):
        raise UserError(
            f"column 'options' holds {given!r:.60}; expected a list, or a list written as text"
        ) from None
    name = cell_text(row, "id")
    cells = {
        "config": subset,
        "subject": str(row.get("subject") or name.split("_", 1)[-1].rpartition("_")[0]),
    }
    if row.get("topic_difficulty"):
        cells["difficulty"] = str(row["topic_difficulty"])
    return Problem(
        id=f"{subset}/{name}",
        question=str(row.get("question") or ""),
        answer=cell_text(row, "answer"),
        choices=options,
        source="mmmu_pro",
        meta={"cells": cells, "cluster": name, "config": subset} | (SCREENSHOT if subset == VISION else {}),
    )


def score_mmmu_pro(cases: Sequence[Case], judge: JudgeModel | None = None) -> list[Answer]:
    """Scores by MMMU-Benchmark/MMMU, mmmu-pro/evaluate.py.

    Where the original draws an option at random, the answer counts as unparsed.
    """
    return [_score_case(case) for case in cases]


def _score_case(case: Case) -> Answer:
    letter = parse_choice(case.response, case.problem.choices or ())
    return Answer.of(letter, letter == case.problem.answer)


def parse_choice(response: str, options: Sequence[str]) -> str | None:
    """The letter that a response names, None when it names none."""
    letters = OPTION_LETTERS[: len(options)]
    place = response.rfind("Answer:")
    if place != -1:
        tail = response[place + len("Answer:") :].strip()
        if len(found := [letter for letter in letters if letter in tail]) == 1:
            return found[0]
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response = f" {response} "
    for form, position in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if found := [letter for letter in letters if form.format(letter) in response]:
            return max(found, key=lambda letter: response.rfind(position.format(letter)))
    if len(response.split()) > 5:
        lower = response.lower()
        if found := [
            letter for letter, option in zip(letters, options, strict=True) if option.lower() in lower
        ]:
            return max(found, key=lambda letter: lower.rfind(options[ord(letter) - ord("A")].lower()))
    return None


def mmmu_pro_metrics(rows: Sequence[tuple[Problem, float]]) -> dict[str, Any]:
    """`overall`: the mean of the accuracies of "standard (10 options)" and "vision", where both were run."""
    shares: dict[str, list[float]] = {}
    for problem, share in rows:
        shares.setdefault(problem.meta["config"], []).append(share)
    both = [shares.get(name, []) for name in (STANDARD, VISION)]
    return {"overall": sum(sum(group) / len(group) for group in both) / 2} if all(both) else {}


def mmmu_pro_subset(row: Mapping[str, Any], hint: str) -> str:
    """The configuration of a row, from its `config` or `type`, else the last that the hint names."""
    columns = f"{row.get('config') or ''} {row.get('type') or ''}"
    marks = _MARKS.findall(columns.lower()) or _MARKS.findall(hint.lower()) or ["standard"]
    if marks[-1] == "vision":
        return VISION
    return FOUR if marks[-1].startswith("4") else STANDARD


@dataclass(frozen=True)
class MMMUProTemplate:
    """Two prompts: one for the standard configurations, one for the screenshots."""

    standard: PromptTemplate
    vision: PromptTemplate
    marks: str | None = None

    def __call__(self, problem: Problem) -> Problem:
        return (self.vision if problem.meta["config"] == VISION else self.standard)(problem)

    def style(self, style: PromptStyle) -> PromptStyle:
        """See `PromptTemplate.style`."""
        return template_style(self.marks, style)

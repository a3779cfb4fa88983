"""MMMU-Pro (arXiv 2409.02813): up to ten options, and the same questions as screenshots; parsed by the authors' rules, never at random."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from openvlt.benchmark import prompts
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.errors import UserError
from openvlt.types import Problem

STANDARD, FOUR, VISION = "standard (10 options)", "standard (4 options)", "vision"
SCREENSHOT = {"shown": prompts.IN_THE_IMAGE, "lists_options": False}
_MARKS = re.compile(r"vision|standard|(?:10|4)[ _]?opt")


def read_mmmu_pro(row: dict[str, Any], part: str) -> Problem:
    """A row of MMMU/MMMU_Pro, or of the authors' published outputs, which keep the ten options beside MMMU's own four.

    `options` is a list or its string form; rows of the vision configuration have no question on the hub.
    """
    if row.get("shuffled_options") and part != FOUR:
        row = {**row, "options": row["shuffled_options"], "answer": row.get("shuffled_options_answer")}
    given = row["options"]
    try:
        options = tuple(map(str, ast.literal_eval(given) if isinstance(given, str) else given))
    except (ValueError, SyntaxError, TypeError):
        raise UserError(
            f"column 'options' holds {given!r:.60}; expected a list, or a list written as text"
        ) from None
    name = cell_text(row, "id")
    cells = {"config": part, "subject": str(row.get("subject") or name.split("_", 1)[-1].rpartition("_")[0])}
    if row.get("topic_difficulty"):
        cells["difficulty"] = str(row["topic_difficulty"])
    return Problem(
        id=f"{part}/{name}",
        question=str(row.get("question") or ""),
        answer=cell_text(row, "answer"),
        choices=options,
        source="mmmu_pro",
        meta={"cells": cells, "cluster": name, "config": part} | (SCREENSHOT if part == VISION else {}),
    )


def score_mmmu_pro(cases: Sequence[Case], judge: JudgeModel | None = None) -> list[Answer]:
    """MMMU-Benchmark/MMMU, mmmu-pro/evaluate.py; where the original draws an option at random, the answer counts as unparsed."""
    return [_official(case) for case in cases]


def _official(case: Case) -> Answer:
    letter = parse_choice(case.response, case.problem.choices or ())
    return Answer.of(letter, letter == case.problem.answer)


def parse_choice(response: str, options: Sequence[str]) -> str | None:
    """The letter that a response names, None when it names none."""
    letters = ascii_uppercase[: len(options)]
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
    shares: Mapping[str, list[float]] = {}
    for problem, right in rows:
        shares.setdefault(problem.meta["config"], []).append(right)
    both = [shares.get(name) for name in (STANDARD, VISION)]
    return {"overall": sum(sum(part) / len(part) for part in both) / 2} if all(both) else {}


def mmmu_pro_subset(row: Mapping[str, Any], said: str) -> str:
    """The configuration of a row: its `config` or `type`, else the last that `said` names: a part's label, a file's name."""
    own = f"{row.get('config') or ''} {row.get('type') or ''}"
    marks = _MARKS.findall(own.lower()) or _MARKS.findall(said.lower()) or ["standard"]
    return VISION if marks[-1] == "vision" else FOUR if marks[-1].startswith("4") else STANDARD


@dataclass(frozen=True)
class MMMUProTemplate:
    """Two prompts: one for the standard configurations, one for the screenshots."""

    standard: prompts.PromptTemplate
    vision: prompts.PromptTemplate
    marks: str | None = None

    def __call__(self, problem: Problem) -> Problem:
        return (self.vision if problem.meta["config"] == VISION else self.standard)(problem)

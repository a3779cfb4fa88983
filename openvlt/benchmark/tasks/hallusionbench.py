"""HallusionBench (arXiv 2310.14566): yes or no questions.

Its metrics also ask whether all answers about one figure, or to one question, are correct together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from openvlt.benchmark.prompts import fill_template
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.types import Problem, Verdict


def read_hallusionbench(row: dict[str, Any], subset: str) -> Problem:
    """The problem of a row of the authors' HallusionBench.json or of lmms-lab/HallusionBench; "1" is yes."""
    place = [str(row[name]) for name in ("category", "subcategory", "set_id", "figure_id", "question_id")]
    category, subcategory, set_id, figure_id, question_id = place
    no_figure = category == "VS" and figure_id == "0"
    return Problem(
        id="_".join(place),
        question=cell_text(row, "question"),
        answer="Yes" if cell_text(row, "gt_answer") == "1" else "No",
        source="hallusionbench",
        meta={
            "cells": {"category": category, "subcategory": f"{category}: {subcategory}"},
            "cluster": f"{category}_{subcategory}_{set_id}",
            "figure": None if no_figure else f"{category}_{subcategory}_{set_id}_{figure_id}",
            "pair": f"{category}_{subcategory}_{set_id}_{question_id}",
            "details": str(row.get("gt_answer_details") or row["gt_answer"]),
            "needs_image": hallusionbench_subset(row, subset) != "non_image",
        },
    )


def hallusionbench_subset(row: Mapping[str, Any], label: str) -> str:
    """`image` or `non_image`, by the row's `visual_input` (0: no image); the label where it has none.

    The authors' file holds both kinds, the hub's data set one in each split.
    """
    given = str(row.get("visual_input") or "")
    return label if not given else "non_image" if given == "0" else "image"


def score_hallusionbench(
    cases: Sequence[Case], judge: JudgeModel | None = None, *, prompt: str = ""
) -> list[Answer]:
    """Scores by tianyi-lab/HallusionBench, utils.py: the judge decides. Without one: by rules."""
    if judge is None:
        return hallusionbench_rules(cases)
    prompts = [
        fill_template(
            prompt,
            question=case.problem.question,
            reference=case.problem.meta["details"],
            answer=case.response,
        )
        for case in cases
    ]
    return [read_judgement(reply) for reply in judge.ask(prompts)]


def read_judgement(reply: str) -> Answer:
    """The answer to a judge's "incorrect", "correct", or else unclear."""
    lower = reply.lower()
    if "incorrect" in lower:
        return Answer(reply.strip(), Verdict.WRONG)
    return Answer(reply.strip(), Verdict.CORRECT) if "correct" in lower else Answer(None, Verdict.UNPARSED)


def hallusionbench_rules(cases: Sequence[Case], judge: JudgeModel | None = None) -> list[Answer]:
    """Scores responses that hold the word yes or the word no, and not both; others are UNPARSED."""
    answers = []
    for case in cases:
        words = set(re.findall(r"[a-z]+", case.response.lower())) & {"yes", "no"}
        word = words.pop().capitalize() if len(words) == 1 else None
        answers.append(Answer.of(word, word == case.problem.answer))
    return answers


def hallusionbench_metrics(rows: Sequence[tuple[Problem, float]]) -> dict[str, Any]:
    """aAcc per question, fAcc per figure (all questions), qAcc per question (all figures), and their mean.

    As in the authors' code, a figure is a category, subcategory, set and figure id; VS rows without a figure
    don't count for fAcc.
    """
    groups: dict[str, dict[str, list[float]]] = {"figure": defaultdict(list), "pair": defaultdict(list)}
    for problem, share in rows:
        for kind, group in groups.items():
            if (key := problem.meta[kind]) is not None:
                group[key].append(share)
    found: dict[str, Any] = {"aAcc": sum(share for _, share in rows) / len(rows)}
    for name, kind in (("fAcc", "figure"), ("qAcc", "pair")):
        all_correct = [all(share == 1 for share in group) for group in groups[kind].values()]
        if all_correct:
            found[name] = sum(all_correct) / len(all_correct)
    shares = [found[name] for name in ("aAcc", "fAcc", "qAcc") if name in found]
    return {**found, "leaderboard": sum(shares) / 3} if len(shares) == 3 else found

"""MathVerse (arXiv 2403.14624): 788 problems in five versions with images.

A judge extracts the answer, then decides whether it matches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from openvlt.benchmark.prompts import OPTION_LETTERS, QUESTION_IN_IMAGE, fill_template
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.types import Problem
from openvlt.verify import extract, verify_batch

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
_ASK_LETTER = "provide the correct option letter, e.g., A, B, C, D"
_ASK_VALUE = "provide the final value, e.g., 1, 2.5, 300"
_OPTION = re.compile(r"^([A-H]):(.*)$", re.MULTILINE)


def read_mathverse(row: dict[str, Any], subset: str) -> Problem:
    """The problem of a row of AI4Math/MathVerse. Scored is the whole question, `question_for_eval`.

    Shown is what the version leaves of it; Vision Only has no question. `query_cot` is made as the hub's
    column is where a file lacks it.
    """
    question, metadata = str(row.get("question") or ""), row["metadata"]
    whole = str(row.get("question_for_eval") or question)
    is_choice, version = row["question_type"] == "multi-choice", cell_text(row, "problem_version")
    choices = _choices(row.get("choices"), whole) if is_choice else None
    return Problem(
        id=cell_text(row, "sample_index"),
        question=whole,
        answer=cell_text(row, "answer"),
        choices=choices,
        source="mathverse",
        meta={
            "cells": {
                "version": version,
                "question_type": cell_text(row, "question_type"),
                "subject": str(metadata["subject"]),
                "subfield": f"{metadata['subject']}: {metadata['subfield']}",
            },
            "cluster": cell_text(row, "problem_index"),
            "version": version,
            "query": str(row.get("query_cot") or query_cot(question, is_choice)),
            "shown": question or QUESTION_IN_IMAGE,
            "needs_image": version != "Text Only",
            "lists_options": bool(question) and not _OPTION.search(question),
        },
    )


def _choices(given: Sequence[str] | None, question: str) -> tuple[str, ...] | None:
    """The row's own options (a few files have them, with letters), or those under the question (`A:40°`)."""
    if given:
        return tuple(_OPTION.sub(r"\2", str(option)).strip() for option in given)
    lines = _OPTION.findall(question)
    in_order = [letter for letter, _ in lines] == list(OPTION_LETTERS[: len(lines)])
    return tuple(option.strip() for _, option in lines) if len(lines) > 1 and in_order else None


def query_cot(question: str, is_choice: bool) -> str:
    """The benchmark's chain-of-thought prompt; without a question (Vision Only) it points at the image."""
    wanted = _ASK_LETTER if is_choice else _ASK_VALUE
    if not question:
        shown = "According to the question shown in the image, please first conduct reasoning, and then"
        return f"{shown} answer the question and {wanted}, at the end."
    request = f"Please first conduct reasoning, and then answer the question and {wanted}, at the end."
    return f"{request}\nQuestion: {question}"


def score_mathverse(
    cases: Sequence[Case],
    judge: JudgeModel | None = None,
    *,
    extract_prompt: str = "",
    score_prompt: str = "",
) -> list[Answer]:
    """Scores by ZrrSkywalker/MathVerse, extract_answer_s1.py, score_answer_s2.py. Without a judge: by rules.

    The judge extracts, then compares; a reply that is neither 0 nor 1 leaves the answer UNPARSED.
    """
    if judge is None:
        return mathverse_rules(cases)
    replies = judge.ask(
        [f"{extract_prompt.strip()}\nModel response: '{case.response}'\nExtracted Answer: " for case in cases]
    )
    extracted = [
        reply.replace("Extracted Answer:", "").replace("Extracted answer:", "").strip() for reply in replies
    ]
    prompts = [
        fill_template(score_prompt, question=case.problem.question, gt=case.problem.answer, extraction=text)
        for case, text in zip(cases, extracted, strict=True)
    ]
    judgements = [reply.replace("Judgement:", "").strip() for reply in judge.ask(prompts)]
    return [
        Answer.of(text if judgement in ("0", "1") else None, judgement == "1")
        for text, judgement in zip(extracted, judgements, strict=True)
    ]


def mathverse_rules(cases: Sequence[Case], judge: JudgeModel | None = None) -> list[Answer]:
    """Scores with our extraction and verifier in the judge's place: a variant, not the benchmark's number."""
    items = [{"gold": c.problem.answer, "response": c.response, "choices": c.problem.choices} for c in cases]
    extracted = [extract(case.response, choices=case.problem.choices) for case in cases]
    verdicts = verify_batch(items, deadline_s=5.0)
    return [Answer(text, verdict) for text, verdict in zip(extracted, verdicts, strict=True)]


def mathverse_metrics(rows: Sequence[tuple[Problem, float]]) -> dict[str, Any]:
    """`overall`: the mean of the accuracies of the five versions with images, where all were run."""
    shares = {
        version: [share for problem, share in rows if problem.meta["version"] == version]
        for version in VERSIONS
    }
    if not all(shares.values()):
        return {}
    return {"overall": sum(sum(group) / len(group) for group in shares.values()) / len(shares)}

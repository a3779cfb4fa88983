"""MathVerse (arXiv 2403.14624): 788 problems in five versions with images; a judge extracts the answer, then says whether it matches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from openvlt.benchmark.prompts import IN_THE_IMAGE, fill_template
from openvlt.benchmark.protocol import Answer, Case, JudgeModel
from openvlt.benchmark.rows.tables import cell_text
from openvlt.types import Problem
from openvlt.verify import extract, verify_batch

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
_LETTER, _VALUE = (
    "provide the correct option letter, e.g., A, B, C, D",
    "provide the final value, e.g., 1, 2.5, 300",
)
_OPTION = re.compile(r"^([A-H]):(.*)$", re.MULTILINE)


def read_mathverse(row: dict[str, Any], part: str) -> Problem:
    """A row of AI4Math/MathVerse. `query_cot` is made as the hub's column is, where a file lacks it; Vision Only has no question.

    Scored is the whole question (`question_for_eval`); shown is what the version leaves of it.
    """
    question, metadata = str(row.get("question") or ""), row["metadata"]
    asked = str(row.get("question_for_eval") or question)
    many, version = row["question_type"] == "multi-choice", cell_text(row, "problem_version")
    choices = _choices(row.get("choices"), asked) if many else None
    return Problem(
        id=cell_text(row, "sample_index"),
        question=asked,
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
            "query": str(row.get("query_cot") or query_cot(question, many)),
            "shown": question or IN_THE_IMAGE,
            "lists_options": bool(question) and not _OPTION.search(question),
        },
    )


def _choices(given: Sequence[str] | None, question: str) -> tuple[str, ...] | None:
    """The options of the row (a few files keep them apart, letters included), or those written under the question as `A:40°`."""
    lines = _OPTION.findall(question)
    in_order = [letter for letter, _ in lines] == [chr(ord("A") + index) for index in range(len(lines))]
    if given:
        return tuple(_OPTION.sub(r"\2", str(option)).strip() for option in given)
    return tuple(option.strip() for _, option in lines) if len(lines) > 1 and in_order else None


def query_cot(question: str, many: bool) -> str:
    """The benchmark's chain-of-thought prompt; without a question (Vision Only) it points at the image."""
    asked = _LETTER if many else _VALUE
    if not question:
        shown = "According to the question shown in the image, please first conduct reasoning, and then"
        return f"{shown} answer the question and {asked}, at the end."
    return f"Please first conduct reasoning, and then answer the question and {asked}, at the end.\nQuestion: {question}"


def score_mathverse(
    cases: Sequence[Case],
    judge: JudgeModel | None = None,
    *,
    extract_prompt: str = "",
    score_prompt: str = "",
) -> list[Answer]:
    """ZrrSkywalker/MathVerse, extract_answer_s1.py and score_answer_s2.py: the judge extracts, then compares. Without one: `rules`."""
    if judge is None:
        return mathverse_rules(cases)
    said = judge.ask(
        [f"{extract_prompt.strip()}\nModel response: '{case.response}'\nExtracted Answer: " for case in cases]
    )
    found = [
        reply.replace("Extracted Answer:", "").replace("Extracted answer:", "").strip() for reply in said
    ]
    asked = [
        fill_template(
            score_prompt, question=case.problem.question, gt=case.problem.answer, extraction=extraction
        )
        for case, extraction in zip(cases, found, strict=True)
    ]
    replies = [reply.replace("Judgement:", "").strip() for reply in judge.ask(asked)]
    return [
        Answer.of(text_ if reply in ("0", "1") else None, reply == "1")
        for text_, reply in zip(found, replies, strict=True)
    ]


def mathverse_rules(cases: Sequence[Case], judge: JudgeModel | None = None) -> list[Answer]:
    """Our extraction and verifier in the judge's place. This is a variant of its own, not the benchmark's number."""
    items = [{"gold": c.problem.answer, "response": c.response, "choices": c.problem.choices} for c in cases]
    found = [extract(case.response, choices=case.problem.choices) for case in cases]
    return [
        Answer(answer, verdict)
        for answer, verdict in zip(found, verify_batch(items, deadline_s=5.0), strict=True)
    ]


def mathverse_metrics(rows: Sequence[tuple[Problem, float]]) -> dict[str, Any]:
    """`overall`: the mean of the accuracies of the five versions with images, where all were run."""
    shares = {
        version: [right for problem, right in rows if problem.meta["version"] == version]
        for version in VERSIONS
    }
    return (
        {"overall": sum(sum(part) / len(part) for part in shares.values()) / len(shares)}
        if all(shares.values())
        else {}
    )

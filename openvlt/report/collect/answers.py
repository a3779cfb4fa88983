"""All evaluated rows of a run: one entry per problem, with its answers in every stage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from openvlt.report.collect.pictures import PictureShelf
from openvlt.report.collect.rollouts import shorten_text
from openvlt.report.collect.runs import RunFolder
from openvlt.report.records import StageRecord
from openvlt.types import Verdict


def collect_answers(run: RunFolder, shelf: PictureShelf) -> dict[str, Any]:
    """The stages with answers, in order, and the problems with what each stage answered."""
    stages: list[dict[str, str]] = []
    problems: dict[str, dict[str, Any]] = {}
    for stage in run.stages:
        rows = list(read_answers(stage, run.kind))
        if not rows:
            continue
        control = "1" if stage.control else ""
        stages.append({"name": stage.name, "label": run.label_of(stage), "control": control})
        for row in rows:
            entry = problems.setdefault(str(row["id"]), _describe_row(row))
            pictures = shelf.add(row, stage)
            entry["pictures"] = entry["pictures"] or pictures
            entry["answers"].setdefault(stage.name, []).append(_describe_answer(row))
    for name, entry in problems.items():
        entry["pictures"] = entry["pictures"] or shelf.find(name)
    return {"stages": stages, "rows": list(problems.values())}


def read_answers(stage: StageRecord, kind: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a stage's evaluation (rows.jsonl or rows.parquet), or a distillation's problems."""
    if stage.folder is None:
        return
    if kind == "distill":
        yield from _distilled_rows(stage)
    elif (stage.folder / "rows.parquet").is_file():
        for row in stage.read_parquet("rows.parquet"):
            cells = json.loads(row.get("cells") or "{}")
            yield row | {"level": None, "source": " · ".join(map(str, cells.values()))}
    else:
        yield from stage.read_jsonl("rows.jsonl")


def _distilled_rows(stage: StageRecord) -> Iterator[Mapping[str, Any]]:
    """The kept traces; problems without one have an empty answer, where problems.parquet tells of them."""
    traces = stage.read_jsonl("traces.jsonl")
    there = {str(row["id"]) for row in traces}
    for row in traces:
        yield row | {"gold": row["answer"], "verdict": Verdict.CORRECT.value}
    for row in stage.read_parquet("problems.parquet"):
        if str(row["id"]) not in there:
            said = f"no trace was kept ({row['right']} of {row['samples']} chains were correct)"
            verdict = Verdict.NO_ANSWER.value if not row["right"] else Verdict.CORRECT.value
            yield row | {"gold": row["answer"], "response": said, "verdict": verdict}


def _describe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "question": str(row["question"]),
        "gold": str(row["gold"]),
        "level": row.get("level"),
        "source": row.get("source") or "",
        "type": row.get("answer_type") or "",
        "choices": list(row.get("choices") or ()),
        "pictures": [],
        "answers": {},
    }


def _describe_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "text": shorten_text(str(row["response"])),
        "verdict": row.get("verdict") or "",
        "right": bool(row.get("right", row.get("verdict") == Verdict.CORRECT.value)),
        "tokens": row.get("tokens"),
        "finished": row.get("finished"),
        "extracted": row.get("extracted"),
        "why": row.get("explanation") or [],
    }

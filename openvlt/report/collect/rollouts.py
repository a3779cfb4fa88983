"""The kept groups of every GRPO stage, step by step: problems once, completions by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openvlt.report.collect.pictures import PictureShelf
from openvlt.report.collect.runs import RunFolder
from openvlt.report.records import StageRecord

TEXT_BUDGET = 40_000_000  # characters of completions inside the page
LONGEST_SHOWN = 20_000  # characters of one completion


def collect_rollouts(run: RunFolder, shelf: PictureShelf, budget: int = TEXT_BUDGET) -> list[dict[str, Any]]:
    """One entry per stage with rollouts: its problems, its completions, and what was left out.

    Steps are numbered as in metrics.csv: the step that learns first from the rollout. Where the completions
    are longer than the budget, evenly spread steps are kept, the first and the last always.
    """
    found = []
    there = [(stage, rows) for stage in run.stages if (rows := read_rollouts(stage))]
    for stage, rows in there:
        kept, every = thin_steps(rows, budget // len(there))
        problems: dict[str, dict[str, Any]] = {}
        for row in kept:
            problems.setdefault(str(row["problem"]), _describe_problem(row, stage, shelf))
        found.append(
            {
                "stage": stage.name,
                "label": stage.label,
                "problems": problems,
                "rows": [_describe_completion(row) for row in kept],
                "every": every,
                "steps": len({row["step"] for row in rows}),
                "groups": max((row.get("groups") or 0 for row in rows), default=0),
                "kept": max(_groups_of_step(rows).values(), default=0),
            }
        )
    return found


def read_rollouts(stage: StageRecord) -> list[dict[str, Any]]:
    """The rows of rollouts.parquet, or of rollouts.jsonl while the stage still runs."""
    return stage.read_jsonl("rollouts.jsonl") or stage.read_parquet("rollouts.parquet")


def thin_steps(rows: list[dict[str, Any]], budget: int) -> tuple[list[dict[str, Any]], int]:
    """The rows of every n-th step, so that their texts fit the budget, and n."""
    size = sum(min(len(row["response"]), LONGEST_SHOWN) for row in rows)
    steps = sorted({row["step"] for row in rows})
    every = max(1, -(-size // max(1, budget)))
    kept = {*steps[::every], *steps[-1:]}
    return [row for row in rows if row["step"] in kept], every


def _groups_of_step(rows: list[dict[str, Any]]) -> dict[int, int]:
    groups: dict[int, set[str]] = {}
    for row in rows:
        groups.setdefault(row["step"], set()).add(str(row["problem"]))
    return {step: len(names) for step, names in groups.items()}


def _describe_problem(row: Mapping[str, Any], stage: StageRecord, shelf: PictureShelf) -> dict[str, Any]:
    return {
        "question": str(row["question"]),
        "gold": str(row["gold"]),
        "level": row.get("level"),
        "source": row.get("source") or "",
        "pictures": shelf.add(row, stage),
    }


def _describe_completion(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": row["step"] + 1,
        "problem": str(row["problem"]),
        "text": shorten_text(row["response"]),
        "tokens": row["tokens"],
        "finished": row["finished"],
        "origin": row.get("origin") or "policy",
        "verdict": row["verdict"],
        "extracted": row.get("extracted"),
        "why": row.get("explanation") or [],
        "reward": row["reward"],
        "terms": {name[7:]: value for name, value in row.items() if name.startswith("reward_")},
        "advantage": row["advantage"],
        "kept": row["kept"],
    }


def shorten_text(text: str) -> str:
    """The text, or its first `LONGEST_SHOWN` characters and how many more there are."""
    return (
        f"{text[:LONGEST_SHOWN]} … [{len(text) - LONGEST_SHOWN} more characters]"
        if len(text) > LONGEST_SHOWN
        else text
    )

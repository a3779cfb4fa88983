"""What a run was trained on and what it cost: rows, lengths, what was dropped, seconds, memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openvlt.report.collect.runs import RunFolder, flatten_config
from openvlt.report.records import StageRecord, finite_values, mean

_KINDS = {
    "base": "the model as it is",
    "distill": "distillation: traces to imitate",
    "sft": "supervised fine-tuning",
    "grpo": "reinforcement learning",
    "evaluate": "evaluation",
}


def collect_cost(run: RunFolder) -> dict[str, Any]:
    """For each stage what it did and what that took; bad rows by name with the reason."""
    skipped = run.record.results.get("skipped_rows") or {}
    return {
        "stages": [_describe_stage(stage, run) for stage in run.stages],
        "skipped": list(skipped.items())[:200] if isinstance(skipped, Mapping) else [],
        "skipped_count": len(skipped) if isinstance(skipped, Mapping) else int(skipped),
    }


def _describe_stage(stage: StageRecord, run: RunFolder) -> dict[str, Any]:
    start = stage.result.get("start")
    what = _KINDS.get(stage.kind, stage.kind)
    return {
        "stage": stage.name,
        "label": run.label_of(stage),
        "what": f"{what}, from {StageRecord(start).label}" if start else what,
        "done": stage.done,
        "seconds": stage.result.get("seconds"),
        "parts": _split_seconds(stage),
        "numbers": _list_numbers(stage),
    }


def _split_seconds(stage: StageRecord) -> dict[str, float]:
    """Seconds of a GRPO stage to generate, to judge and to update; of another one to train."""
    columns = stage.metrics
    elapsed = finite_values(columns.get("elapsed_s", ()))
    if not elapsed:
        return {}
    seen: dict[tuple[float, float], None] = {}
    pairs = zip(columns.get("generate_s", ()), columns.get("reward_s", ()), strict=False)
    seen |= dict.fromkeys(pairs)
    generate, reward = (sum(finite_values(column)) for column in zip(*seen, strict=True)) if seen else (0, 0)
    update = max(0.0, elapsed[-1] - generate - reward)
    found = {"generate": generate, "judge": reward, "update": update}
    return {name: round(seconds, 1) for name, seconds in found.items() if seconds}


def _list_numbers(stage: StageRecord) -> list[tuple[str, str]]:
    """Counts of the stage: training, distillation, lengths, speed, memory."""
    numbers: dict[str, Any] = {}
    for block in ("training", "distillation"):
        counts = stage.result.get(block) or {}
        numbers |= {key: value for key, value in counts.items() if key not in ("findings", "skipped_rows")}
    if stage.evaluation:
        numbers["evaluated answers"] = stage.evaluation["n"]
        numbers["mean tokens of an answer"] = stage.evaluation.get("length")
    for name, column in (
        ("mean completion tokens", "length"),
        ("share of completions in dropped groups", "dropped_groups"),
        ("tokens a second", "tokens_per_s"),
    ):
        if values := finite_values(stage.metrics.get(column, ())):
            numbers[name] = mean(values)
    if memory := finite_values(stage.metrics.get("memory_gib", ())):
        numbers["most memory, GiB"] = max(memory)
    return [(name.replace("_", " "), text) for name, text in flatten_config(numbers) if text != "–"]

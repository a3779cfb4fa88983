"""The curves of a run: the columns of every stage's metrics.csv, thinned where they are very long."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from openvlt.report.collect.runs import RunFolder, config_value
from openvlt.report.records import StageRecord

MOST_POINTS = 4000  # of one column
_COLUMNS = Path(__file__).parents[1] / "page" / "columns.json"


def collect_curves(run: RunFolder, most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """For each stage with metrics its columns, its reward weights and how often it saves a checkpoint."""
    curves = []
    for stage in run.stages:
        if columns := stage.metrics:
            curves.append(
                {
                    "stage": stage.name,
                    "label": stage.label,
                    "kind": stage.kind,
                    "columns": thin_columns(add_update(add_tokens(columns)), most),
                    "weights": reward_weights(run.config, stage),
                    "checkpoint_every": config_value(run.config, "trainer", "checkpoint_every"),
                }
            )
    return curves


def reward_weights(config: Mapping[str, Any], stage: StageRecord) -> dict[str, float]:
    """The weights of the reward's terms, the stage's own where it has some; {} where none are named."""
    own = config_value(config, "iteration", "stages", stage.name, "settings", "reward", "weights")
    weights = own or config_value(config, "grpo", "reward", "weights") or {}
    return {name: value for name, value in weights.items() if isinstance(value, (int, float))}


def add_tokens(columns: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The columns, with `tokens`: completion tokens sampled so far; rows of one rollout count once."""
    found = {name: list(values) for name, values in columns.items()}
    if not {"generate_s", "tokens_per_s"} <= found.keys():
        return found
    total, before, tokens = 0.0, None, []
    for rollout in zip(found["generate_s"], found["tokens_per_s"], strict=True):
        if rollout != before and not any(map(math.isnan, rollout)):
            total += rollout[0] * rollout[1]
        before = rollout
        tokens.append(round(total))
    return found | {"tokens": tokens}


def add_update(columns: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The columns, with `update_s`: seconds of each step that weren't spent on generating and judging."""
    found = {name: list(values) for name, values in columns.items()}
    if not {"generate_s", "reward_s", "elapsed_s"} <= found.keys():
        return found
    rows = zip(found["elapsed_s"], found["generate_s"], found["reward_s"], strict=True)
    updates, last, before = [], 0.0, None
    for elapsed, *rollout in rows:
        updates.append(max(0.0, elapsed - last - (sum(rollout) if rollout != before else 0.0)))
        last, before = elapsed, rollout
    return found | {"update_s": updates}


def thin_columns(columns: Mapping[str, Sequence[float]], most: int) -> dict[str, list[float | str | None]]:
    """Every n-th row, at most `most` and the last one; NaN as None, infinities as text."""
    rows = max(map(len, columns.values()), default=0)
    stride = max(1, math.ceil(rows / most))
    kept = sorted({*range(0, rows, stride), rows - 1}) if rows else []
    return {name: [_plain(values[row]) for row in kept] for name, values in columns.items()}


def _plain(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


@cache
def column_sentences() -> dict[str, str]:
    """What each column of metrics.csv means, as in docs/metrics.md."""
    return json.loads(_COLUMNS.read_text(encoding="utf-8"))

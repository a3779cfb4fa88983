"""Schedules: numbers that change over a run. Those of the parts of `GRPO` named in `PARTS` may be one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

from openvlt.errors import UserError

PARTS = (
    *("loss", "loss_aggregation", "advantage", "group_filter", "advantage_shaping", "view_passes"),
    *("rollout_plan", "rollout_correction", "kl", "auxiliary_losses", "reward_kl", "reward", "metric_hooks"),
)


class Schedule:
    """`schedule(step, total)`: the value at optimiser step `step` (from 0) of `total`."""

    def __call__(self, step: int, total: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Ramp(Schedule):
    """From `start` to `end` between the shares `begin` and `until` of the run; constant before and after.

    `shape` is linear, or cosine (half a period).
    """

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        if self.shape not in ("linear", "cosine"):
            raise UserError(f"schedule shape={self.shape!r}; it is linear or cosine")
        if not 0 <= self.begin < self.until <= 1:
            raise UserError(
                f"schedule begin={self.begin}, until={self.until}; they are shares of the run: "
                "0 <= begin < until <= 1"
            )

    def __call__(self, step: int, total: int) -> float:
        done = min(1.0, max(0.0, (step / max(total - 1, 1) - self.begin) / (self.until - self.begin)))
        share = done if self.shape == "linear" else (1 - math.cos(math.pi * done)) / 2
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """start x (1 - sigmoid(steepness x (step - middle) / total)): constant at first, then falling.

    NoisyRollout's noise, `ray_trainer.py`.
    """

    start: float
    steepness: float
    middle: float

    def __call__(self, step: int, total: int) -> float:
        return self.start * (1 - 1 / (1 + math.exp(-self.steepness * (step - self.middle) / total)))


def resolve_schedules(part: Any, step: int, total: int) -> Any:
    """`part` with every schedule inside it replaced by its value at this step.

    Looks into partials, dataclasses, mappings and sequences. What holds no schedule is returned as it is.
    """
    if isinstance(part, Schedule):
        return part(step, total)
    if isinstance(part, partial):
        changed = _resolve_entries(part.keywords, step, total)
        return partial(part.func, *part.args, **{**part.keywords, **changed}) if changed else part
    if is_dataclass(part) and not isinstance(part, type):
        changed = _resolve_entries(
            {entry.name: getattr(part, entry.name) for entry in fields(part) if entry.init}, step, total
        )
        return replace(part, **changed) if changed else part
    if isinstance(part, Mapping):
        changed = _resolve_entries(part, step, total)
        return {**part, **changed} if changed else part
    if isinstance(part, (list, tuple)):
        values = [resolve_schedules(item, step, total) for item in part]
        return values if any(new is not old for new, old in zip(values, part, strict=True)) else part
    return part


def _resolve_entries(items: Mapping[str, Any], step: int, total: int) -> dict[str, Any]:
    """The entries that hold a schedule, with its value in its place."""
    values = {name: resolve_schedules(value, step, total) for name, value in items.items()}
    return {name: value for name, value in values.items() if value is not items[name]}


def check_coefficient(where: str, value: Any, why: str = "0 switches it off") -> None:
    """Raises UserError for a number below 0; a schedule's values are checked when their step comes."""
    if not isinstance(value, Schedule) and value < 0:
        raise UserError(f"{where}={value} is negative; {why}")


def refuse_schedule(where: str, value: Any) -> None:
    """Raises UserError for a schedule, or a part with one inside, where numbers stay what they are."""
    if resolve_schedules(value, 0, 1) is not value:
        raise UserError(
            f"{where} can't be a schedule: it stays the same over a run; schedules go into numbers of "
            f"{', '.join(PARTS)}"
        )

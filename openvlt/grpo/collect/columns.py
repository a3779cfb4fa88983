"""Columns by name: a part's parameter names say what it wants to see of a rollout, as fixtures do in tests.

`def mine(reward_N, group_N, *, strength=1.0)` is given those two columns; parameters with a default are settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from openvlt.errors import UserError
from openvlt.types import Origin, Rollouts, Verdict

COLUMNS: Mapping[str, Callable[[Rollouts], Any]] = {
    "reward_N": lambda rollouts: rollouts.reward_N,
    "rewards": lambda rollouts: rollouts.rewards,
    "group_N": lambda rollouts: rollouts.group_N,
    "mask_NT": lambda rollouts: rollouts.mask_NT,
    "ids_NT": lambda rollouts: rollouts.ids_NT,
    "length_N": lambda rollouts: rollouts.mask_NT.sum(1),
    "correct_N": lambda rollouts: correct_rows(rollouts),
    "finished_N": lambda rollouts: _row_flags(
        rollouts, [completion.finished for completion in rollouts.completions]
    ),
    "level_N": lambda rollouts: _levels(rollouts),
    "origin_N": lambda rollouts: rollouts.origin_N,
    "view": lambda rollouts: rollouts.view,
    "adv_NT": lambda rollouts: rollouts.advantage,
    "old_NT": lambda rollouts: rollouts.logp["old"],
    "ref_NT": lambda rollouts: rollouts.logp["ref"],
    "behaviour_NT": lambda rollouts: rollouts.behaviour_logp_NT,
    "entropy_NT": lambda rollouts: rollouts.stats["entropy"],
    "logp": lambda rollouts: rollouts.logp,
    "stats": lambda rollouts: rollouts.stats,
    "problems": lambda rollouts: [rollouts.problems[group] for group in rollouts.group_N.tolist()],
    "completions": lambda rollouts: rollouts.completions,
}
EXTRA = ("weights", "penalty_NT")  # of an advantage only: the reward's weights, the KL term in the reward
SCORED = {
    "old_NT": "old",
    "entropy_NT": "old",
    "ref_NT": "reference",
    "logp": "old",
    "stats": "old",
}  # columns that cost a pass


def _row_flags(rollouts: Rollouts, flags: list[bool]) -> torch.Tensor:
    return torch.tensor(flags, dtype=torch.float32) if flags else torch.zeros(len(rollouts.completions))


def correct_rows(rollouts: Rollouts) -> torch.Tensor:
    """1 where the verdict is correct, else 0: (N,); NaN where it says nothing of the policy: given texts, rows only compared with."""
    flags_N = _row_flags(rollouts, [verdict is Verdict.CORRECT for verdict in rollouts.verdicts])
    if rollouts.origin_N is None:
        return flags_N
    return flags_N.masked_fill((rollouts.origin_N == Origin.INJECTED) | ~trained_rows(rollouts), torch.nan)


def _levels(rollouts: Rollouts) -> torch.Tensor:
    levels = [rollouts.problems[group].level for group in rollouts.group_N.tolist()]
    return torch.tensor([float("nan") if level is None else float(level) for level in levels])


def requested_columns(function: Callable[..., Any]) -> list[str]:
    """The columns that a part asks for: its parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]


def check_requested_columns(
    where: str, function: Callable[..., Any], *, extra: tuple[str, ...] = (), later: tuple[str, ...] = ()
) -> None:
    """Raises UserError when a part asks for something that isn't there, or that is computed `later` than the part runs."""
    known = [name for name in (*COLUMNS, *extra) if name not in later]
    if unknown := [name for name in requested_columns(function) if name not in known]:
        why = ", which isn't known yet when it runs" if set(unknown) & set(later) else ""
        raise UserError(
            f"{where} asks for {unknown}{why}; its parameters may be {', '.join(known)}, and settings with a default"
        )


def call_with_columns(function: Callable[..., Any], rollouts: Rollouts, **extra: Any) -> Any:
    """The part's result on these rollouts."""
    return function(
        **{
            name: extra[name] if name in extra else COLUMNS[name](rollouts)
            for name in requested_columns(function)
        }
    )


def trained_rows(rollouts: Rollouts) -> torch.Tensor:
    """Bool (N,): rows that are learned from, not only compared with."""
    return rollouts.origin_N != Origin.REWARD_ONLY

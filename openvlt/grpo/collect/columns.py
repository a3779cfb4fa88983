"""Calls the functions of a method with the columns that their parameters name.

`def mine(reward_N, group_N, *, strength=1.0)` is called with those two columns of the rollouts. Parameters
with a default are settings. Advantages, group filters, advantage shaping and metric hooks are called so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from openvlt.errors import UserError
from openvlt.types import Origin, ScoredRollouts, Verdict

COLUMNS: Mapping[str, Callable[[ScoredRollouts], Any]] = {
    "reward_N": lambda rollouts: rollouts.reward_N,
    "rewards": lambda rollouts: rollouts.rewards,
    "group_N": lambda rollouts: rollouts.group_N,
    "mask_NT": lambda rollouts: rollouts.mask_NT,
    "ids_NT": lambda rollouts: rollouts.ids_NT,
    "length_N": lambda rollouts: rollouts.mask_NT.sum(1),
    "correct_N": lambda rollouts: correct_rows(rollouts),
    "finished_N": lambda rollouts: torch.tensor([float(one.finished) for one in rollouts.completions]),
    "level_N": lambda rollouts: _levels(rollouts),
    "origin_N": lambda rollouts: rollouts.origin_N,
    "view": lambda rollouts: rollouts.view,
    "adv_NT": lambda rollouts: rollouts.adv_NT,
    "old_NT": lambda rollouts: rollouts.logp["old"],
    "ref_NT": lambda rollouts: rollouts.logp["ref"],
    "behaviour_NT": lambda rollouts: rollouts.behaviour_logp_NT,
    "entropy_NT": lambda rollouts: rollouts.stats["entropy"],
    "logp": lambda rollouts: rollouts.logp,
    "stats": lambda rollouts: rollouts.stats,
    "problems": lambda rollouts: rollouts.row_problems,
    "completions": lambda rollouts: rollouts.completions,
    "verdicts": lambda rollouts: rollouts.verdicts,
}
# only for an advantage: the weights of the reward's terms, the cost per token of a KL term in the reward
EXTRA = ("weights", "penalty_NT")
# columns that a scoring pass computes, and of which model
SCORED = {"old_NT": "old", "entropy_NT": "old", "ref_NT": "reference", "logp": "old", "stats": "old"}


def correct_rows(rollouts: ScoredRollouts) -> torch.Tensor:
    """1 where the verdict is CORRECT, else 0: (N,).

    NaN in rows that are not the policy's own answers: injected completions, rows that are only compared with.
    """
    correct_N = torch.tensor([float(verdict is Verdict.CORRECT) for verdict in rollouts.verdicts])
    return correct_N.masked_fill((rollouts.origin_N == Origin.INJECTED) | ~trained_rows(rollouts), torch.nan)


def trained_rows(rollouts: ScoredRollouts) -> torch.Tensor:
    """Bool (N,): rows that are learned from, not only compared with."""
    return rollouts.origin_N != Origin.REWARD_ONLY


def _levels(rollouts: ScoredRollouts) -> torch.Tensor:
    levels = [problem.level for problem in rollouts.row_problems]
    return torch.tensor([float("nan") if level is None else float(level) for level in levels])


def requested_columns(part: Callable[..., Any]) -> list[str]:
    """The names of a part's parameters without a default."""
    parameters = inspect.signature(part).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]


def check_requested_columns(
    where: str, part: Callable[..., Any], *, extra: tuple[str, ...] = (), later: tuple[str, ...] = ()
) -> None:
    """Raises UserError when a part requests a column that doesn't exist, or one computed `later`."""
    known = [name for name in (*COLUMNS, *extra) if name not in later]
    if unknown := [name for name in requested_columns(part) if name not in known]:
        why = ", which isn't known yet when it runs" if set(unknown) & set(later) else ""
        raise UserError(
            f"{where} asks for {unknown}{why}; its parameters may be {', '.join(known)}, and settings with a "
            "default"
        )


def call_with_columns(part: Callable[..., Any], rollouts: ScoredRollouts, **extra: Any) -> Any:
    """The part's result on these rollouts; `extra` are columns that stand in for or beside theirs."""
    columns = {
        name: extra[name] if name in extra else COLUMNS[name](rollouts) for name in requested_columns(part)
    }
    return part(**columns)

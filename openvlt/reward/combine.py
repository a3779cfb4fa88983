"""From the terms of a reward to the reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openvlt.reward.accuracy import judge
from openvlt.types import Rollouts, UserError

Term = Callable[[Rollouts, Any], Tensor]


def weighted_sum(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of weight x term over the terms that apply to a row: (N,). A row to which none applies is NaN."""
    stacked = torch.stack([weights[name] * reward_N for name, reward_N in rewards.items()])
    nothing_N = stacked.isnan().all(0)
    return stacked.nan_to_num(0.0).sum(0).masked_fill(nothing_N, torch.nan)


@dataclass(frozen=True)
class Reward:
    """`conf/reward/*.yaml`: named terms and a weight for each. Fills `verdicts`, `rewards` and `reward_N`.

    `workers` and `deadline_s` are the verifier's: processes for symbolic comparisons, seconds per answer.
    """

    terms: Mapping[str, Term]
    weights: Mapping[str, float]
    workers: int = 0
    deadline_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.terms:
            raise UserError("reward.terms is empty; name at least one term, e.g. accuracy")
        if set(self.terms) != set(self.weights):
            raise UserError(
                f"reward weights name {sorted(self.weights)}, terms are {sorted(self.terms)}; give every term exactly one weight"
            )

    def __call__(self, rollouts: Rollouts, services: Any = None) -> Rollouts:
        """The same rollouts with verdicts, one column per term, and their weighted sum."""
        problems = [rollouts.problems[group] for group in rollouts.group_N.tolist()]
        verdicts = judge(problems, rollouts.completions, workers=self.workers, deadline_s=self.deadline_s)
        judged = rollouts.with_(verdicts=verdicts)
        rewards = {name: term(judged, services) for name, term in self.terms.items()}
        judged = judged.with_(rewards=rewards)  # checks each term's shape
        reward_N = weighted_sum(rewards, self.weights)
        if reward_N.isnan().any():
            row = int(reward_N.isnan().nonzero()[0])
            raise UserError(f"problem {problems[row].id!r}: no reward term applies to it; add one that does, e.g. accuracy")
        return judged.with_(reward_N=reward_N)

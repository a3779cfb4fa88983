"""The reward of a completion: named terms, combined into one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openvlt.config.validate import check_not_negative, check_positive
from openvlt.errors import UserError
from openvlt.reward.contract import read_numbers
from openvlt.reward.services import Services
from openvlt.types import Problem, Rollouts, ScoredRollouts
from openvlt.verify.api import check_extraction
from openvlt.verify.completions import verify_completions

Term = Callable[[ScoredRollouts, Services], Tensor]


def weighted_sum(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of weight x term over the terms that apply to a row: (N,). A row to which none applies is NaN."""
    stacked = torch.stack([weights[name] * reward_N for name, reward_N in rewards.items()])
    nothing_N = stacked.isnan().all(0)
    return stacked.nan_to_num(0.0).sum(0).masked_fill(nothing_N, torch.nan)


def gate_terms(
    rewards: Mapping[str, Tensor], weights: Mapping[str, float], *, gates: Mapping[str, str]
) -> Tensor:
    """As `weighted_sum`, but a term in `gates` counts only where the term it names is above 0.

    `gates={similarity: accuracy}`: VideoRFT.
    """
    if unknown := (set(gates) | set(gates.values())) - set(rewards):
        raise UserError(f"reward gates name {sorted(unknown)}; terms are {sorted(rewards)}")
    gated = {
        name: term_N * (rewards[gates[name]] > 0) if name in gates else term_N
        for name, term_N in rewards.items()
    }
    return weighted_sum(gated, weights)


@dataclass(frozen=True)
class Reward:
    """Named terms and a weight for each (`conf/reward/*.yaml`); fills verdicts, `rewards` and `reward_N`.

    `combine(rewards, weights)` makes one number of the terms. `multiplier(problem)` is a factor of it that
    all completions of a problem share; it has no effect on advantages divided by the group's standard
    deviation, which refuse it. `workers` and `deadline_s` are the verifier's: processes for symbolic
    comparisons, seconds per answer. `extraction` is where an answer must stand to be paid: "tag", "box", or
    "any", prose included.
    """

    terms: Mapping[str, Term]
    weights: Mapping[str, Any]
    workers: int = 0
    deadline_s: float = 1.0
    extraction: str = "any"
    combine: Callable[[Mapping[str, Tensor], Mapping[str, float]], Tensor] = weighted_sum
    multiplier: Callable[[Problem], float] | None = None

    def __post_init__(self) -> None:
        check_not_negative(self, "reward", "workers")
        check_positive(self, "reward", "deadline_s")
        check_extraction(self.extraction, "reward")
        if not self.terms:
            raise UserError("reward.terms is empty; name at least one term, e.g. accuracy")
        if set(self.terms) != set(self.weights):
            raise UserError(
                f"reward weights name {sorted(self.weights)}, terms are {sorted(self.terms)}; give every "
                "term exactly one weight"
            )

    def __call__(self, rollouts: Rollouts, services: Services | None = None) -> ScoredRollouts:
        """The rollouts with verdicts, a column per term, and the reward (NaN where no term applies)."""
        problems = rollouts.row_problems
        verdicts = verify_completions(
            problems,
            rollouts.completions,
            workers=self.workers,
            deadline_s=self.deadline_s,
            extraction=self.extraction,
        )
        verified, services = rollouts.with_verdicts(verdicts), services or Services()
        rows = len(problems)
        rewards = {
            name: read_numbers(term(verified, services), f"reward.terms.{name}", rows)
            for name, term in self.terms.items()
        }
        scored = verified.with_(rewards=rewards)
        reward_N = read_numbers(self.combine(rewards, self.weights), "reward.combine", rows)
        if reward_N.isnan().all():
            raise UserError(
                f"no reward term applies to any completion (the first is of problem {problems[0].id!r}); add "
                "one that does"
            )
        if self.multiplier is not None:
            factors = [self.multiplier(problem) for problem in problems]
            reward_N = reward_N * read_numbers(factors, "reward.multiplier", rows, nan=False)
        return scored.with_(reward_N=reward_N)


def weigh_by_level(problem: Problem, *, weights: Mapping[int, float]) -> float:
    """A multiplier: the weight of the problem's level (RewardMap: 1, 1.2, 1.5)."""
    if problem.level is None or problem.level not in weights:
        raise UserError(
            f"reward.multiplier has no weight for level {problem.level} of problem {problem.id!r}; it has "
            f"{sorted(weights)}"
        )
    return weights[problem.level]

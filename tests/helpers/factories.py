"""Algorithms, rollouts and batches made by hand, and a generator by script."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openvlt.data.prompts import PromptStyle
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.parts.advantage import centre_by_group
from openvlt.grpo.parts.group_filter import drop_zero_variance_groups
from openvlt.grpo.parts.loss_aggregation import sequence_mean
from openvlt.reward.reward import Reward
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.optimizer import adamw, constant
from openvlt.types import Completion, GRPOBatch, Problem, Prompts, Rollouts, ScoredRollouts, Totals, Verdict

LENGTHS = (3, 5, 2, 4, 6, 1, 4, 2)  # four problems, two completions each
REWARDS = (1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5)  # groups 1 and 3 are equal


class Scripted:
    """A generator that returns the prepared completions; the reward of each is written in its text."""

    def __init__(self, ids: Sequence[Sequence[int]], rewards: Sequence[float], logp: bool = True) -> None:
        self.completions = [
            Completion(
                tuple(row),
                str(reward),
                True,
                tuple(-0.1 * (place + 1) for place in range(len(row))) if logp else (),
            )
            for row, reward in zip(ids, rewards, strict=True)
        ]
        self.calls: list[tuple] = []

    def generate(self, vlm, problems, prompts, sampling, seed) -> list[Completion]:
        self.calls.append((len(problems), len(prompts), sampling, seed))
        return self.completions


def written(rollouts: Rollouts, services=None) -> Tensor:
    """The number in each completion's text."""
    return torch.tensor([float(completion.text) for completion in rollouts.completions])


def algorithm(**changes: Any) -> GRPO:
    """A GRPO of the plainest parts, one update per rollout batch, without a KL term."""
    parts = dict(
        fit=TrainingLoop(accelerator="cpu", progress=False),
        prompt=PromptStyle(),
        generator=PrefixGenerator(),
        reward=Reward({"written": written}, {"written": 1.0}),
        optimizer=partial(adamw, learning_rate=1e-3),
        scheduler=constant,
        advantage=centre_by_group,
        group_filter=drop_zero_variance_groups,
        loss_aggregation=sequence_mean,
    )
    return GRPO(**{**parts, **changes})


def updates(count: int) -> dict[str, int]:
    """The sizes of an algorithm with as many updates per rollout batch."""
    return {"prompts_per_rollout": count, "prompts_per_update": 1}


def rollouts(
    rewards: list[float], *, groups: int = 2, lengths: list[int] | None = None, start: int = 0, **columns: Any
) -> ScoredRollouts:
    """As many rows per problem; completion texts hold their row's number, log-probabilities are -0.1 per place."""
    rows, width = len(rewards), 4
    lengths = lengths or [width] * rows
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    blank = torch.ones(groups, 1).long()
    made = Rollouts(
        problems=tuple(Problem(f"p{start + index}", "?", "1", level=index + 1) for index in range(groups)),
        completions=tuple(
            Completion((5,) * length, f"<think>x</think>{start}/{row}", True)
            for row, length in enumerate(lengths)
        ),
        prompts=Prompts(blank, blank, blank, torch.zeros(groups).long()),
        ids_NT=mask * 5,
        mask_NT=mask,
        group_N=torch.arange(groups).repeat_interleave(rows // groups),
        origin_N=torch.zeros(rows).long(),
        view=("clean",) * rows,
        policy_version=start,
        behaviour_logp_NT=-0.1 * mask,
    )
    scored = made.with_verdicts([Verdict.CORRECT if reward > 0 else Verdict.WRONG for reward in rewards])
    reward_N = torch.tensor(rewards)
    scored = scored.with_(reward_N=reward_N, adv_NT=reward_N[:, None]).with_(**columns)
    return scored.with_(keep_N=drop_zero_variance_groups(scored.reward_N, scored.group_N))


def grpo_batch(
    prompts: Prompts, ids: Tensor, mask: Tensor, groups: Tensor, adv_N: Tensor, totals: Totals, **columns: Any
) -> GRPOBatch:
    """A batch of the policy's version 0, every token of weight 1 and part of the denominator."""
    defaults = dict(policy_version=0, weight_NT=mask.float(), counted_NT=mask, trained_tokens=int(mask.sum()))
    made = dict(
        prompts=prompts, ids_NT=ids, mask_NT=mask, group_N=groups, adv_NT=adv_N[:, None], totals=totals
    )
    return GRPOBatch(**{**defaults, **made, **columns})

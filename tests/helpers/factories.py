"""Rollouts made by hand, and a generator by script, for tests of what happens between the two and the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from openvlt.grpo.parts.group_filter import drop_zero_variance_groups
from openvlt.types import Completion, Problem, Prompts, Rollouts, Verdict

LENGTHS = (3, 5, 2, 4, 6, 1, 4, 2)  # four problems, two completions each
REWARDS = (1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5)  # groups 1 and 3 are equal


class Scripted:
    """A generator that says the prepared completions; the reward of each is written in its text."""

    def __init__(self, ids: Sequence[Sequence[int]], rewards: Sequence[float], logp: bool = True) -> None:
        self.said = [
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
        return self.said


def written(rollouts: Rollouts, services=None) -> torch.Tensor:
    """The number in each completion's text."""
    return torch.tensor([float(completion.text) for completion in rollouts.completions])


def rollouts(
    rewards: list[float], *, groups: int = 2, lengths: list[int] | None = None, start: int = 0, **columns_
) -> Rollouts:
    """As many rows per problem; completion texts say their row's number, log-probabilities are -0.1 per place."""
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
        policy_version=start,
        behaviour_logp_NT=-0.1 * mask,
        reward_N=torch.tensor(rewards),
        adv_N=torch.tensor(rewards),
        origin_N=torch.zeros(rows).long(),
        view=("clean",) * rows,
        verdicts=tuple(Verdict.CORRECT if reward > 0 else Verdict.WRONG for reward in rewards),
    ).with_(**columns_)
    return made.with_(keep_N=drop_zero_variance_groups(made.reward_N, made.group_N))

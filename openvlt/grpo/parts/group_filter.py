"""Which groups of completions are learned from: bool (N,), the same for all rows of a group. Rewards of NaN say nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openvlt.grpo.parts.advantage import group_mean

GroupFilter = Callable[..., Tensor]


def drop_zero_variance_groups(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """Groups whose rewards differ. Where the others' rewards are the baseline, equal ones have advantage 0: but for auxiliary losses,
    which see every group, their gradient is exactly 0. Not so under advantages normalised over the batch, which refuse this gate, nor
    where a shaper adds to an advantage (`AdvantageUpdate.shift`).
    """
    size, known_N = int(group_N.max()) + 1, ~reward_N.isnan()
    low_P = torch.full((size,), torch.inf, dtype=reward_N.dtype).scatter_reduce(
        0, group_N[known_N], reward_N[known_N], "amin"
    )
    high_P = torch.full((size,), -torch.inf, dtype=reward_N.dtype).scatter_reduce(
        0, group_N[known_N], reward_N[known_N], "amax"
    )
    return (high_P > low_P)[group_N]


def keep_all_groups(group_N: Tensor) -> Tensor:
    """Every group; needed where groups with equal rewards have something to teach too (a KL term in the reward, `AdvantageUpdate.shift`)."""
    return torch.ones_like(group_N, dtype=torch.bool)


def keep_accuracy_band(
    correct_N: Tensor, group_N: Tensor, *, low: float = 0.01, high: float = 0.99
) -> Tensor:
    """Groups whose share of correct answers is within [low, high]: dynamic sampling (DAPO, arXiv 2503.14476, eq. 11; EasyR1's bounds)."""
    share_N = group_mean(correct_N, group_N)
    return (share_N >= low) & (share_N <= high)

"""Which groups of completions are learned from."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_unequal(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """Bool (N,): groups whose rewards differ. With equal rewards every advantage is 0, so without KL their gradient is exactly 0."""
    size = int(group_N.max()) + 1
    low_P = torch.full((size,), torch.inf, dtype=reward_N.dtype).scatter_reduce(0, group_N, reward_N, "amin")
    high_P = torch.full((size,), -torch.inf, dtype=reward_N.dtype).scatter_reduce(0, group_N, reward_N, "amax")
    return (high_P > low_P)[group_N]


def keep_all(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """Bool (N,): every group; needed when a KL term gives a gradient to groups with equal rewards too."""
    return torch.ones_like(group_N, dtype=torch.bool)

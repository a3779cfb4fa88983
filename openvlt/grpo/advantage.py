"""Advantages: what a reward says about a completion, compared with its siblings. Pure functions, (N,) in, (N,) out."""

from __future__ import annotations

import torch
from torch import Tensor


def group_sizes(group_N: Tensor) -> Tensor:
    """Completions of each row's own problem: (N,)."""
    return torch.bincount(group_N)[group_N]


def group_mean(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Mean over the row's group, at every row: (N,). Summed in float64, so that the mean of equal float32 values is that value."""
    total_P = torch.zeros(int(group_N.max()) + 1, dtype=torch.float64).index_add(0, group_N, value_N.double())
    return (total_P[group_N] / group_sizes(group_N)).to(value_N.dtype)


def group_normalised(reward_N: Tensor, group_N: Tensor, *, eps: float = 1e-6) -> Tensor:
    """A = (r - mean) / (std + eps) over the completions of a problem (GRPO, arXiv 2402.03300, section 4.1.2).

    std is the unbiased one (G - 1), as in TRL and verl; a group of one has std 0 and advantage 0. Groups may be ragged.
    """
    centred_N = reward_N - group_mean(reward_N, group_N)
    freedom_N = (group_sizes(group_N) - 1).clamp(min=1)
    variance_N = group_mean(centred_N.square(), group_N) * group_sizes(group_N) / freedom_N
    return centred_N / (variance_N.sqrt() + eps)


def group_centred(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """A = r - mean: no division by the standard deviation (Dr. GRPO, arXiv 2503.20783, eq. 3)."""
    return reward_N - group_mean(reward_N, group_N)

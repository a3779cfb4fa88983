"""Group filters: which groups are learned from. Functions of requested columns, bool (N,) out.

All rows of a group have the same value. Rewards of NaN (no term applies) are left out of account.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openvlt.grpo.parts.advantage import group_mean
from openvlt.grpo.parts.traits import declare_traits

GroupFilter = Callable[..., Tensor]


@declare_traits("drops_equal_groups")
def drop_zero_variance_groups(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """Keeps the groups whose rewards differ.

    Where the group's rewards are the baseline, equal ones have advantage 0: their gradient is exactly 0, but
    for auxiliary losses, which see every group. That isn't so under advantages normalised over the batch,
    which refuse this filter, nor where advantage shaping adds something (`AdvantageUpdate.shift`).
    """
    size, known_N = int(group_N.max()) + 1, ~reward_N.isnan()
    low_P = torch.full((size,), torch.inf, dtype=reward_N.dtype).scatter_reduce(
        0, group_N[known_N], reward_N[known_N], "amin"
    )
    high_P = torch.full((size,), -torch.inf, dtype=reward_N.dtype).scatter_reduce(
        0, group_N[known_N], reward_N[known_N], "amax"
    )
    return (high_P > low_P)[group_N]


@declare_traits("keeps_all_groups")
def keep_all_groups(group_N: Tensor) -> Tensor:
    """Keeps every group.

    Needed where groups with equal rewards have a gradient too: a KL term in the reward,
    `AdvantageUpdate.shift`.
    """
    return torch.ones_like(group_N, dtype=torch.bool)


def keep_accuracy_band(
    correct_N: Tensor, group_N: Tensor, *, low: float = 0.01, high: float = 0.99
) -> Tensor:
    """Keeps the groups whose share of correct answers is within [low, high].

    Dynamic sampling: DAPO, arXiv 2503.14476, eq. 11; the bounds are EasyR1's.
    """
    share_N = group_mean(correct_N, group_N)
    return (share_N >= low) & (share_N <= high)

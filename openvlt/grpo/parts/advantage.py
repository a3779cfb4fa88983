"""Advantages: rewards against a baseline. Functions of requested columns (docs/grpo.md), (N,) or (N,T) out.

A reward of NaN (no term applies) is outside every baseline and standard deviation and has advantage 0; so has
a completion alone in its group, where the baseline is the group. Groups may differ in size. Standard
deviations are unbiased, as in TRL and verl. Sums are taken in float64, so that equal rewards have advantage 0
exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openvlt.grpo.parts.traits import declare_traits

# --- sums over groups --------------------------------------------------------------------------------------


def group_sizes(group_N: Tensor) -> Tensor:
    """Completions of each row's own problem: (N,)."""
    return torch.bincount(group_N)[group_N]


def group_mean(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Mean over the row's group, NaN left out, at every row: (N,); NaN for a group of nothing but NaN."""
    known_N = ~value_N.isnan()
    return (_group_sum(value_N, group_N) / _group_sum(known_N.double(), group_N)).to(value_N.dtype)


def group_std(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Unbiased standard deviation of the row's group, NaN left out: (N,); 0 for a group of one."""
    centred_N = value_N - group_mean(value_N, group_N)
    freedom_N = (_group_sum((~value_N.isnan()).double(), group_N) - 1).clamp(min=1)
    return (_group_sum(centred_N.square(), group_N) / freedom_N).sqrt().to(value_N.dtype)


def _group_sum(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Float64 sum over the row's group, NaN as 0, at every row: (N,)."""
    total_P = torch.zeros(int(group_N.max()) + 1 if len(group_N) else 0, dtype=torch.float64)
    return total_P.index_add(0, group_N, value_N.double().nan_to_num(0.0))[group_N]


# --- advantages --------------------------------------------------------------------------------------------


@declare_traits("needs_siblings")
def centre_by_group(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """A = r - mean: no division by the standard deviation (Dr. GRPO, arXiv 2503.20783, eq. 3)."""
    return (reward_N - group_mean(reward_N, group_N)).nan_to_num(0.0)


@declare_traits("divides_by_group_std", "needs_siblings")
def normalise_by_group(reward_N: Tensor, group_N: Tensor, *, eps: float = 1e-6) -> Tensor:
    """A = (r - mean) / (std + eps) over the group (GRPO, arXiv 2402.03300, section 4.1.2)."""
    return centre_by_group(reward_N, group_N) / (group_std(reward_N, group_N) + eps)


@declare_traits("needs_siblings")
def normalise_by_batch(reward_N: Tensor, group_N: Tensor, *, eps: float = 1e-4) -> Tensor:
    """A = (r - mean of its group) / (std of all rewards of the rollout batch + eps).

    TRL's scale_rewards=batch; arXiv 2508.08221.
    """
    everyone_N = torch.zeros_like(group_N)
    return centre_by_group(reward_N, group_N) / (group_std(reward_N, everyone_N) + eps)


@declare_traits("needs_siblings")
def leave_one_out(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """A = r - mean of the others of its group = (r - mean) G / (G - 1) (RLOO, arXiv 2402.14740)."""
    count_N = _group_sum((~reward_N.isnan()).double(), group_N)
    return centre_by_group(reward_N, group_N) * (count_N / (count_N - 1).clamp(min=1)).to(reward_N.dtype)


@declare_traits("uses_equal_groups")
def reinforce_pp(reward_N: Tensor, penalty_NT: Tensor, mask_NT: Tensor, *, discount: float = 1.0) -> Tensor:
    """REINFORCE++ (arXiv 2501.03262): discounted sums of what follows a token, whitened. (N,T).

    A token earns -penalty (its share of the KL term in the reward), the last one also the completion's
    reward. The mean and the variance are those of all tokens of the rollout batch.
    """
    mask_NT = mask_NT * (~reward_N.isnan())[:, None]
    last_NT = mask_NT * (mask_NT.cumsum(1) == mask_NT.sum(1, keepdim=True))
    earned_NT = reward_N.nan_to_num(0.0).double()[:, None] * last_NT - penalty_NT.double() * mask_NT
    return_NT, following_N = torch.zeros_like(earned_NT), torch.zeros_like(earned_NT[:, 0])
    for place in reversed(range(earned_NT.shape[1])):
        following_N = earned_NT[:, place] + discount * following_N
        return_NT[:, place] = following_N
    return whiten(return_NT, mask_NT).to(reward_N.dtype)


@declare_traits("needs_siblings", "uses_equal_groups")
def reinforce_pp_baseline(reward_N: Tensor, group_N: Tensor, mask_NT: Tensor) -> Tensor:
    """REINFORCE++-baseline: r - mean of its group, whitened over all tokens of the rollout batch. (N,T).

    arXiv 2501.03262.
    """
    known_NT = mask_NT * (~reward_N.isnan())[:, None]
    return whiten(centre_by_group(reward_N, group_N).double()[:, None] * known_NT, known_NT).to(
        reward_N.dtype
    )


def whiten(value_NT: Tensor, mask_NT: Tensor, *, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over the tokens of `mask_NT`, 0 elsewhere.

    The variance is unbiased, as in verl's masked_whiten.
    """
    count = mask_NT.sum()
    centred_NT = (value_NT - (value_NT * mask_NT).sum() / count.clamp(min=1)) * mask_NT
    variance = centred_NT.square().sum() / (count - 1).clamp(min=1)
    return centred_NT / (variance + eps).sqrt()


@declare_traits("divides_by_group_std", "needs_siblings", "uses_equal_groups")
def gdpo(
    rewards: Mapping[str, Tensor], weights: Mapping[str, float], group_N: Tensor, *, eps: float = 1e-4
) -> Tensor:
    """GDPO: each reward term normalised in its group, weighted, added up, and normalised over the batch.

    arXiv 2601.05242; TRL's multi_objective_aggregation=normalize_then_sum. Terms of very different spread
    keep their influence.
    """
    terms = torch.stack(
        [weights[name] * normalise_keeping_nan(term_N, group_N, eps) for name, term_N in rewards.items()]
    )
    total_N = terms.nansum(0).masked_fill(terms.isnan().all(0), torch.nan)
    return normalise_by_group(total_N, torch.zeros_like(group_N), eps=eps)


def normalise_keeping_nan(value_N: Tensor, group_N: Tensor, eps: float) -> Tensor:
    """As `normalise_by_group`, but NaN stays NaN: (N,)."""
    return normalise_by_group(value_N, group_N, eps=eps).masked_fill(value_N.isnan(), torch.nan)

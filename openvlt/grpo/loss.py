"""Token losses: pure functions of tensors, (N,T) in and (N,T) out, no reduction."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(
    logp_NT: Tensor, old_logp_NT: Tensor, adv_N: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tensor:
    """PPO's clipped objective per token, negated (arXiv 1707.06347, eq. 7), with the completion's advantage at each of its tokens."""
    ratio_NT = (logp_NT - old_logp_NT).exp()
    adv_N1 = adv_N[:, None]
    return -torch.minimum(ratio_NT * adv_N1, ratio_NT.clamp(1 - clip_low, 1 + clip_high) * adv_N1)


def clip_fractions(
    logp_NT: Tensor, old_logp_NT: Tensor, adv_N: Tensor, mask_NT: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Tokens whose gradient the clip removes, below and above: two scalar counts."""
    ratio_NT, positive_N1 = (logp_NT - old_logp_NT).exp(), adv_N[:, None] > 0
    low = (ratio_NT < 1 - clip_low) & ~positive_N1 & (adv_N[:, None] != 0)
    high = (ratio_NT > 1 + clip_high) & positive_N1
    return (low & mask_NT.bool()).sum(), (high & mask_NT.bool()).sum()

"""Token losses: pure functions `(logp_NT, old_NT, adv_NT, mask_NT) -> (N,T)`, no reduction.

`logp_NT` are the policy's log-probabilities of the sampled tokens (with gradient), `old_NT` the old policy's
(without); rho = exp(logp - old). `adv_NT` may be (N,1): one advantage per completion. Losses with one value
per completion return (N,1), which every loss aggregation spreads over the completion's tokens. docs/grpo.md
lists formula, source and denominator of each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openvlt.grpo.parts.traits import declare_traits

TokenLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def clipped_surrogate(
    logp_NT: Tensor,
    old_NT: Tensor,
    adv_NT: Tensor,
    mask_NT: Tensor | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual: float | None = None,
) -> Tensor:
    """PPO's clipped objective per token, negated: -min(rho A, clip(rho, 1 - low, 1 + high) A).

    arXiv 1707.06347, eq. 7. `dual` bounds the loss at -dual x A where A < 0, however large rho is (dual clip,
    arXiv 1912.09729).
    """
    return _clip_objective((logp_NT - old_NT).exp(), adv_NT, clip_low, clip_high, dual)


def _clip_objective(
    ratio: Tensor, adv: Tensor, clip_low: float, clip_high: float, dual: float | None = None
) -> Tensor:
    loss = -torch.minimum(ratio * adv, ratio.clamp(1 - clip_low, 1 + clip_high) * adv)
    return loss if dual is None else torch.where(adv < 0, torch.minimum(loss, -dual * adv), loss)


@declare_traits("sequence_level")
def gspo(
    logp_NT: Tensor,
    old_NT: Tensor,
    adv_NT: Tensor,
    mask_NT: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tensor:
    """GSPO: the clipped objective of s = exp(mean over the completion of log rho). (N,1).

    arXiv 2507.18071, eq. 5 and 7.
    """
    ratio_N1 = mean_over_tokens(logp_NT - old_NT, mask_NT).exp()
    return _clip_objective(ratio_N1, adv_NT, clip_low, clip_high)


def gspo_token(
    logp_NT: Tensor,
    old_NT: Tensor,
    adv_NT: Tensor,
    mask_NT: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tensor:
    """GSPO's token form (arXiv 2507.18071, eq. 13 and 14): s_t = sg[s] x pi / sg[pi]. (N,T).

    A may differ from token to token.
    """
    sequence_N1 = mean_over_tokens((logp_NT - old_NT).detach(), mask_NT)
    return _clip_objective((sequence_N1 + logp_NT - logp_NT.detach()).exp(), adv_NT, clip_low, clip_high)


@declare_traits("sequence_level")
def sequence_surrogate(
    logp_NT: Tensor,
    old_NT: Tensor,
    adv_NT: Tensor,
    mask_NT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """The clipped objective of a whole completion's ratio, the product of its tokens' rho. (N,1).

    TRL's RLOO trainer.
    """
    ratio_N1 = ((logp_NT - old_NT) * mask_NT).sum(1, keepdim=True).exp()
    return _clip_objective(ratio_N1, adv_NT, clip_low, clip_high)


def cispo(
    logp_NT: Tensor,
    old_NT: Tensor,
    adv_NT: Tensor,
    mask_NT: Tensor | None = None,
    *,
    ratio_low: float = 0.0,
    ratio_high: float = 5.0,
) -> Tensor:
    """CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5): -sg[clip(rho)] A log pi.

    No token loses its gradient; its weight is bounded.
    """
    weight_NT = (logp_NT.detach() - old_NT).exp().clamp(ratio_low, ratio_high)
    return -weight_NT * adv_NT * logp_NT


def sapo(
    logp_NT: Tensor,
    old_NT: Tensor,
    adv_NT: Tensor,
    mask_NT: Tensor | None = None,
    *,
    positive: float = 1.0,
    negative: float = 1.05,
) -> Tensor:
    """SAPO: -A (4 / tau) sigmoid(tau (rho - 1)), a soft clip whose tau depends on the sign of A.

    arXiv 2511.20347.
    """
    tau_NT = torch.full_like(adv_NT, negative).masked_fill(adv_NT > 0, positive)
    return -adv_NT * (4 / tau_NT) * (tau_NT * ((logp_NT - old_NT).exp() - 1)).sigmoid()


@declare_traits("on_policy_only")
def policy_gradient(logp_NT: Tensor, old_NT: Tensor, adv_NT: Tensor, mask_NT: Tensor | None = None) -> Tensor:
    """REINFORCE (Williams 1992): -A log pi.

    For one update per rollout batch only, since nothing accounts for an older policy.
    """
    return -adv_NT * logp_NT


def mean_over_tokens(value_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Mean over each completion's own tokens: (N,1)."""
    return (value_NT * mask_NT).sum(1, keepdim=True) / mask_NT.sum(1, keepdim=True).clamp(min=1)


def clip_fraction(
    loss: TokenLoss, logp_NT: Tensor, old_NT: Tensor, adv_NT: Tensor, mask_NT: Tensor, tokens: int
) -> tuple[Tensor, Tensor]:
    """The shares of `tokens` whose gradient the loss removes: where A < 0, and where A > 0.

    `tokens` are the whole step's. They are counted by the loss's own derivative, which works for any loss:
    under GSPO whole completions count, under CISPO nothing does.
    """
    leaf_NT = logp_NT.detach().requires_grad_()
    with torch.enable_grad():
        value = (loss(leaf_NT, old_NT, adv_NT, mask_NT) * mask_NT).sum()
        (slope_NT,) = torch.autograd.grad(value, leaf_NT)
    clipped_NT = (slope_NT == 0) & mask_NT.bool()
    return (clipped_NT & (adv_NT < 0)).sum() / tokens, (clipped_NT & (adv_NT > 0)).sum() / tokens

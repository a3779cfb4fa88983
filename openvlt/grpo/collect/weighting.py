"""From rewards to what the loss needs: advantage, shapers, rollout correction, weights, denominators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.grpo.collect.columns import call_with_columns, requested_columns, trained_rows
from openvlt.grpo.parts.advantage_shaping import AdvantageUpdate
from openvlt.types import Rollouts, Totals


def broadcast_rewards(rollouts: Rollouts) -> Rollouts:
    """The main rank's verdicts and rewards, on every rank: a verifier's deadline may pass on one and not on another."""
    verdicts, rewards, reward_N = distributed.broadcast(
        (rollouts.verdicts, dict(rollouts.rewards), rollouts.reward_N)
    )
    return rollouts.with_(verdicts=verdicts, rewards=rewards, reward_N=reward_N)


def mask_reward_only(rollouts: Rollouts) -> Rollouts:
    """As the gate and the advantage see the rewards: rows that are only compared with have none."""
    return rollouts.with_(reward_N=rollouts.reward_N.masked_fill(~trained_rows(rollouts), torch.nan))


def compute_advantages(chain: Any, rollouts: Rollouts) -> Rollouts:
    """The rollouts with advantage and weights, by the parts of a `grpo.experience.Chain`, in its order."""
    penalty_NT = torch.zeros(rollouts.ids_NT.shape)
    if chain.reward_kl is not None:
        penalty_NT = chain.reward_kl.penalty(rollouts.logp["old"], rollouts.logp["ref"], rollouts.mask_NT)
    per_token = "penalty_NT" in requested_columns(chain.advantage)
    reward_N = rollouts.reward_N if per_token else rollouts.reward_N - penalty_NT.sum(1)
    extra = {"reward_N": reward_N, "penalty_NT": penalty_NT, "weights": chain.reward.weights}
    adv = call_with_columns(chain.advantage, rollouts, **extra)
    rollouts = rollouts.with_(**{"adv_N" if adv.ndim == 1 else "adv_NT": adv})
    for shaper in chain.advantage_shaping.values():
        rollouts = call_with_columns(shaper, rollouts).apply(rollouts)
    if chain.rollout_correction is not None:
        if rollouts.behaviour_logp_NT is None:
            raise UserError(
                "grpo.rollout_correction needs the sampler's log-probabilities; use rollout=prefix or rollout=hf, or leave it out"
            )
        weight_NT = chain.rollout_correction(
            rollouts.logp["old"], rollouts.behaviour_logp_NT, rollouts.mask_NT
        )
        rollouts = AdvantageUpdate(token_weight_NT=weight_NT).apply(rollouts)
    return rollouts


def token_weights(rollouts: Rollouts) -> Tensor:
    """What each token's loss is multiplied with: (N,T); 0 outside the completion and where the gate dropped the group."""
    weight_NT = rollouts.keep_N.float()[:, None] * rollouts.mask_NT
    weight_NT = weight_NT if rollouts.token_weight_NT is None else weight_NT * rollouts.token_weight_NT
    return weight_NT if rollouts.sample_weight_N is None else weight_NT * rollouts.sample_weight_N[:, None]


def select_denominator(rollouts: Rollouts, weight_NT: Tensor, denominator: str) -> tuple[Tensor, Tensor]:
    """Tokens (N,T) and completions (N,) that the denominator counts."""
    if denominator == "all":
        return rollouts.mask_NT, torch.ones_like(rollouts.keep_N)
    if denominator == "kept":
        return rollouts.mask_NT * rollouts.keep_N[:, None], rollouts.keep_N
    selected_NT = rollouts.mask_NT * (weight_NT != 0)
    return selected_NT, selected_NT.any(1)


def loss_totals(counted_NT: Tensor, counted_N: Tensor, share_N: Tensor) -> Totals:
    """Denominators of the rows of one update, at least 1."""
    return Totals(
        tokens=max(1, int(counted_NT[share_N].sum())), sequences=max(1, int(counted_N[share_N].sum()))
    )

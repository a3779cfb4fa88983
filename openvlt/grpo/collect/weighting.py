"""From rewards to the batches of an update: advantages, advantage shaping, weights, denominators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.columns import call_with_columns, requested_columns, trained_rows
from openvlt.grpo.parts.advantage_shaping import AdvantageUpdate
from openvlt.types import GRPOBatch, ScoredRollouts, Totals


def broadcast_rewards(rollouts: ScoredRollouts) -> ScoredRollouts:
    """The rollouts with the main rank's rewards, on every rank: a term may ask a service, or draw.

    The verdicts are the main rank's already (`verify_completions`).
    """
    rewards, reward_N = distributed.broadcast((dict(rollouts.rewards), rollouts.reward_N))
    return rollouts.with_(rewards=rewards, reward_N=reward_N)


def mask_reward_only(rollouts: ScoredRollouts) -> ScoredRollouts:
    """The rollouts as the group filter gets them: rows that are only compared with have reward NaN."""
    return rollouts.with_(reward_N=rollouts.reward_N.masked_fill(~trained_rows(rollouts), torch.nan))


def compute_advantages(grpo: GRPO, rollouts: ScoredRollouts) -> ScoredRollouts:
    """The rollouts with advantages and weights.

    Advantage, advantage shaping, rollout correction, in this order. `grpo` has its schedules resolved. Raises
    UserError for a correction without the sampler's log-probabilities.
    """
    penalty_NT = torch.zeros(rollouts.ids_NT.shape)
    if grpo.reward_kl is not None:
        penalty_NT = grpo.reward_kl.penalty(rollouts.logp["old"], rollouts.logp["ref"], rollouts.mask_NT)
    per_token = "penalty_NT" in requested_columns(grpo.advantage)
    reward_N = rollouts.reward_N if per_token else rollouts.reward_N - penalty_NT.sum(1)
    extra = {"reward_N": reward_N, "penalty_NT": penalty_NT, "weights": grpo.reward.weights}
    adv = call_with_columns(grpo.advantage, rollouts, **extra)
    rollouts = rollouts.with_(adv_NT=adv[:, None] if adv.ndim == 1 else adv)
    for shaping in grpo.advantage_shaping.values():
        rollouts = call_with_columns(shaping, rollouts).apply(rollouts)
    if grpo.rollout_correction is not None:
        if rollouts.behaviour_logp_NT is None:
            raise UserError(
                "grpo.rollout_correction needs the sampler's log-probabilities; use rollout=prefix or "
                "rollout=hf, or leave it out"
            )
        weight_NT = grpo.rollout_correction(
            rollouts.logp["old"], rollouts.behaviour_logp_NT, rollouts.mask_NT
        )
        rollouts = AdvantageUpdate(token_weight_NT=weight_NT).apply(rollouts)
    return rollouts


def token_weights(rollouts: ScoredRollouts) -> Tensor:
    """The factor of each token's loss: (N,T); 0 outside the completion and in groups that were dropped."""
    weight_NT = rollouts.keep_N.float()[:, None] * rollouts.mask_NT
    return weight_NT * rollouts.token_weight_NT * rollouts.sample_weight_N[:, None]


def select_denominator(
    rollouts: ScoredRollouts, weight_NT: Tensor, denominator: str
) -> tuple[Tensor, Tensor]:
    """The tokens (N,T) and the completions (N,) that the loss is divided by, as marks."""
    if denominator == "all":
        return rollouts.mask_NT, torch.ones_like(rollouts.keep_N)
    if denominator == "kept":
        return rollouts.mask_NT * rollouts.keep_N[:, None], rollouts.keep_N
    selected_NT = rollouts.mask_NT * (weight_NT != 0)
    return selected_NT, selected_NT.any(1)


def loss_totals(counted_NT: Tensor, counted_N: Tensor, rows_N: Tensor) -> Totals:
    """Denominators of the rows of one update, at least 1."""
    return Totals(
        tokens=max(1, int(counted_NT[rows_N].sum())), sequences=max(1, int(counted_N[rows_N].sum()))
    )


def update_batches(grpo: GRPO, rollouts: ScoredRollouts, metrics: Mapping[str, float]) -> list[GRPOBatch]:
    """One batch per update. `grpo` has its schedules resolved; `metrics` are those of the rollout batch."""
    marks = {name: call_with_columns(loss.tokens, rollouts) for name, loss in grpo.losses.items()}
    batches = [update_batch(grpo, rollouts, marks, update) for update in range(grpo.updates)]
    return [replace(batch, metrics=metrics) for batch in batches]


def update_batch(grpo: GRPO, rollouts: ScoredRollouts, marks: Mapping[str, Tensor], update: int) -> GRPOBatch:
    """The batch of one update: its share of the groups, without the rows that nothing is learned from.

    `marks` are the tokens (N,T) of each auxiliary loss. Totals count the whole share, by `grpo.denominator`.
    """
    share_N = rollouts.group_N * grpo.updates // len(rollouts.problems) == update
    weight_NT = token_weights(rollouts)
    counted_NT, counted_N = select_denominator(rollouts, weight_NT, grpo.denominator)
    learned_N = share_N & (torch.ones_like(share_N) if grpo.losses else (weight_NT != 0).any(1))
    rows = learned_N.nonzero()[:, 0]
    groups, group_N = rollouts.group_N[rows].unique(return_inverse=True)
    width = int(rollouts.mask_NT[rows].sum(1).max()) if len(rows) else 0

    def select(column_NT: Tensor) -> Tensor:
        return column_NT[rows, :width]

    def select_if_scored(column_NT: Tensor | None) -> Tensor | None:
        return None if column_NT is None else select(column_NT)

    return GRPOBatch(
        prompts=rollouts.prompts.select(groups.tolist()),
        ids_NT=select(rollouts.ids_NT),
        mask_NT=select(rollouts.mask_NT),
        group_N=group_N,
        adv_NT=select(rollouts.adv_NT),
        weight_NT=select(weight_NT),
        counted_NT=select(counted_NT),
        old_logp_NT=select_if_scored(rollouts.logp.get("old")),
        ref_logp_NT=select_if_scored(rollouts.logp.get("ref")),
        behaviour_logp_NT=select_if_scored(rollouts.behaviour_logp_NT),
        views={name: select(rollouts.logp[name]) for name in grpo.view_passes if name in rollouts.logp},
        marks={name: select(mark_NT) for name, mark_NT in marks.items()},
        mark_totals={name: loss_totals(mark_NT, mark_NT.any(1), share_N) for name, mark_NT in marks.items()},
        policy_version=rollouts.policy_version,
        totals=loss_totals(counted_NT, counted_N, share_N),
        trained_tokens=max(1, int(rollouts.mask_NT[rows].sum())),
    )

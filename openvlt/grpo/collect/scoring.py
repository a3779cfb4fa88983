"""Scoring passes: log-probabilities of rollouts under the policy, the reference and image views."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.ops import micro_batches
from openvlt.grpo.collect.prompts import PromptCache, view_key
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.model.shared_prefix.symmetric_kl import symmetric_kl
from openvlt.rollout.base import generating
from openvlt.types import Origin, Prompts, Rollouts, ScoredRollouts, ScoringBatch

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Models:
    """The policy, and the reference: a model of its own, or the policy with its adapter off."""

    policy: VLM
    reference: VLM | None

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference."""
        return self.reference is not None or hasattr(self.policy.model, "disable_adapter")

    @contextlib.contextmanager
    def borrow(self, name: str) -> Iterator[VLM]:
        """The `policy`, or the `reference` (an adapter is off meanwhile). Raises UserError without one."""
        if name == "policy":
            yield self.policy
        elif self.reference is not None:
            yield self.reference
        elif self.has_reference:
            with cast("PeftModel", self.policy.model).disable_adapter():
                yield self.policy
        else:
            raise UserError(
                "a reward term asks the reference, and none was loaded; give the term an attribute "
                "model='reference'"
            )


def score_rollouts(
    grpo: GRPO, models: Models, prompt_cache: PromptCache, rollouts: ScoredRollouts, seed: int
) -> ScoredRollouts:
    """The rollouts with `logp` and `stats` of every pass that `grpo` needs.

    They are 0 in rows that nothing is learned from. `grpo` has its schedules resolved; `seed` is that of the
    rollout batch's image views.
    """
    passes, logp, stats = grpo.scoring_passes, {}, {}
    rows_N = torch.ones_like(rollouts.keep_N) if grpo.scores_dropped_rows else rollouts.keep_N
    if "old" in passes:
        old_NT, stats["entropy"] = score_rows(grpo, models.policy, rollouts, rows_N)
        logp["old"] = _keep_replayed(rollouts, old_NT)
    if "reference" in passes:
        with models.borrow("reference") as reference:
            logp["ref"], _ = score_rows(grpo, reference, rollouts, rows_N)
    for name, view_pass in grpo.view_passes.items():
        prompts = prompt_cache.get(rollouts.problems, view_key(view_pass), seed).prompts
        if "logp" in view_pass.outputs:
            logp[name], _ = score_rows(grpo, models.policy, rollouts.with_(prompts=prompts), rows_N)
        if "sym_kl" in view_pass.outputs:
            stats[f"sym_kl:{name}"] = compare_prompts(grpo, models.policy, rollouts, prompts)
    return rollouts.with_(logp=logp, stats=stats)


def _keep_replayed(rollouts: ScoredRollouts, old_NT: Tensor) -> Tensor:
    """The old log-probabilities, in replayed rows those they were sampled with, where these are known.

    An earlier policy generated these rows: their ratio is to that one.
    """
    replayed_N = rollouts.origin_N == Origin.REPLAYED
    if rollouts.behaviour_logp_NT is None or not replayed_N.any():
        return old_NT
    earlier_NT = replayed_N[:, None] & ~rollouts.behaviour_logp_NT.isnan()
    return torch.where(earlier_NT, rollouts.behaviour_logp_NT, old_NT)


def score_rows(grpo: GRPO, vlm: VLM, rollouts: Rollouts, rows_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (N,T) of the rows where `rows_N` (bool) is true; 0 elsewhere.

    Whole groups are shared out among the ranks; every rank gets all values.
    """
    logp_NT, entropy_NT = torch.zeros(rollouts.ids_NT.shape), torch.zeros(rollouts.ids_NT.shape)
    with generating(vlm.model):
        for rows, part in _micro_batches(grpo, vlm, rollouts, rows_N):
            columns = (part.prompts, part.ids_NT, part.mask_NT, part.group_N)
            scored = completion_logp(vlm, *columns, temperature=grpo.temperature)
            for column_NT, value_NT in zip((logp_NT, entropy_NT), scored, strict=True):
                column_NT[rows, : value_NT.shape[1]] = value_NT.cpu().float()
    distributed.all_reduce([logp_NT, entropy_NT])
    return logp_NT, entropy_NT


def compare_prompts(grpo: GRPO, vlm: VLM, rollouts: Rollouts, others: Prompts) -> Tensor:
    """Symmetric KL (N,T) between the predictions from the rollouts' own prompts and from `others`."""
    kl_NT = torch.zeros(rollouts.ids_NT.shape)
    every_N = torch.ones(len(rollouts.completions), dtype=torch.bool)
    with generating(vlm.model):
        for rows, part in _micro_batches(grpo, vlm, rollouts, every_N):
            other = others.select(rollouts.group_N[rows].unique().tolist()).to(vlm.device)
            columns = (part.ids_NT, part.mask_NT, part.group_N)
            value_NT = symmetric_kl(vlm, part.prompts, other, *columns, temperature=grpo.temperature)
            kl_NT[rows, : value_NT.shape[1]] = value_NT.cpu().float()
    distributed.all_reduce([kl_NT])
    return kl_NT


def _micro_batches(
    grpo: GRPO, vlm: VLM, rollouts: Rollouts, rows_N: Tensor
) -> Iterator[tuple[Tensor, ScoringBatch]]:
    """This rank's share of these rows, with their row numbers, on the model's device."""
    chosen = rows_N.nonzero()[:, 0]
    whole = ScoringBatch(rollouts.prompts, rollouts.ids_NT, rollouts.mask_NT, rollouts.group_N)
    for rows in micro_batches(rollouts.group_N[chosen], grpo.micro_batch):
        yield chosen[rows], whole.part(chosen[rows], vlm.device)

"""GRPO's Lightning module: score, loss, log, return. Nothing is generated, rewarded or normalised in here."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from openvlt.grpo.collect.experience import micro_batches
from openvlt.grpo.parts.auxiliary_losses import AuxiliaryLoss
from openvlt.grpo.parts.kl import k3
from openvlt.grpo.parts.loss import TokenLoss, clip_fraction
from openvlt.grpo.parts.schedules import resolve_schedules
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.trainer.module import Optimisation, StepModule
from openvlt.types import GRPOBatch, Totals


@dataclass(frozen=True)
class Objective:
    """What a step minimises: `loss` per token times its weight, reduced by `aggregate`, plus coefficient x mean of each auxiliary loss."""

    loss: TokenLoss
    loss_aggregation: Callable[[Tensor, Tensor, Totals], Tensor]
    auxiliary_losses: Mapping[str, AuxiliaryLoss] = field(default_factory=dict)
    temperature: float = 1.0

    @property
    def entropy_grad(self) -> bool:
        """Whether the entropy is learned from, and not only logged."""
        return any("entropy" in aux.needs for aux in self.auxiliary_losses.values())


class GRPOModule(StepModule):
    """`updates` batches may follow one rollout; a batch from an older policy than that stops the run.

    `memories` are parts with a `state_dict` (a sampler, a replay memory) that a checkpoint has to keep.
    """

    def __init__(
        self,
        vlm: VLM,
        optimisation: Optimisation,
        steps: int,
        objective: Objective,
        *,
        updates: int,
        micro_batch: int,
        memories: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(vlm, optimisation, steps)
        self.objective, self.updates, self.micro_batch = objective, updates, micro_batch
        self.memories = memories or {}

    def split(self, batch: GRPOBatch) -> Iterator[GRPOBatch]:
        if not 0 <= self.version - batch.policy_version < self.updates:
            raise RuntimeError(
                f"stale rollout: made by policy {batch.policy_version}, now at {self.version}, updates per rollout {self.updates}"
            )
        for rows in micro_batches(batch.group_N, self.micro_batch):
            yield batch.part(rows, self.device)

    def training_step(self, batch: GRPOBatch, index: int) -> None:
        super().training_step(batch, index)
        self.metrics |= {**batch.metrics, "memory_gib": peak_memory()}

    def loss(self, part: GRPOBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        goal, mask_NT = resolve_schedules(self.objective, self.version, self.steps), part.mask_NT
        more = {"entropy_grad": True} if goal.entropy_grad else {}
        columns = (part.prompts, part.ids_NT, mask_NT, part.group_N)
        slope_NT = self._slope(part, goal) if part.old_logp_NT is None and not goal.auxiliary_losses else None
        logp_NT, entropy_NT = completion_logp(
            self.vlm, *columns, temperature=goal.temperature, slope_NT=slope_NT, **more
        )
        old_NT = logp_NT.detach() if part.old_logp_NT is None else part.old_logp_NT
        adv = part.advantage.to(logp_NT)
        loss = self._surrogate(part, goal, logp_NT, old_NT)
        shares = self._shares(part, goal.loss, (logp_NT.detach(), old_NT, adv))
        shares["entropy"] = entropy_NT.detach().sum() / part.trained_tokens
        for name, aux in goal.auxiliary_losses.items():
            value_NT, mark_NT = aux(logp_NT, entropy_NT, part), part.marks[name]
            reduce = aux.loss_aggregation or goal.loss_aggregation
            loss = loss + aux.coefficient * reduce(value_NT, mark_NT, part.mark_totals[name])
            shares["kl" if name == "kl" else f"auxiliary_{name}"] = (
                value_NT.detach() * mark_NT
            ).sum() / part.mark_totals[name].tokens
        return loss, shares

    def _surrogate(self, part: GRPOBatch, goal: Objective, logp_NT: Tensor, old_NT: Tensor) -> Tensor:
        loss_NT = goal.loss(logp_NT, old_NT, part.advantage.to(logp_NT), part.mask_NT)
        loss_NT = loss_NT if part.weight_NT is None else loss_NT * part.weight_NT
        return goal.loss_aggregation(
            loss_NT, part.mask_NT if part.counted_NT is None else part.counted_NT, part.totals
        )

    def _slope(self, part: GRPOBatch, goal: Objective) -> Tensor:
        """d loss / d logp at ratio 1, where it hardly ever depends on the log-probabilities: `completion_logp` checks and profits."""
        zero_NT = torch.zeros(part.mask_NT.shape, device=part.mask_NT.device, requires_grad=True)
        return torch.autograd.grad(self._surrogate(part, goal, zero_NT, zero_NT.detach()), zero_NT)[0]

    def _shares(
        self, part: GRPOBatch, loss: TokenLoss, tensors: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Quantities of docs/metrics.md: each part's share of a mean over the step's tokens, or its extreme."""
        (logp_NT, old_NT, adv), rows_NT, tokens = tensors, part.mask_NT.bool(), part.trained_tokens
        low, high = clip_fraction(loss, logp_NT, old_NT, adv, part.mask_NT)
        difference = (logp_NT - old_NT)[rows_NT]
        shares = {"clipped_low": low / tokens, "clipped_high": high / tokens}
        shares |= {"ratio_min": difference.min().exp(), "ratio_max": difference.max().exp()}
        if part.behaviour_logp_NT is not None:
            known_NT = rows_NT & ~part.behaviour_logp_NT.isnan()
            shares["mismatch_kl"] = k3(part.behaviour_logp_NT, old_NT)[known_NT].sum() / tokens
        return shares

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["memories"] = {name: memory.state_dict() for name, memory in self.memories.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        for name, memory in self.memories.items():
            memory.load_state_dict(checkpoint["memories"][name])


def peak_memory() -> float:
    """GiB: the most the GPU has held so far, without one the most this process has."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

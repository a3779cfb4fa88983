"""GRPO's Lightning module: log-probabilities, loss, metrics. Nothing is generated or rewarded here."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.ops import micro_batches
from openvlt.grpo.parts.auxiliary_losses import AuxiliaryLoss
from openvlt.grpo.parts.kl import k3
from openvlt.grpo.parts.loss import TokenLoss, clip_fraction
from openvlt.grpo.parts.loss_aggregation import LossAggregation
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.trainer.module import StepModule
from openvlt.trainer.not_finite import StepLoss
from openvlt.types import GRPOBatch


@runtime_checkable
class Stateful(Protocol):
    """A part with a state that a checkpoint keeps: a sampler, a replay buffer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class GRPOModule(StepModule):
    """Minimises the weighted and aggregated token loss plus coefficient x mean of each auxiliary loss.

    `grpo.updates` batches may follow one rollout batch, twice as many one that was generated ahead; a batch
    from an older policy than that stops the run.
    A checkpoint keeps the state of `memories`.
    """

    def __init__(self, vlm: VLM, grpo: GRPO, memories: Mapping[str, Stateful] | None = None) -> None:
        super().__init__(vlm, grpo.optimisation, grpo.steps)
        self.grpo, self.memories = grpo, memories or {}
        self._resolved: tuple[int, GRPOLoss] | None = None

    def rows(self, batch: GRPOBatch) -> list[Tensor]:
        if not 0 <= self.version - batch.policy_version < self.grpo.updates * (1 + self.grpo.ahead):
            raise RuntimeError(
                f"stale rollout: made by policy {batch.policy_version}, now at {self.version}, updates per "
                f"rollout {self.grpo.updates}, ahead {self.grpo.ahead}"
            )
        return micro_batches(batch.group_N, self.grpo.micro_batch)

    def part(self, batch: GRPOBatch, rows: Tensor) -> GRPOBatch:
        return batch.part(rows, self.device)

    def training_step(self, batch: GRPOBatch, index: int) -> None:
        super().training_step(batch, index)
        age = self.version - 1 - batch.policy_version
        self.metrics |= {**batch.metrics, "rollout_age": age, "memory_gib": peak_memory()}

    def step_loss(self) -> StepLoss:
        """See `StepModule`; with the schedules' values at this step."""
        if self._resolved is None or self._resolved[0] != self.version:
            self._resolved = (self.version, GRPOLoss.of(self.grpo.at_step(self.version)))
        return self._resolved[1]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["memories"] = {name: memory.state_dict() for name, memory in self.memories.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        for name, memory in self.memories.items():
            memory.load_state_dict(checkpoint["memories"][name])


@dataclass(frozen=True)
class GRPOLoss:
    """The loss of one step: the parts of the algorithm that it reads, with their schedules' values.

    It holds nothing else of the algorithm, so that a step can be saved and replayed.
    """

    loss: TokenLoss
    loss_aggregation: LossAggregation
    losses: Mapping[str, AuxiliaryLoss]
    temperature: float
    learns_from_entropy: bool

    @classmethod
    def of(cls, grpo: GRPO) -> GRPOLoss:
        """The loss of an algorithm whose schedules are resolved."""
        return cls(**{entry.name: getattr(grpo, entry.name) for entry in fields(cls)})

    def __call__(self, vlm: VLM, part: GRPOBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A part's share of the step's loss, and of values to log."""
        slope_NT = _loss_slope(self, part) if part.old_logp_NT is None and not self.losses else None
        logp_NT, entropy_NT = completion_logp(
            vlm,
            *(part.prompts, part.ids_NT, part.mask_NT, part.group_N),
            temperature=self.temperature,
            entropy_grad=self.learns_from_entropy,
            slope_NT=slope_NT,
        )
        old_NT = logp_NT.detach() if part.old_logp_NT is None else part.old_logp_NT
        loss = _policy_loss(self, part, logp_NT, old_NT)
        metrics = _token_metrics(self.loss, part, logp_NT.detach(), old_NT)
        metrics["entropy"] = entropy_NT.detach().sum() / part.trained_tokens
        for name, auxiliary in self.losses.items():
            mark_NT, totals = part.marks[name], part.mark_totals[name]
            value_NT = auxiliary(logp_NT, entropy_NT, part)
            aggregate = auxiliary.loss_aggregation or self.loss_aggregation
            loss = loss + auxiliary.coefficient * aggregate(value_NT, mark_NT, totals)
            column = "kl" if name == "kl" else f"auxiliary_{name}"
            metrics[column] = (value_NT.detach() * mark_NT).sum() / totals.tokens
        return loss, metrics


def _policy_loss(grpo: GRPOLoss, part: GRPOBatch, logp_NT: Tensor, old_NT: Tensor) -> Tensor:
    """The part's share of the step's policy loss."""
    loss_NT = grpo.loss(logp_NT, old_NT, part.adv_NT.to(logp_NT), part.mask_NT)
    return grpo.loss_aggregation(loss_NT * part.weight_NT, part.counted_NT, part.totals)


def _loss_slope(grpo: GRPOLoss, part: GRPOBatch) -> Tensor:
    """d loss / d logp at ratio 1, where it hardly ever depends on the log-probabilities.

    `completion_logp` computes less with it, and checks it.
    """
    zero_NT = torch.zeros(part.mask_NT.shape, device=part.mask_NT.device, requires_grad=True)
    return torch.autograd.grad(_policy_loss(grpo, part, zero_NT, zero_NT.detach()), zero_NT)[0]


def _token_metrics(loss: TokenLoss, part: GRPOBatch, logp_NT: Tensor, old_NT: Tensor) -> dict[str, Tensor]:
    """Columns of docs/metrics.md: the part's share of a mean over the step's tokens, or its extremes."""
    rows_NT, tokens = part.mask_NT.bool(), part.trained_tokens
    low, high = clip_fraction(loss, logp_NT, old_NT, part.adv_NT.to(logp_NT), part.mask_NT, tokens)
    difference = (logp_NT - old_NT)[rows_NT]
    metrics = {"clipped_low": low, "clipped_high": high}
    metrics |= {"ratio_min": difference.min().exp(), "ratio_max": difference.max().exp()}
    if part.behaviour_logp_NT is not None:
        known_NT = rows_NT & ~part.behaviour_logp_NT.isnan()
        metrics["mismatch_kl"] = k3(part.behaviour_logp_NT, old_NT)[known_NT].sum() / tokens
    return metrics


def peak_memory() -> float:
    """The most memory so far, in GiB: of the GPU, without one of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

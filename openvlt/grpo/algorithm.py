"""`GRPO`: the parts and sizes of one method, as `conf/grpo/*.yaml` fills them in."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from openvlt.data.prompts import PromptStyle
from openvlt.data.sources.selection import Selector
from openvlt.grpo.collect.columns import SCORED, requested_columns
from openvlt.grpo.collect.plan import MultiViewPlan, RolloutPlan, ViewPass
from openvlt.grpo.collect.resampling import Resampling
from openvlt.grpo.collect.sampler import PromptSampler, Shuffled
from openvlt.grpo.parts.advantage_shaping import AdvantageShaping
from openvlt.grpo.parts.auxiliary_losses import AuxiliaryLoss, ReferenceKL, RewardKL
from openvlt.grpo.parts.group_filter import GroupFilter
from openvlt.grpo.parts.loss import TokenLoss, clipped_surrogate
from openvlt.grpo.parts.loss_aggregation import LossAggregation
from openvlt.grpo.parts.schedules import PARTS, resolve_schedules
from openvlt.grpo.parts.traits import has_trait
from openvlt.grpo.validate import validate_algorithm
from openvlt.reward.reward import Reward
from openvlt.reward.services import Encoder, Judge
from openvlt.rollout.base import Generator, Sampling, rollouts_ahead
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.module import Optimisation
from openvlt.types import Problem

TaskBuilder = Callable[[Problem, random.Random], list[Problem]]


@dataclass(frozen=True)
class GRPO:
    """The parts of one method of the family and the sizes of a run (`conf/grpo/*.yaml`, docs/grpo.md).

    `steps` are optimiser steps, `prompts_per_update` prompts each. A rollout batch of `prompts_per_rollout`
    prompts x `group_size` completions serves `prompts_per_rollout / prompts_per_update` steps. `micro_batch`
    completions are computed at a time. `denominator` says what the loss is divided by: `all` completions,
    those of `kept` groups, or only `selected` tokens, whose weight isn't 0. `kl` is the coefficient of the k3
    term in the loss; other auxiliary losses go into `auxiliary_losses`. Numbers of the parts in
    `openvlt.grpo.parts.schedules.PARTS` may be schedules. Raises UserError for an algorithm that can't be.
    """

    fit: TrainingLoop
    prompt: PromptStyle
    generator: Generator
    reward: Reward
    optimizer: Callable[..., list[Optimizer]]
    scheduler: Callable[..., Any]
    advantage: Callable[..., Tensor]
    group_filter: GroupFilter
    loss_aggregation: LossAggregation
    loss: TokenLoss = clipped_surrogate
    kl: float = 0.0
    auxiliary_losses: Mapping[str, AuxiliaryLoss] = field(default_factory=dict)
    reward_kl: RewardKL | None = None
    rollout_plan: RolloutPlan = MultiViewPlan()
    resampling: Resampling | None = None
    view_passes: Mapping[str, ViewPass] = field(default_factory=dict)
    advantage_shaping: Mapping[str, AdvantageShaping] = field(default_factory=dict)
    rollout_correction: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    metric_hooks: Mapping[str, Callable[..., float]] = field(default_factory=dict)
    sampler: Callable[[Sequence[Problem], int], PromptSampler] = Shuffled
    task_builder: TaskBuilder | None = None
    problem_filter: Selector | None = None
    judge: Judge | None = None
    encoder: Encoder | None = None
    denominator: str = "all"
    steps: int = 80
    group_size: int = 8
    prompts_per_rollout: int = 32
    prompts_per_update: int = 32
    micro_batch: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 2048
    warmup_ratio: float = 0.0
    max_grad_norm: float = 1.0
    transcripts: int = 2

    def __post_init__(self) -> None:
        validate_algorithm(self)

    @property
    def updates(self) -> int:
        """Optimiser steps per rollout batch."""
        return self.prompts_per_rollout // self.prompts_per_update

    @property
    def ahead(self) -> int:
        """How many rollout batches are generated ahead of the one that is learned from."""
        return rollouts_ahead(self.generator)

    @property
    def losses(self) -> dict[str, AuxiliaryLoss]:
        """All auxiliary losses, `kl` among them."""
        return {**({"kl": ReferenceKL(self.kl)} if self.kl else {}), **self.auxiliary_losses}

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn."""
        return Sampling(self.group_size, self.max_new_tokens, self.temperature, self.top_p)

    @property
    def optimisation(self) -> Optimisation:
        """How weights move."""
        return Optimisation(self.optimizer, self.scheduler, self.warmup_ratio, self.max_grad_norm)

    def at_step(self, step: int) -> GRPO:
        """The algorithm with its schedules' values at optimiser step `step`; itself if it has none.

        Its KL term is one of `auxiliary_losses` then: it is computed and logged also where its coefficient is
        0.
        """
        parts = {name: getattr(self, name) for name in PARTS if name != "kl"}
        parts["auxiliary_losses"] = self.losses
        resolved = resolve_schedules(parts, step, self.steps)
        return self if resolved is parts else replace(self, kl=0.0, **resolved)

    @property
    def scoring_passes(self) -> set[str]:
        """The models that score rollouts, of old and reference: those that a part needs."""
        parts = (self.advantage, *self.advantage_shaping.values(), *self.metric_hooks.values())
        parts += tuple(loss.tokens for loss in self.losses.values())
        passes = {SCORED[name] for part in parts for name in requested_columns(part) if name in SCORED}
        passes |= {need for loss in self.losses.values() for need in loss.needs if need == "reference"}
        if self.reward_kl is not None:
            passes |= {"old", "reference"}
        replays = has_trait(self.resampling, "replays_groups")
        if self.updates > 1 or self.view_passes or self.rollout_correction is not None or replays:
            passes.add("old")
        return passes

    @property
    def needs_reference(self) -> bool:
        """Whether a reference scores rollouts or generates for a reward term.

        It is a frozen model, or the policy with its adapter off.
        """
        terms = self.reward.terms.values()
        return "reference" in self.scoring_passes or any(
            getattr(term, "model", "") == "reference" for term in terms
        )

    @property
    def scores_dropped_rows(self) -> bool:
        """Whether rows that the group filter dropped are scored all the same."""
        return bool(
            self.losses or self.reward_kl or self.advantage_shaping or self.view_passes or self.metric_hooks
        )

    @property
    def learns_from_entropy(self) -> bool:
        """Whether a loss has a gradient through the entropy, which otherwise is only logged."""
        return any("entropy" in loss.needs for loss in self.losses.values())

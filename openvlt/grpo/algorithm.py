"""What `conf/grpo/*.yaml` fills in: one method of the family as named parts, the sizes of a run, and which parts don't go together."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.data.sources.selection import Selector, filter_problems
from openvlt.errors import UserError
from openvlt.grpo.collect.experience import Chain, Experience
from openvlt.grpo.collect.plan import MultiViewPlan, RolloutPlan, ViewPass
from openvlt.grpo.collect.prompts import PromptLoader, rollout_views
from openvlt.grpo.collect.sampler import PromptSampler, Shuffled
from openvlt.grpo.collect.transcripts import Transcripts
from openvlt.grpo.module import GRPOModule, Objective
from openvlt.grpo.parts.auxiliary_losses import AuxiliaryLoss, ReferenceKL, RewardKL
from openvlt.grpo.parts.loss import TokenLoss, clipped_surrogate
from openvlt.grpo.parts.schedules import resolve_schedules
from openvlt.grpo.validate import validate_algorithm
from openvlt.model.load import VLM
from openvlt.reward.reward import Reward
from openvlt.rollout.base import Generator, Sampling
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.module import Optimisation
from openvlt.types import GRPOBatch, Problem, Rollouts, Totals

TaskBuilder = Callable[[Problem, random.Random], list[Problem]]


@dataclass(frozen=True)
class GRPO:
    """`conf/grpo/*.yaml`: one bundle of parts and sizes. `steps` are optimiser steps, `prompts_per_update` prompts each.

    A rollout of `prompts_per_rollout` prompts x `group_size` completions serves `prompts_per_rollout / prompts_per_update` steps.
    `micro_batch` completions are scored at a time; `denominator` says what the loss is divided by: `all` completions, those of `kept`
    groups, or only `selected` tokens. `kl` is the coefficient of the k3 term in the loss; other auxiliary losses go into `auxiliary`.
    Numbers of the parts in `openvlt.grpo.parts.schedules.PARTS` may be schedules. docs/grpo.md lists the parts.
    """

    fit: TrainingLoop
    prompt: PromptStyle
    generator: Generator
    reward: Reward
    optimizer: Callable[..., list[Optimizer]]
    scheduler: Callable[..., Any]
    advantage: Callable[..., Tensor]
    group_filter: Callable[..., Tensor]
    loss_aggregation: Callable[[Tensor, Tensor, Totals], Tensor]
    loss: TokenLoss = clipped_surrogate
    kl: float = 0.0
    auxiliary_losses: Mapping[str, AuxiliaryLoss] = field(default_factory=dict)
    reward_kl: RewardKL | None = None
    rollout_plan: RolloutPlan = MultiViewPlan()
    resampling: Callable[..., Rollouts] | None = None
    view_passes: Mapping[str, ViewPass] = field(default_factory=dict)
    advantage_shaping: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    rollout_correction: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    metric_hooks: Mapping[str, Callable[..., float]] = field(default_factory=dict)
    sampler: Callable[[Sequence[Problem], int], PromptSampler] = Shuffled
    task_builder: TaskBuilder | None = None
    select: Selector | None = None
    judge: Any = None
    encoder: Any = None
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
        """Optimiser steps per rollout."""
        return self.prompts_per_rollout // self.prompts_per_update

    @property
    def losses(self) -> dict[str, AuxiliaryLoss]:
        """All auxiliary losses, `kl` among them."""
        return {**({"kl": ReferenceKL(self.kl)} if self.kl else {}), **self.auxiliary_losses}

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen reference model (or an adapter to switch off) is asked for."""
        return self._chain().consults_reference(self.updates)

    def train(
        self,
        vlm: VLM,
        problems: Sequence[Problem],
        *,
        reference: VLM | None,
        folder: Path,
        seed: int,
        title: str = "grpo",
    ) -> None:
        """Trains `vlm` in place, resuming from `folder/last.ckpt`. `reference` may be None without KL or with an adapter.

        Raises UserError when a rollout needs more problems than there are.
        """
        self = replace(
            self, resampling=copy.deepcopy(self.resampling)
        )  # what a refill remembers is one run's
        problems = filter_problems(problems, self.select)
        if len(problems) < self.prompts_per_rollout:
            raise UserError(
                f"{title}: grpo.prompts_per_rollout={self.prompts_per_rollout} is larger than the data ({len(problems)} problems); "
                "lower it or give more problems"
            )
        experience = Experience(
            self._chain(), vlm, Renderer(vlm.processor, self.prompt), reference, self.updates
        )
        sampler = self.sampler(problems, seed)
        module, transcripts = self._module(vlm, sampler), Transcripts(folder, self.transcripts)
        draws, waiting = self._draws(sampler, problems, experience, seed), list[GRPOBatch]()

        def make(step: int) -> GRPOBatch:
            if step % self.updates == 0:
                if not waiting:
                    transcripts.drop_after(step)
                draw = partial(draws.take, step, more=hasattr(self.resampling, "tries"))
                rolled, waiting[:] = experience.collect(
                    draw(),
                    seed=self._rollout_seed(seed, step),
                    version=module.version,
                    more=draw,
                    step=step,
                    total=self.steps,
                )
                sampler.observe(experience.accuracy)
                if step + self.updates < self.steps:
                    draws.begin(step + self.updates)
                transcripts.add(rolled, step)
            return waiting[step % self.updates]

        vlm.model.train()
        try:
            self.fit.run(module, make, folder, title=title, boundary=self.updates)
        finally:
            draws.close()
        transcripts.close()

    def _rollout_seed(self, seed: int, step: int) -> int:
        return seed * 1_000_003 + step // self.updates

    def _tasks(self, problem: Problem, seed: int) -> list[Problem]:
        return (
            [problem]
            if self.task_builder is None
            else self.task_builder(problem, random.Random(f"task/{seed}/{problem.id}"))
        )

    def _draws(
        self, sampler: PromptSampler, problems: Sequence[Problem], experience: Experience, seed: int
    ) -> PromptLoader:
        return PromptLoader(
            sampler,
            problems,
            size=self.prompts_per_rollout,
            task=None if self.task_builder is None else partial(self._tasks, seed=seed),
            prompt_cache=experience.prompt_cache,
            through=lambda step: (
                rollout_views(resolve_schedules(experience.chain, step, self.steps)),
                self._rollout_seed(seed, step),
            ),
            workers=self.fit.workers,
        )

    def _chain(self) -> Chain:
        names = (
            "generator",
            "reward",
            "advantage",
            "group_filter",
            "rollout_plan",
            "resampling",
            "view_passes",
            "reward_kl",
            "advantage_shaping",
            "rollout_correction",
            "metric_hooks",
        )
        names += ("judge", "encoder", "denominator", "micro_batch")
        sampling = Sampling(self.group_size, self.max_new_tokens, self.temperature, self.top_p)
        return Chain(
            sampling=sampling, auxiliary_losses=self.losses, **{name: getattr(self, name) for name in names}
        )

    def _module(self, vlm: VLM, sampler: PromptSampler) -> GRPOModule:
        objective = Objective(self.loss, self.loss_aggregation, self.losses, self.temperature)
        optimisation = Optimisation(self.optimizer, self.scheduler, self.warmup_ratio, self.max_grad_norm)
        memories = {
            "sampler": sampler,
            **({"resampling": self.resampling} if hasattr(self.resampling, "state_dict") else {}),
        }
        return GRPOModule(
            vlm,
            optimisation,
            self.steps,
            objective,
            updates=self.updates,
            micro_batch=self.micro_batch,
            memories=memories,
        )

"""GRPO's Lightning module: score, loss, log, return. Nothing is generated, rewarded or normalised in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from openvlt.data.order import batch_rows
from openvlt.data.render import PromptStyle, Renderer
from openvlt.grpo.experience import Chain, Experience, micro_batches, take
from openvlt.grpo.kl import k3
from openvlt.grpo.loss import clipped_surrogate, silenced
from openvlt.grpo.observe import Transcripts
from openvlt.model.load import VLM
from openvlt.model.logprob import completion_logp
from openvlt.reward.combine import Reward
from openvlt.rollout.generator import Generator, Sampling
from openvlt.trainer.fit import Fit
from openvlt.trainer.module import Optimisation, StepModule
from openvlt.types import GRPOBatch, Problem, Totals, UserError


@dataclass(frozen=True)
class Part:
    """One micro-batch: its rows of the batch, and the totals of the whole step."""

    batch: GRPOBatch
    rows: Tensor
    totals: Totals


@dataclass(frozen=True)
class Objective:
    """The loss of `conf/grpo/*.yaml`: a clipped surrogate, `kl` x k3 to the reference, reduced by `aggregate`."""

    aggregate: Callable[[Tensor, Tensor, Totals], Tensor]
    kl: float = 0.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    temperature: float = 1.0


class GRPOModule(StepModule):
    """`updates` batches may follow one rollout; a batch from an older policy than that stops the run."""

    def __init__(
        self, vlm: VLM, optimisation: Optimisation, steps: int, objective: Objective, *, updates: int, micro_batch: int
    ) -> None:
        super().__init__(vlm, optimisation, steps)
        self.objective, self.updates, self.micro_batch = objective, updates, micro_batch

    def split(self, batch: GRPOBatch) -> Iterator[Part]:
        if not 0 <= self.version - batch.policy_version < self.updates:
            raise RuntimeError(
                f"stale rollout: made by policy {batch.policy_version}, now at {self.version}, updates per rollout {self.updates}"
            )
        for rows in micro_batches(batch.group_N, self.micro_batch):
            yield Part(batch, rows, batch.totals)

    def training_step(self, batch: GRPOBatch, index: int) -> None:
        super().training_step(batch, index)
        self.metrics |= batch.metrics

    def loss(self, part: Part) -> tuple[Tensor, Mapping[str, Tensor]]:
        batch, rows, goal = part.batch, part.rows, self.objective
        scored = take(batch.prompts, batch.ids_NT, batch.mask_NT, batch.group_N, rows, self.device)
        logp_NT, entropy_NT = completion_logp(self.vlm, *scored, temperature=goal.temperature)
        mask_NT, adv_N1 = scored[2], batch.adv_N[rows].to(logp_NT)[:, None]
        old_NT = logp_NT.detach() if batch.old_logp_NT is None else self._column(batch.old_logp_NT, rows, mask_NT)
        token_loss = partial(clipped_surrogate, clip_low=goal.clip_low, clip_high=goal.clip_high)
        loss_NT = token_loss(logp_NT, old_NT, adv_N1, mask_NT)
        shares = self._shares(part, old_NT, mask_NT, silenced(token_loss, logp_NT, old_NT, adv_N1, mask_NT))
        if goal.kl:
            kl_NT = k3(logp_NT, self._column(batch.ref_logp_NT, rows, mask_NT))
            loss_NT = loss_NT + goal.kl * kl_NT
            shares["kl"] = (kl_NT.detach() * mask_NT).sum() / part.totals.tokens
        shares["entropy"] = entropy_NT.sum() / batch.mask_NT.sum()
        return goal.aggregate(loss_NT, mask_NT, part.totals), shares

    def _column(self, column_NT: Tensor, rows: Tensor, mask_NT: Tensor) -> Tensor:
        """The micro-batch's part of a stored column, on this device."""
        return column_NT[rows, : mask_NT.shape[1]].to(self.device)

    def _shares(self, part: Part, old_NT: Tensor, mask_NT: Tensor, clipped: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        low, high = clipped
        tokens = part.batch.mask_NT.sum()
        shares = {"clipped_low": low / tokens, "clipped_high": high / tokens}
        if part.batch.behaviour_logp_NT is not None:
            behaviour_NT = self._column(part.batch.behaviour_logp_NT, part.rows, mask_NT)
            shares["mismatch_kl"] = (k3(behaviour_NT, old_NT) * mask_NT).sum() / tokens
        return shares


@dataclass(frozen=True)
class GRPO:
    """`conf/grpo/*.yaml`: one bundle of parts and sizes. `steps` are optimiser steps, `prompts_per_update` prompts each.

    A rollout of `prompts_per_rollout` prompts x `group_size` completions serves `prompts_per_rollout / prompts_per_update` steps.
    `micro_batch` completions are scored at a time; `denominator` says whether dropped groups count (`all`) or not (`kept`).
    """

    fit: Fit
    prompt: PromptStyle
    generator: Generator
    reward: Reward
    optimizer: Callable[..., list[Optimizer]]
    scheduler: Callable[..., Any]
    advantage: Callable[[Tensor, Tensor], Tensor]
    gate: Callable[[Tensor, Tensor], Tensor]
    aggregate: Callable[[Tensor, Tensor, Totals], Tensor]
    kl: float = 0.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    denominator: str = "all"
    steps: int = 80
    group_size: int = 8
    prompts_per_rollout: int = 32
    prompts_per_update: int = 32
    micro_batch: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 2048
    warmup: float = 0.0
    clip: float = 1.0
    transcripts: int = 2

    def __post_init__(self) -> None:
        if self.denominator not in ("all", "kept"):
            raise UserError(f"grpo.denominator={self.denominator!r}; it is all (dropped groups count) or kept (they don't)")
        if self.kl < 0:
            raise UserError(f"grpo.kl={self.kl} is negative; 0 switches the KL term off")
        if self.prompts_per_rollout % self.prompts_per_update:
            raise UserError(
                f"grpo.prompts_per_rollout={self.prompts_per_rollout} is no multiple of grpo.prompts_per_update="
                f"{self.prompts_per_update}; whole groups go to each update"
            )

    @property
    def updates(self) -> int:
        """Optimiser steps per rollout."""
        return self.prompts_per_rollout // self.prompts_per_update

    def train(
        self, vlm: VLM, problems: Sequence[Problem], *, reference: VLM | None, folder: Path, seed: int, title: str = "grpo"
    ) -> None:
        """Trains `vlm` in place, resuming from `folder/last.ckpt`. `reference` may be None without KL or with an adapter.

        Raises UserError when a rollout needs more problems than there are.
        """
        if len(problems) < self.prompts_per_rollout:
            raise UserError(
                f"{title}: grpo.prompts_per_rollout={self.prompts_per_rollout} is larger than the data ({len(problems)} problems); "
                "lower it or give more problems"
            )
        experience = Experience(self._chain(), vlm, Renderer(vlm.processor, self.prompt), reference, self.updates)
        module = self._module(vlm)
        transcripts = Transcripts(folder, self.transcripts)
        waiting: list[GRPOBatch] = []

        def make(step: int) -> GRPOBatch:
            if step % self.updates == 0:
                if not waiting:
                    transcripts.drop_after(step)
                rollout = step // self.updates
                picked = batch_rows(len(problems), self.prompts_per_rollout, rollout, seed, drop_last=True)
                rolled, waiting[:] = experience.collect(
                    [problems[row] for row in picked], seed=seed * 1_000_003 + rollout, version=module.version
                )
                transcripts.add(rolled, step)
            return waiting[step % self.updates]

        vlm.model.train()
        self.fit.run(module, make, folder, title=title, boundary=self.updates)
        transcripts.close()

    def _chain(self) -> Chain:
        sampling = Sampling(self.group_size, self.max_new_tokens, self.temperature, self.top_p)
        return Chain(
            generator=self.generator,
            sampling=sampling,
            reward=self.reward,
            advantage=self.advantage,
            gate=self.gate,
            denominator=self.denominator,
            kl=self.kl > 0,
            micro_batch=self.micro_batch,
        )

    def _module(self, vlm: VLM) -> GRPOModule:
        objective = Objective(self.aggregate, self.kl, self.clip_low, self.clip_high, self.temperature)
        optimisation = Optimisation(self.optimizer, self.scheduler, self.warmup, self.clip)
        return GRPOModule(vlm, optimisation, self.steps, objective, updates=self.updates, micro_batch=self.micro_batch)

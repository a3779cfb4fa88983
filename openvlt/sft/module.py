"""Supervised fine-tuning: its Lightning module, and the settings that `conf/sft/*.yaml` fill in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from openvlt import distributed
from openvlt.config.validate import check_positive
from openvlt.data.batching import batch_rows
from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.sft.loss import nll
from openvlt.trackers.recorder import StageRecorder
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.module import Optimisation, StepModule, check_optimisation
from openvlt.trainer.not_finite import StepLoss
from openvlt.trainer.optimizer import check_optimizer
from openvlt.types import SFTBatch, Trace


class SFTModule(StepModule):
    """Computes the loss of one optimiser step's traces, `micro_batch` rows at a time."""

    def __init__(self, vlm: VLM, optimisation: Optimisation, steps: int, micro_batch: int) -> None:
        super().__init__(vlm, optimisation, steps)
        self.micro_batch = micro_batch

    def rows(self, batch: SFTBatch) -> list[Tensor]:
        """See `StepModule`. Rows of like length stand together, so that little is computed for padding."""
        order = (batch.prompts.mask_PL.sum(1) + batch.mask_NT.sum(1)).argsort(descending=True)
        mine = order[distributed.rank() :: distributed.world_size()]
        # a short last batch may leave a rank without rows
        return list(mine.split(self.micro_batch)) if len(mine) else []

    def part(self, batch: SFTBatch, rows: Tensor) -> tuple[SFTBatch, int]:
        """See `StepModule`. The second value are the response tokens of the whole step."""
        width = int(batch.mask_NT[rows].sum(1).max())
        columns = (column[rows, :width].to(self.device) for column in (batch.ids_NT, batch.mask_NT))
        prompts = batch.prompts.select(rows.tolist()).to(self.device)
        return SFTBatch(prompts, *columns), int(batch.mask_NT.sum())

    def step_loss(self) -> StepLoss:
        """See `StepModule`; it is the same at every step."""
        return sft_loss


def sft_loss(vlm: VLM, part: tuple[SFTBatch, int]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """This micro-batch's share of the step's loss, and of the mean entropy."""
    batch, tokens = part
    group_N = torch.arange(len(batch.prompts), device=batch.ids_NT.device)
    columns = (batch.prompts, batch.ids_NT, batch.mask_NT, group_N)
    logp_NT, entropy_NT = completion_logp(vlm, *columns, slope_NT=-batch.mask_NT / tokens)
    return nll(logp_NT, batch.mask_NT, tokens), {"entropy": entropy_NT.sum() / tokens}


@dataclass(frozen=True)
class SFT:
    """`conf/sft/*.yaml`: `batch_size` traces per optimiser step, `micro_batch` of them at a time."""

    fit: TrainingLoop
    prompt: PromptStyle
    optimizer: Callable[..., list[Optimizer]]
    scheduler: Callable[..., Any]
    epochs: int = 1
    batch_size: int = 32
    micro_batch: int = 32
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        check_positive(self, "sft", "epochs", "batch_size", "micro_batch", "max_tokens")
        check_optimisation("sft", self.warmup_ratio, self.max_grad_norm)
        check_optimizer("sft.optimizer", self.optimizer)

    def steps(self, traces: int) -> int:
        """The number of optimiser steps for this many traces; the last batch of an epoch may be smaller."""
        return self.epochs * math.ceil(traces / self.batch_size)

    def train(
        self,
        vlm: VLM,
        traces: Sequence[Trace],
        *,
        folder: Path,
        seed: int,
        title: str = "sft",
        recorder: StageRecorder | None = None,
    ) -> None:
        """Trains `vlm` in place on the traces, from `folder/last.ckpt` if there is one.

        Raises UserError when there are fewer traces than a batch holds.
        """
        if len(traces) < self.batch_size:
            raise UserError(
                f"{title}: batch_size={self.batch_size} is larger than the data ({len(traces)} traces); "
                "lower sft.batch_size or make more traces"
            )
        renderer = Renderer(vlm.processor, self.prompt)
        optimisation = Optimisation(self.optimizer, self.scheduler, self.warmup_ratio, self.max_grad_norm)
        module = SFTModule(vlm, optimisation, self.steps(len(traces)), self.micro_batch)
        vlm.model.train()

        def make_batch(step: int) -> SFTBatch:
            picked = batch_rows(len(traces), self.batch_size, step, seed)
            return renderer.sft_batch([traces[row] for row in picked], self.max_tokens)

        self.fit.run(module, make_batch, folder, title=title, ahead=True, recorder=recorder)

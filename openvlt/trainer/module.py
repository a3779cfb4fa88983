"""The Lightning module that SFT and GRPO share: one optimiser step per `training_step`.

A step is split into micro-batches and ranks; the split doesn't change its gradient.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.model.shard import add_up_gradients, match_parts, pass_through, plain_copy, to_whole
from openvlt.trainer.not_finite import NotFinite, StepLoss, to_cpu
from openvlt.trainer.optimizer import make_schedule


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and learning-rate schedule: `optimizer(named parameters)` returns a list of optimisers.

    `scheduler` is a transformers schedule, `warmup_ratio` the share of steps in which the rate rises from 0.
    """

    optimizer: Callable[..., list[Optimizer]]
    scheduler: Callable[..., Any]
    warmup_ratio: float = 0.0
    max_grad_norm: float = 1.0


def check_optimisation(where: str, warmup_ratio: Any, max_grad_norm: Any) -> None:
    """Raises UserError for an impossible warm-up or max_grad_norm in group `where` (grpo or sft)."""
    if not (isinstance(max_grad_norm, (int, float)) and max_grad_norm > 0):
        raise UserError(
            f"{where}.max_grad_norm={max_grad_norm}; the norm that gradients are cut to is a number above 0; "
            "inf (.inf in a file) clips nothing"
        )
    if not (isinstance(warmup_ratio, (int, float)) and 0 <= warmup_ratio < 1):
        raise UserError(f"{where}.warmup_ratio={warmup_ratio}; it is a share of the steps, from 0 to below 1")


class StepModule(lightning.LightningModule):
    """Takes optimiser steps on a subclass's loss: `split` gives a batch's parts, `loss` each one's share.

    `version` counts optimiser steps. It is the policy version that generated a batch, and after a restart the
    step to continue from.
    """

    def __init__(self, vlm: VLM, optimisation: Optimisation, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.vlm = vlm.model, vlm
        self.optimisation, self.steps = optimisation, steps
        self.version = 0
        self.metrics: dict[str, float] = {}
        self._random = torch.random.get_rng_state()

    def configure_model(self) -> None:
        """Does nothing: `TrainingLoop` has cut the model already. Lightning asks for it."""

    def on_train_start(self) -> None:
        """Lets a rank end when its launcher asks; Lightning's handler would note the signal and go on."""
        if distributed.world_size() > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def rows(self, batch: Any) -> list[Tensor]:
        """The rows of one optimiser step's batch in each of this process's micro-batches."""
        raise NotImplementedError

    def part(self, batch: Any, rows: Tensor) -> Any:
        """The micro-batch of these rows, on the model's device."""
        raise NotImplementedError

    def split(self, batch: Any) -> Iterator[Any]:
        """This process's micro-batches of one optimiser step's batch."""
        return (self.part(batch, rows) for rows in self.rows(batch))

    def step_loss(self) -> StepLoss:
        """The loss of the present step, as a function that can be saved: model and part in, shares out.

        It returns a part's share of the step's loss and of values to log, divided by the step's totals.
        """
        raise NotImplementedError

    def loss(self, part: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Returns a part's share of the step's loss, and of values to log."""
        return self.step_loss()(self.vlm, part)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves batches where they were made: only one micro-batch at a time goes to the device."""
        return batch

    def training_step(self, batch: Any, index: int) -> None:
        """Takes one optimiser step; `metrics` are then its logged values, added up over parts and ranks.

        Raises NotFinite, with the weights as they were, when the loss or the gradient isn't finite.
        """
        if isinstance(batch, UserError):
            raise batch
        self._random = torch.random.get_rng_state()
        sums: dict[str, Tensor] = {}
        first_row = torch.zeros(1, dtype=torch.long)
        for rows, factor in match_parts(self.model, self.rows(batch), filler=first_row):
            loss, shares = pass_through(self.model, partial(self.loss, self.part(batch, rows)))
            self.manual_backward(loss * factor)
            if factor:
                add_logged(sums, {"loss": loss.detach(), **shares})
        # also without a part: ranks and schedules stay in step, and weights without gradient stay as they are
        add_up_gradients(self.model)
        norm = to_whole(torch.nn.utils.clip_grad_norm_(self._trainable(), self.optimisation.max_grad_norm))
        own, self.metrics = {name: float(value) for name, value in sums.items()}, {}
        for part in distributed.all_gather([own]):
            add_logged(self.metrics, part)
        self.metrics["grad_norm"] = float(norm)
        self._check_finite(batch)
        self._step()
        self.version += 1

    def _check_finite(self, batch: Any) -> None:
        """Raises NotFinite before the optimiser has touched a weight: the same decision on every rank."""
        values = {name: self.metrics[name] for name in ("loss", "grad_norm") if name in self.metrics}
        if all(math.isfinite(value) for value in values.values()):
            return
        self.zero_grad(set_to_none=True)
        optimizers = self._as_list(self.optimizers())
        raise NotFinite(
            step=self.version + 1,
            values=values,
            learning_rates=sorted({group["lr"] for one in optimizers for group in one.param_groups}),
            vlm=plain_copy(self.vlm),
            loss=self.step_loss(),
            parts=distributed.all_gather([to_cpu(part) for part in self.split(batch)]),
            random=self._random,
        )

    def _step(self) -> None:
        for optimizer in self._as_list(self.optimizers()):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for scheduler in self._as_list(self.lr_schedulers()):
            scheduler.step()

    @staticmethod
    def _as_list(value: Any) -> list[Any]:
        return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        named = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        optimizers = self.optimisation.optimizer(named)
        build, warmup_ratio = self.optimisation.scheduler, self.optimisation.warmup_ratio
        schedules = [make_schedule(optimizer, build, self.steps, warmup_ratio) for optimizer in optimizers]
        return optimizers, schedules

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["version"] = self.version

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.version = checkpoint["version"]


def add_logged(sums: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Adds another part's logged values to `sums`; for names ending in `_max` or `_min` keeps the extreme."""
    for name, value in more.items():
        if name in sums and name.endswith(("_max", "_min")):
            sums[name] = max(sums[name], value) if name.endswith("_max") else min(sums[name], value)
        else:
            sums[name] = sums.get(name, 0.0) + value

"""What SFT and GRPO share: one optimiser step per `training_step`, split into micro-batches and ranks that don't change its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.trainer.optimizer import schedule


@dataclass(frozen=True)
class Optimisation:
    """How weights move: `optimizer(named parameters)` gives a list, `scheduler` is a transformers schedule, `warmup_ratio` a share of steps."""

    optimizer: Callable[..., list[Optimizer]]
    scheduler: Callable[..., Any]
    warmup_ratio: float = 0.0
    max_grad_norm: float = 1.0


def check_optimisation(where: str, warmup_ratio: Any, max_grad_norm: Any) -> None:
    """Raises UserError for a warm-up or a max_grad_norm that can't be; `where` is their part of the configuration, grpo or sft."""
    if not (isinstance(max_grad_norm, (int, float)) and max_grad_norm > 0):
        raise UserError(
            f"{where}.max_grad_norm={max_grad_norm}; the norm that gradients are cut to is a number above 0; inf (.inf in a file) clips nothing"
        )
    if not (isinstance(warmup_ratio, (int, float)) and 0 <= warmup_ratio < 1):
        raise UserError(f"{where}.warmup_ratio={warmup_ratio}; it is a share of the steps, from 0 to below 1")


class StepModule(lightning.LightningModule):
    """Glue around a pure loss. Subclasses say how a batch splits (`split`) and what one part's share of the loss is (`loss`).

    `version` counts optimiser steps; it names the policy that generated a batch and the step to continue from after a restart.
    """

    automatic_optimization = False

    def __init__(self, vlm: VLM, optimisation: Optimisation, steps: int) -> None:
        super().__init__()
        self.model, self.vlm = vlm.model, vlm
        self.optimisation, self.steps = optimisation, steps
        self.version = 0
        self.metrics: dict[str, float] = {}

    def split(self, batch: Any) -> Iterable[Any]:
        """This rank's micro-batches of one optimiser step."""
        raise NotImplementedError

    def loss(self, part: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """This part's share of the step's loss, and sums to log (already divided by the step's totals)."""
        raise NotImplementedError

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches stay where they were made: only one micro-batch at a time goes to the device."""
        return batch

    def training_step(self, batch: Any, index: int) -> None:
        if isinstance(batch, UserError):
            raise batch
        sums: dict[str, Tensor] = {}
        for part in self.split(batch):
            loss, shares = self.loss(part)
            self.manual_backward(loss)
            add_logged(sums, {"loss": loss.detach(), **shares})
        norm = (
            self._step()
        )  # also without a part: schedules and ranks stay in step, weights without gradient stay as they are
        self.version += 1
        own, self.metrics = {name: float(value) for name, value in sums.items()}, {}
        for part in distributed.all_gather([own]):
            add_logged(self.metrics, part)
        self.metrics["grad_norm"] = float(norm)

    def _step(self) -> Tensor:
        distributed.all_reduce_gradients(self._trainable())
        norm = torch.nn.utils.clip_grad_norm_(self._trainable(), self.optimisation.max_grad_norm)
        for optimizer in self._as_list(self.optimizers()):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for scheduler in self._as_list(self.lr_schedulers()):
            scheduler.step()
        return norm

    @staticmethod
    def _as_list(value: Any) -> list[Any]:
        return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        named = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        optimizers = self.optimisation.optimizer(named)
        build, warmup_ratio = self.optimisation.scheduler, self.optimisation.warmup_ratio
        return optimizers, [schedule(optimizer, build, self.steps, warmup_ratio) for optimizer in optimizers]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["version"] = self.version

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.version = checkpoint["version"]


def add_logged(sums: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Puts logged values of another part of a step to those so far: `..._max` and `..._min` are extremes, everything else adds up."""
    for name, value in more.items():
        if name in sums and name.endswith(("_max", "_min")):
            sums[name] = max(sums[name], value) if name.endswith("_max") else min(sums[name], value)
        else:
            sums[name] = sums.get(name, 0.0) + value

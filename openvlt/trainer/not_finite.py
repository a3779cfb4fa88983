"""A step whose loss or gradient isn't finite: what stops the stage, the file it leaves, and its replay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.storage.atomic import atomic_write
from openvlt.storage.own_files import is_own_file, sign_files

# model and part in; the part's share of the step's loss, and of values to log, out
StepLoss = Callable[[VLM, Any], tuple[Tensor, Mapping[str, Tensor]]]
FILE = "not_finite.pt"


class NotFinite(UserError):
    """The loss or the gradient norm of optimiser step `step` isn't finite; the weights are those before it.

    `values` are the step's, `parts` its micro-batches, `random` the state of the random generator before it.
    """

    def __init__(
        self,
        *,
        step: int,
        values: Mapping[str, float],
        learning_rates: Sequence[float],
        vlm: VLM,
        loss: StepLoss,
        parts: Sequence[Any],
        random: Tensor,
    ) -> None:
        self.step, self.values, self.learning_rates = step, dict(values), learning_rates
        self.content = {
            "step": step,
            "values": self.values,
            "vlm": vlm,
            "loss": loss,
            "parts": list(parts),
            "random": random,
        }
        super().__init__(self.describe())

    def describe(self) -> str:
        """What isn't finite, and at which learning rate."""
        broken = " and ".join(
            f"the {name.replace('grad_norm', 'gradient norm')} is {value}"
            for name, value in self.values.items()
            if not math.isfinite(value)
        )
        rates = " and ".join(f"{rate:.3g}" for rate in self.learning_rates)
        return f"step {self.step}: {broken} (learning rate {rates})"

    def save(self, folder: Path) -> Path:
        """Writes model, batch and loss of the step, signed, for `replay_step`; returns the file."""
        if distributed.is_main():
            with atomic_write(folder / FILE) as aside:
                torch.save(self.content, aside)
            sign_files(folder / FILE)
        return folder / FILE


def stop_sentence(error: NotFinite, title: str, file: Path) -> str:
    """The sentence that ends a stage: the step, the likely causes, the fix, and how the step is replayed."""
    return (
        f"{title}, {error.describe()}: training stopped there and published nothing; lower the learning rate "
        "or max_grad_norm, raise warmup_ratio, or use trainer.precision=32-true; whether one batch is at "
        f"fault shows: python -m openvlt.trainer.replay {file}"
    )


def to_cpu(value: Any) -> Any:
    """The same value, a micro-batch for example, with all its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: to_cpu(getattr(value, one.name)) for one in fields(value)})
    if isinstance(value, Mapping):
        return {name: to_cpu(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to_cpu(item) for item in value)
    return value


@dataclass(frozen=True)
class PartResult:
    """A micro-batch of a replay: loss, norm of its gradient, and the tensors whose gradient isn't finite."""

    loss: float
    grad_norm: float
    broken: tuple[str, ...]

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def replay_step(file: Path) -> tuple[Mapping[str, Any], list[PartResult]]:
    """What the file holds, and loss and gradient of each micro-batch, computed again.

    Raises UserError where there is none, and for a file that no run of this user wrote: it holds Python
    objects, and reading another one's could run any code.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; a stage that stopped leaves {FILE} in its folder")
    if not is_own_file(file):
        raise UserError(
            f"{file} wasn't written by a run of this user, or was changed since; it isn't opened, because it "
            "could run any code; replay it where the run was made"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    content = torch.load(file, map_location=device, weights_only=False)  # signed by this user's key
    model = content["vlm"].model
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(content["random"].cpu())
        return content, [_replay_part(model, content, part) for part in content["parts"]]


def _replay_part(model: torch.nn.Module, content: Mapping[str, Any], part: Any) -> PartResult:
    model.zero_grad(set_to_none=True)
    loss, _ = content["loss"](content["vlm"], part)
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    broken = tuple(name for name, gradient in gradients.items() if not gradient.isfinite().all())
    return PartResult(float(loss.detach()), float(norm), broken)

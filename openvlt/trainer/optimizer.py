"""Optimisers and learning-rate schedules, as `conf/optimizer` and `conf/scheduler` build them.

A builder returns a list of optimisers, since Muon needs another one beside it for 1-D weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from openvlt.errors import UserError
from openvlt.trainer.master_weights import MasterAdamW
from openvlt.trainer.muon import Muon

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def adamw(
    parameters: NamedParameters,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> list[Optimizer]:
    """AdamW on all parameters."""
    return [_adamw([value for _, value in parameters], learning_rate, weight_decay, betas)]


def muon(
    parameters: NamedParameters,
    *,
    learning_rate: float,
    muon_learning_rate: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float = 0.95,
    newton_schulz_steps: int = 4,
) -> list[Optimizer]:
    """Muon on 2-D weights inside the network; AdamW, at `learning_rate`, on the rest.

    The rest are embeddings, head, norms, biases and convolutions.
    """
    named = list(parameters)
    inner = {
        name for name, value in named if value.ndim == 2 and "embed" not in name and "lm_head" not in name
    }
    hidden = [value for name, value in named if name in inner]
    rest = [value for name, value in named if name not in inner]
    optimizers: list[Optimizer] = []
    if hidden:
        settings = {"momentum": momentum, "weight_decay": weight_decay, "ns_steps": newton_schulz_steps}
        optimizers.append(Muon(hidden, lr=muon_learning_rate, **settings))
    if rest:  # none under LoRA, whose weights are all 2-D
        optimizers.append(_adamw(rest, learning_rate, weight_decay, betas))
    return optimizers


def check_optimizer(where: str, make: Callable[..., list[Optimizer]]) -> None:
    """Makes the optimiser once for two small tensors. Raises UserError for settings that torch refuses."""
    stand_in = {"inner.weight": torch.zeros(2, 2), "inner.bias": torch.zeros(2)}
    try:
        make([(name, nn.Parameter(value)) for name, value in stand_in.items()])
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}; correct its settings") from error


def _adamw(
    values: list[nn.Parameter], learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> Optimizer:
    """AdamW, on float32 copies where a weight has less than 32 bits (see `MasterAdamW`)."""
    kind = MasterAdamW if any(value.element_size() < 4 for value in values) else torch.optim.AdamW
    pair = cast(tuple[float, float], tuple(betas))  # a list, where it comes from a file
    return kind(values, lr=learning_rate, weight_decay=weight_decay, betas=pair, fused=True)


def make_schedule(optimizer: Optimizer, build: Callable[..., Any], steps: int, warmup_ratio: float) -> Any:
    """A transformers schedule over `steps` optimiser steps, the share `warmup_ratio` of them for warm-up."""
    return build(optimizer, num_warmup_steps=round(warmup_ratio * steps), num_training_steps=steps)


def constant(optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int) -> Any:
    """A schedule that is constant after the warm-up, however many steps follow."""
    from transformers import get_constant_schedule_with_warmup

    return get_constant_schedule_with_warmup(optimizer, num_warmup_steps)

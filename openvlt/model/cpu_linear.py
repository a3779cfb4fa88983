"""Linear layers with weights packed for oneDNN once per rollout, instead of once per decoded token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeGuard

import torch
from torch import Tensor, nn

MIN_WEIGHT_SIZE = 1 << 20  # smaller weights are faster unpacked (measured, docs/performance.md)
PACKED_ROWS = 32  # the row count that the packed layout is chosen for


@contextlib.contextmanager
def prepack_weights(model: nn.Module) -> Iterator[None]:
    """Inside, large float32 linears on a CPU multiply by packed copies of their weights.

    The weights must not change meanwhile. Costs one copy of them. Without oneDNN, on other devices and for
    other precisions nothing changes.
    """
    packed = [part for part in model.modules() if _gains_from_packing(part)]
    for part in packed:
        setattr(part, "forward", _packed_forward(part))  # noqa: B010  an instance's own forward, gone again below
    try:
        yield
    finally:
        for part in packed:
            del part.forward


def _gains_from_packing(part: nn.Module) -> TypeGuard[nn.Linear]:
    if type(part) is not nn.Linear or not torch.backends.mkldnn.is_available():
        return False
    weight = part.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= MIN_WEIGHT_SIZE


def _packed_forward(part: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(part.weight.detach(), PACKED_ROWS)

    def forward(input: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(input, weight, part.bias, "none", [], "")

    return forward

"""Weights packed once for many small products: what a CPU's matrix library otherwise does again for every decoded token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

LEAST = 1 << 20  # weights below this size are faster unpacked (measured, docs/performance.md)
MIN_ROWS = 32  # the row count that the packed layout is chosen for


@contextlib.contextmanager
def prepack_weights(model: nn.Module) -> Iterator[None]:
    """Inside, large float32 linears on a CPU multiply by packed copies of their weights. The weights must not change meanwhile.

    Costs one copy of the weights. Without oneDNN, on other devices and for other precisions nothing changes.
    """
    swapped = [part for part in model.modules() if _packs(part)]
    for part in swapped:
        part.forward = _packed(part)
    try:
        yield
    finally:
        for part in swapped:
            del part.forward


def _packs(part: nn.Module) -> bool:
    if type(part) is not nn.Linear or not torch.backends.mkldnn.is_available():
        return False
    weight = part.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LEAST


def _packed(part: nn.Linear):
    weight = torch.ops.mkldnn._reorder_linear_weight(part.weight.detach(), MIN_ROWS)

    def forward(rows: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, weight, part.bias, "none", [], "")

    return forward

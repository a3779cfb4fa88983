"""AdamW for weights of 16 bits, on float32 copies of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MasterAdamW(torch.optim.AdamW):
    """Steps float32 master weights and writes them back rounded (arXiv 1710.03740, section 3.1).

    bfloat16 keeps 8 bits. At a learning rate of 1e-6 a step is far below the spacing of nearly every weight,
    so stepping the weights themselves would leave them unchanged. Costs 4 bytes a weight beside AdamW's 8. A
    checkpoint holds the masters.
    """

    def __init__(self, weights: Iterable[nn.Parameter], **settings: Any) -> None:
        self.weights = list(weights)
        self.masters = [nn.Parameter(weight.detach().float()) for weight in self.weights]
        super().__init__(self.masters, **settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step. A weight without gradient stays as it is.

        Each gradient is freed as soon as its float32 copy is made.
        """
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        value = super().step(closure)
        for weight, master in zip(self.weights, self.masters, strict=True):
            if master.grad is not None:
                weight.copy_(master)
                master.grad = None
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of the weights."""
        for weight in self.weights:
            if set_to_none:
                weight.grad = None
            elif weight.grad is not None:
                weight.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Returns AdamW's state and the masters."""
        return {**super().state_dict(), "masters": [master.detach() for master in self.masters]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        rest = dict(state_dict)
        for master, saved in zip(self.masters, rest.pop("masters"), strict=True):
            master.copy_(saved)
        super().load_state_dict(rest)

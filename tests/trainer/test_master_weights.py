"""Weights of 16 bits learn at the paper's rates, and a restart changes nothing."""

import copy

import torch
from torch import nn

from openvlt.trainer.master_weights import MasterAdamW
from openvlt.trainer.optimizer import adamw


def weights(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter((0.02 * torch.randn(64, 32, generator=generator)).to(dtype)) for _ in range(2)]


def steps(optimizer, values, amount: int, start: int = 0) -> None:
    for step in range(start, start + amount):
        generator = torch.Generator().manual_seed(100 + step)
        for value in values:
            value.grad = (1 + 0.1 * torch.randn(value.shape, generator=generator)).to(value.dtype)
        optimizer.step()
        optimizer.zero_grad()


def test_bfloat16_weights_move_as_far_as_float32_ones() -> None:
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        values = weights(dtype)
        before = [value.detach().clone() for value in values]
        (optimizer,) = adamw([(str(n), value) for n, value in enumerate(values)], learning_rate=1e-6)
        steps(optimizer, values, 200)
        moved[dtype] = torch.stack(
            [(old.float() - new.float()).mean() for old, new in zip(before, values, strict=True)]
        ).mean()
    torch.testing.assert_close(moved[torch.bfloat16], moved[torch.float32], rtol=0.1, atol=0)
    assert 1.5e-4 < moved[torch.float32] < 2.5e-4


def test_masters_step_as_adamw_does_in_float32() -> None:
    plain, low = weights(torch.float32), weights(torch.float32)
    settings = {"lr": 1e-3, "weight_decay": 0.1}
    steps(torch.optim.AdamW(plain, **settings), plain, 5)
    steps(MasterAdamW(low, **settings), low, 5)
    assert all(torch.equal(one, other) for one, other in zip(plain, low, strict=True))


def test_a_restart_continues_with_the_same_bits() -> None:
    straight = weights(torch.bfloat16)
    optimizer = MasterAdamW(straight, lr=1e-5)
    steps(optimizer, straight, 3)
    saved, middle = (
        copy.deepcopy(optimizer.state_dict()),
        [nn.Parameter(value.detach().clone()) for value in straight],
    )
    steps(optimizer, straight, 3, start=3)
    again = MasterAdamW(middle, lr=1e-5)
    again.load_state_dict(saved)
    steps(again, middle, 3, start=3)
    assert all(torch.equal(one, other) for one, other in zip(straight, middle, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(optimizer.masters, again.masters, strict=True))


def test_a_weight_without_gradient_stays() -> None:
    values = weights(torch.bfloat16)
    before = values[1].detach().clone()
    optimizer = MasterAdamW(values, lr=1e-2, weight_decay=0.1)
    values[0].grad = torch.ones_like(values[0])
    optimizer.step()
    assert torch.equal(values[1], before)

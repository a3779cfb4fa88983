"""Muon against torch's own and against the rule written out in float64, one matrix at a time."""

from __future__ import annotations

import copy
import math
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from openvlt.trainer.muon import COEFFICIENTS, Muon, orthogonalise
from openvlt.trainer.optimizer import adamw, constant, make_schedule, muon

SHAPES = [(8, 8), (12, 5), (5, 12), (12, 5), (1, 7), (3, 1)]


def weights(dtype=torch.float32) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)) for shape in SHAPES
    ]


def grads(step: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=rng, dtype=torch.float64) * 10.0 ** (step - 1) for shape in SHAPES]


class Twin:
    """Keller Jordan's Muon with Nesterov momentum and decoupled decay, in plain loops."""

    def __init__(
        self, values: list[torch.Tensor], lr: float, momentum: float, decay: float, steps: int
    ) -> None:
        self.values, self.buffers = values, [torch.zeros_like(value) for value in values]
        self.lr, self.momentum, self.decay, self.steps = lr, momentum, decay, steps

    def step(self, gradients: list[torch.Tensor]) -> None:
        for value, buffer, gradient in zip(self.values, self.buffers, gradients, strict=True):
            buffer.copy_(self.momentum * buffer + (1 - self.momentum) * gradient)
            update = self.newton_schulz((1 - self.momentum) * gradient + self.momentum * buffer)
            rows, columns = value.shape
            value.mul_(1 - self.lr * self.decay).sub_(self.lr * math.sqrt(max(1.0, rows / columns)) * update)

    def newton_schulz(self, update: torch.Tensor) -> torch.Tensor:
        a, b, c = COEFFICIENTS
        x = update / update.norm()
        for _ in range(self.steps):
            x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
        return x


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_equals_the_rule_written_out(dtype, tolerance, steps):
    ours, twin = (
        weights(dtype),
        Twin([w.detach().clone() for w in weights(torch.float64)], 0.1, 0.9, 0.05, steps),
    )
    optimizer = Muon(ours, lr=0.1, momentum=0.9, weight_decay=0.05, ns_steps=steps)
    for step in range(3):
        for parameter, gradient in zip(ours, grads(step), strict=True):
            parameter.grad = gradient.to(dtype)
        optimizer.step()
        twin.step(grads(step))
    for parameter, expected in zip(ours, twin.values, strict=True):
        torch.testing.assert_close(parameter.detach().double(), expected, atol=tolerance, rtol=tolerance)


def test_moves_as_torchs_muon_does():
    """torch orthogonalises in bfloat16: the direction agrees to 1 %, not the bits."""
    ours, theirs = weights(), weights()
    settings = dict(lr=0.05, momentum=0.95, weight_decay=0.1, ns_steps=5)
    one, other = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for step in range(3):
        before = [p.detach().clone() for p in ours], [p.detach().clone() for p in theirs]
        for mine, its, gradient in zip(ours, theirs, grads(step), strict=True):
            mine.grad, its.grad = gradient.float(), gradient.float()
        one.step()
        other.step()
        for mine, its, was, itwas in zip(ours, theirs, *before, strict=True):
            move, expected = (mine - was).flatten().detach(), (its - itwas).flatten().detach()
            assert torch.cosine_similarity(move, expected, dim=0) > 0.99
            assert move.norm().item() == pytest.approx(expected.norm().item(), rel=0.03)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 8), (4, 8, 24)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    result = orthogonalise(update, 5)
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.6 and singular.max() < 1.3
    core = u.mT @ result @ v.mT  # the same singular vectors: diagonal in their basis
    assert (core - torch.diag_embed(core.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-4
    for each, alone in zip(result, update, strict=True):
        torch.testing.assert_close(each, orthogonalise(alone[None], 5)[0], atol=1e-5, rtol=1e-5)


def test_zero_and_missing_gradients_move_nothing_but_decay():
    parameters = [nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))]
    parameters[0].grad = torch.zeros(3, 4)
    optimizer = Muon(parameters, lr=0.1, weight_decay=0.5)
    optimizer.step()
    torch.testing.assert_close(parameters[0].detach(), torch.full((3, 4), 0.95))
    assert torch.equal(parameters[1].detach(), torch.ones(3, 4)) and parameters[1] not in optimizer.state


def one_of_two(number: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=2
    )
    torch.save(moved(), folder / f"{number}.pt")
    distributed.destroy_process_group()


def moved() -> list[torch.Tensor]:
    ours = weights()
    optimizer = Muon(ours, lr=0.1)
    for step in range(2):
        for parameter, gradient in zip(ours, grads(step), strict=True):
            parameter.grad = gradient.float()
        optimizer.step()
    return [parameter.detach() for parameter in ours]


def test_two_ranks_share_the_work_and_end_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=one_of_two, args=(number, tmp_path)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for number in range(2):
        assert all(
            torch.equal(here, there)
            for here, there in zip(moved(), torch.load(tmp_path / f"{number}.pt"), strict=True)
        )

    given = []
    monkeypatch.setattr("openvlt.distributed.all_reduce", lambda tensors: given.extend(tensors))
    monkeypatch.setattr("openvlt.distributed.world_size", lambda: 2)
    for number in range(2):
        monkeypatch.setattr("openvlt.distributed.rank", lambda number=number: number)
        moved()
    done = [bool(matrix.any()) for stack in given for matrix in stack]
    assert done[: len(done) // 2] == [not other for other in done[len(done) // 2 :]], (
        "each matrix is one rank's work"
    )


def test_state_survives_saving():
    ours, copied = weights(), weights()
    one, other = Muon(ours, lr=0.1), Muon(copied, lr=0.1)
    for step in range(2):
        for parameter, gradient in zip(ours, grads(step), strict=True):
            parameter.grad = gradient.float()
        one.step()
    for mine, its in zip(ours, copied, strict=True):
        its.data.copy_(mine.data)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for optimizer, parameters in ((one, ours), (other, copied)):
        for parameter, gradient in zip(parameters, grads(2), strict=True):
            parameter.grad = gradient.float()
        optimizer.step()
    assert all(torch.equal(mine, its) for mine, its in zip(ours, copied, strict=True))


def test_the_muon_factory_gives_every_weight_to_one_optimiser(vlm):
    named = list(vlm.model.named_parameters())
    hidden, rest = muon(named, learning_rate=1e-3, muon_learning_rate=2e-2, weight_decay=0.03)
    owners = [
        {id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in (hidden, rest)
    ]
    assert not owners[0] & owners[1] and owners[0] | owners[1] == {id(p) for _, p in named}
    matrices = {name for name, p in named if id(p) in owners[0]}
    assert all(p.ndim == 2 for name, p in named if name in matrices)
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in matrices
    assert "model.visual.blocks.0.attn.qkv.weight" in matrices
    assert not any("embed" in name or "lm_head" in name for name in matrices)
    assert isinstance(hidden, Muon) and isinstance(rest, torch.optim.AdamW)
    assert (hidden.param_groups[0]["lr"], rest.param_groups[0]["lr"]) == (2e-2, 1e-3)
    assert {group["weight_decay"] for optimizer in (hidden, rest) for group in optimizer.param_groups} == {
        0.03
    }


def test_the_adamw_factory_makes_adams_first_step():
    """Adam's first step is lr x sign(g), after decay by 1 - lr x decay."""
    parameter = nn.Parameter(torch.tensor([2.0, -4.0, 1.0]))
    (optimizer,) = adamw([("w", parameter)], learning_rate=0.1, weight_decay=0.5)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    parameter.grad = torch.tensor([3.0, -0.01, 7.0])
    optimizer.step()
    assert parameter.tolist() == pytest.approx([2 * 0.95 - 0.1, -4 * 0.95 + 0.1, 0.95 - 0.1], abs=1e-5)
    (other,) = adamw([("w", parameter)], learning_rate=0.1, betas=[0.8, 0.9])
    assert other.param_groups[0]["betas"] == (0.8, 0.9) and other.param_groups[0]["weight_decay"] == 0.0


def test_schedules_warm_up_over_their_share_of_steps():
    def rates(build, warmup_ratio: float) -> list[float]:
        (optimizer,) = adamw([("w", nn.Parameter(torch.ones(1)))], learning_rate=1.0)
        plan, found = make_schedule(optimizer, build, 10, warmup_ratio), []
        for _ in range(10):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            plan.step()
        return found

    from transformers import get_cosine_schedule_with_warmup

    assert rates(constant, 0.4) == pytest.approx([0, 0.25, 0.5, 0.75] + [1.0] * 6)
    assert rates(constant, 0.0) == [1.0] * 10
    cosine = rates(get_cosine_schedule_with_warmup, 0.2)
    assert cosine == pytest.approx([0, 0.5] + [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)])

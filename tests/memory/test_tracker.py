"""Estimated memory against what torch's profiler counts in the real passes: within 15 % of the peak."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import LoraConfig
from PIL import Image

from openvlt.memory.estimate import optimizer_bytes
from openvlt.memory.rollout import rollout_bytes
from openvlt.memory.tracker import PassSizes, head_bytes, micro_batch_bytes
from openvlt.model.load import VLM, add_adapter, freeze
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.model.transformers_range import enable_checkpointing
from openvlt.rollout.base import Sampling
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.trainer.optimizer import adamw, muon
from openvlt.types import Problem
from tests.helpers.peak_memory import peak_bytes

PROMPTS, GROUP, TOKENS, SIDE = 6, 5, 70, 4


class Forced(VLM):
    """Never stops: every completion is as long as it may be."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (-1,)


def variant(vlm: VLM, name: str) -> VLM:
    model = copy.deepcopy(vlm.model).train()
    if name == "frozen":
        freeze(model, ("vision", "projector"))
    if name in ("checkpointing", "selective"):
        enable_checkpointing(model, selective=name == "selective")
    if name == "bfloat16":
        model = model.bfloat16()
    adapter = (
        LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)")
        if name == "lora"
        else None
    )
    return Forced(add_adapter(model, adapter), vlm.processor, name)


def without_weights(real: VLM) -> VLM:
    model = copy.deepcopy(real.model).to("meta")
    (model.get_base_model() if real.model is not real.core else model).tie_weights()
    return VLM(model, None, "plan")


@pytest.fixture(scope="module")
def alike() -> list[Problem]:
    """Problems whose prompts are equally long, with an image of 4 x 4 tokens each."""
    return [
        Problem(f"p{number}", "What is red?", "1", (Image.new("RGB", (112, 112), (number, 0, 0)),))
        for number in range(PROMPTS)
    ]


def make_sizes(prompts) -> PassSizes:
    return PassSizes(PROMPTS, GROUP, TOKENS, prompts.ids_PL.shape[1] - SIDE**2, 1, SIDE)


@pytest.mark.parametrize("name", ["full", "frozen", "lora", "checkpointing", "selective", "bfloat16"])
def test_an_updates_memory_is_estimated(vlm, alike, render, ragged, name):
    real = variant(vlm, name)
    plan = without_weights(real)
    prompts, (ids, mask) = render(alike), ragged([TOKENS] * PROMPTS * GROUP)
    group = torch.arange(PROMPTS).repeat_interleave(GROUP)
    for value in real.model.parameters():
        value.grad = (
            torch.zeros_like(value) if value.requires_grad else None
        )  # as in every micro-batch but the first

    def update() -> None:
        slope = torch.ones(mask.shape) / mask.sum()
        there = prompts.select(range(PROMPTS))  # as every micro-batch, a copy
        (completion_logp(real, there, ids, mask, group, slope_NT=slope)[0] * slope).sum().backward()

    update()
    saved, most = micro_batch_bytes(plan, make_sizes(prompts))
    assert max(most, saved + head_bytes(plan, make_sizes(prompts))) == pytest.approx(
        peak_bytes(update), rel=0.08
    )


@pytest.mark.parametrize("rows, tokens", [(10, 70), (25, 70), (15, 140)])
def test_a_rollouts_memory_is_estimated(vlm, alike, render, rows, tokens):
    real = variant(vlm, "full")
    plan = without_weights(real)
    prompts, sampling = render(alike), Sampling(n=GROUP, max_new_tokens=tokens, top_p=0.9)
    generator = PrefixGenerator(max_rows=rows)
    expected = rollout_bytes(plan, replace(make_sizes(prompts), tokens=tokens), sampling, generator)
    measured = peak_bytes(lambda: generator.generate(real, alike, prompts, sampling, 0))
    assert sum(expected.values()) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    "make, dtype",
    [(adamw, torch.float32), (adamw, torch.bfloat16), (partial(muon, muon_learning_rate=0.1), torch.float32)],
)
def test_the_optimisers_memory_is_what_it_keeps(vlm, make, dtype):
    model = VLM(copy.deepcopy(vlm.model).to(dtype), None, "real")
    make = partial(make, learning_rate=0.1)
    kept, _ = optimizer_bytes(without_weights(model), make)
    for value in model.model.parameters():
        value.grad = torch.ones_like(value)
    made = make(list(model.model.named_parameters()))
    for each in made:
        each.step()
    state = [
        part
        for each in made
        for parts in each.state.values()
        for part in parts.values()
        if torch.is_tensor(part) and part.ndim
    ]
    masters = [master for each in made for master in getattr(each, "masters", [])]
    assert kept == sum(part.numel() * part.element_size() for part in (*state, *masters))

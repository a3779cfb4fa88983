"""The model with Qwen2.5-VL's vocabulary, made once: reading and packing 151,643 ranks takes two seconds."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.model.load import VLM
from openvlt.sft.module import sft_loss
from openvlt.types import Problem, Trace
from tests.conftest import SMALL
from tests.helpers.real_vocabulary import CHAINS, make_real_vocabulary_vlm


@pytest.fixture(scope="session")
def real() -> VLM:
    """The random model: read it, don't train it. Its weights are large, or logits would all be alike."""
    return make_real_vocabulary_vlm(replace(SMALL, initializer_range=0.2))


@pytest.fixture(scope="session")
def rendered(real: VLM) -> Renderer:
    """The renderer of its prompts and responses."""
    return Renderer(real.processor, PromptStyle())


@pytest.fixture(scope="session")
def asked(mixed: list[Problem]) -> list[Problem]:
    """Two problems, with and without an image, whose answers `CHAINS` give."""
    return [replace(mixed[0], answer="5"), Problem("area", "求三角形的面积。", "12")]


@pytest.fixture(scope="session")
def taught(real: VLM, rendered: Renderer, asked: list[Problem]) -> VLM:
    """A copy that has learned to answer `asked` with `CHAINS`, by SFT's own loss."""
    model = VLM(copy.deepcopy(real.model).requires_grad_(False), real.processor, "taught")
    layers: Any = model.core.model.language_model.layers
    learned = [value.requires_grad_() for value in layers.parameters()]
    batch = rendered.sft_batch([Trace(*pair) for pair in zip(asked, CHAINS, strict=True)])
    optimizer = torch.optim.Adam(learned, lr=0.006)
    for _ in range(20):
        optimizer.zero_grad()
        sft_loss(model, (batch, int(batch.mask_NT.sum())))[0].backward()
        optimizer.step()
    return model

"""GRPO's whole loop on the tiny model: stages of one bundle share nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from openvlt.data.render import PromptStyle
from openvlt.grpo.advantage import group_centred
from openvlt.grpo.aggregate import token_mean
from openvlt.grpo.bundle import GRPO
from openvlt.grpo.gate import keep_unequal
from openvlt.grpo.refill import Replay
from openvlt.model.load import VLM
from openvlt.reward.combine import Reward
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.trainer.fit import Fit
from openvlt.trainer.optimizer import adamw, constant
from openvlt.types import Rollouts


def parity(rollouts: Rollouts, services: Any) -> torch.Tensor:
    """A reward that any model earns now and then: 1 where the token ids add up to an even number."""
    return torch.tensor([float(sum(completion.token_ids) % 2 == 0) for completion in rollouts.completions])


def settings(**changes: Any) -> GRPO:
    parts = dict(advantage=group_centred, gate=keep_unequal, aggregate=token_mean, reward=Reward({"parity": parity}, {"parity": 1.0}))
    machine = dict(fit=Fit(accelerator="cpu", progress=False), prompt=PromptStyle(), generator=PrefixGenerator())
    moves = dict(optimizer=partial(adamw, learning_rate=1e-3), scheduler=constant)
    sizes = dict(steps=4, group_size=2, prompts_per_rollout=4, prompts_per_update=4, max_new_tokens=3)
    return GRPO(**{**parts, **machine, **moves, **sizes, **changes})


@pytest.fixture
def train(fresh, problems, tmp_path) -> Callable[..., VLM]:
    """`train(settings, folder)` gives a model that was trained from the start."""

    def run(made: GRPO, name: str, **options: Any) -> VLM:
        model, folder = fresh(), tmp_path / name
        folder.mkdir(exist_ok=True)
        made.train(model, problems, reference=None, folder=folder, seed=3, **options)
        return model

    return run


def same(one: VLM, other: VLM) -> None:
    weights = other.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.model.state_dict().items())


def test_stages_of_one_bundle_share_no_memory(train):
    """The second of two stages neither replays the first's groups nor takes its policy's version."""
    both = settings(refill=Replay())
    first, second = train(both, "first"), train(both, "second")
    same(first, second)
    assert not both.refill.memory and both.refill.rounds == 0

"""Experiences over scripted completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.grpo.collect.experience import Chain, Experience
from openvlt.grpo.parts.advantage import centre_by_group
from openvlt.grpo.parts.group_filter import drop_zero_variance_groups
from openvlt.model.load import VLM
from openvlt.reward.reward import Reward
from openvlt.rollout.base import Sampling
from tests.helpers.factories import LENGTHS, REWARDS, Scripted, written


@pytest.fixture
def make(fresh: Callable[..., VLM], ragged) -> Callable[..., Experience]:
    """`make(rewards, updates, reference, **chain)`: an experience over scripted completions."""

    def build(rewards=REWARDS, updates=1, reference=None, model=None, logp=True, **changes) -> Experience:
        ids, mask = ragged(LENGTHS)
        rows = [row[: int(size)].tolist() for row, size in zip(ids, mask.sum(1), strict=True)]
        chain = Chain(
            generator=Scripted(rows, rewards, logp),
            sampling=Sampling(n=2, max_new_tokens=6),
            reward=Reward({"written": written}, {"written": 1.0}),
            advantage=centre_by_group,
            group_filter=drop_zero_variance_groups,
        )
        model = fresh() if model is None else model
        return Experience(
            replace(chain, **changes), model, Renderer(model.processor, PromptStyle()), reference, updates
        )

    return build

"""Experiences over scripted completions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openvlt.grpo.collect.experience import Experience
from openvlt.model.load import VLM
from tests.helpers.factories import LENGTHS, REWARDS, Scripted, algorithm, updates


@pytest.fixture
def make(fresh: Callable[..., VLM], ragged) -> Callable[..., Experience]:
    """`make(rewards, count, reference, **changes)`: an experience of `count` updates over scripted completions."""

    def build(rewards=REWARDS, count=1, reference=None, model=None, logp=True, **changes) -> Experience:
        ids, mask = ragged(LENGTHS)
        rows = [row[: int(size)].tolist() for row, size in zip(ids, mask.sum(1), strict=True)]
        sizes = {"group_size": 2, "max_new_tokens": 6, **updates(count)}
        grpo = algorithm(generator=Scripted(rows, rewards, logp), **{**sizes, **changes})
        return Experience(grpo, fresh() if model is None else model, reference)

    return build

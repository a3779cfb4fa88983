"""Every bundle of conf/grpo and every recipe: the same gradient however a step is split, over micro-batches and over processes; and it learns."""

from __future__ import annotations

import bundled
import pytest
import torch

from openvlt.model.load import VLM


@pytest.fixture(scope="module")
def start() -> VLM:
    return bundled.tiny_model()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return bundled.two_ranks(tmp_path_factory.mktemp("ranks"))


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.abs().max() > 0
    assert (one - other).norm() <= 1e-6 * one.norm()


@pytest.mark.slow
@pytest.mark.parametrize("case", bundled.CASES)
def test_a_step_split_any_way_has_the_same_gradient(case: str, start: VLM, two_ranks: dict):
    settings, vlm, batch = bundled.rolled(case, start)
    assert len(batch.prompts) >= 2, "too little was kept to split"
    whole, logged = bundled.gradient(settings, vlm, batch, 1000)
    for rows in (len(batch) // 2, 1):  # two micro-batches (or three); one per group
        parts, also = bundled.gradient(settings, vlm, batch, rows)
        same(whole, parts)
        assert also == pytest.approx(logged, rel=1e-6, abs=1e-9)
    shared, also = two_ranks[case]
    same(whole, shared)
    assert also == pytest.approx(logged, rel=1e-6, abs=1e-9)

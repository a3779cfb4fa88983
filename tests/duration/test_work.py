"""The counts that hours are made of: against operations counted while the model runs, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from openvlt.duration.gpus import BEST, GPU, MIDDLE, WORST
from openvlt.duration.work import (
    Messages,
    Phase,
    Shapes,
    Texts,
    answer_flop,
    count_messages,
    forward_flop,
    prompt_flop,
    tower_flop,
    update_flop,
)
from openvlt.model.load import VLM, freeze
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.model.strategy import Strategy

SMALL = Shapes(
    layers=2, layer_weights=100, head=50, tower=10, merge=4, width=8, kv_bytes=16, weight_bytes=2, cut=400,
    learned=120, moving=150, tower_learns=False, recomputes=False,
)  # fmt: skip
CHIP = GPU(memory=1, rate=100.0, bandwidth=10.0, link=2.0, network=1.0)


@pytest.mark.parametrize("frozen", [(), ("vision", "projector")], ids=["whole", "frozen tower"])
def test_operations_are_those_of_the_running_model(
    fresh: Callable[..., VLM], mixed, render, ragged, frozen: tuple[str, ...]
) -> None:
    vlm = fresh()
    freeze(vlm.model, frozen)
    problem = next(problem for problem in mixed if len(problem.images) == 1)
    prompts = render([problem])
    ids_NT, mask_NT = ragged([40] * 4)
    image = int((prompts.ids_PL == vlm.core.config.image_token_id).sum())
    texts = Texts(1, 4, prompts.ids_PL.shape[1], image, 40, 40)
    shapes = replace(Shapes.of(vlm, recomputes=False), width=0)  # torch counts no attention on a CPU

    def count(learns: bool) -> int:
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(learns):
            logp_NT, _ = completion_logp(vlm, prompts, ids_NT, mask_NT, torch.zeros(4, dtype=torch.long))
            if learns:
                logp_NT.sum().backward()
        return counter.get_total_flops()

    forward = tower_flop(shapes, texts) + prompt_flop(shapes, texts) + answer_flop(shapes, texts)
    assert forward == pytest.approx(count(False), rel=0.05)
    stored = 0 if shapes.tower_learns else tower_flop(shapes, texts)
    assert update_flop(shapes, texts) + stored == pytest.approx(count(True), rel=0.06)


def test_operations_by_hand() -> None:
    texts = Texts(problems=3, group=2, prompt=10, image=5, tokens=4, most=8)
    assert tower_flop(SMALL, texts) == 2 * 3 * 5 * 4 * 10
    prompts = 3 * (2 * 10 * 100 + 4 * 2 * 8 * 10**2 / 2)
    answers = 24 * (2 * 150 + 4 * 2 * 8 * (10 + 2))
    assert prompt_flop(SMALL, texts) == prompts and answer_flop(SMALL, texts) == answers
    assert forward_flop(SMALL, texts) == prompts + answers
    assert update_flop(SMALL, texts) == 3 * (prompts + answers)
    assert update_flop(replace(SMALL, recomputes=True, moving=0), texts) == 3 * (prompts + answers)
    learning = replace(SMALL, tower_learns=True)
    assert update_flop(learning, texts) - update_flop(SMALL, texts) == 4 * tower_flop(SMALL, texts)


@pytest.mark.parametrize(
    ("strategy", "devices", "expected"),
    [
        (Strategy("none"), 1, Messages()),
        (Strategy("none"), 4, Messages(0, 0, 2 * 480 * 3 / 4)),
        (Strategy("weights"), 4, Messages(300, 2 * 300 + 360, 0)),
        (Strategy("gradients"), 4, Messages(300, 0, 300 + 360)),
        (Strategy("weights", replicas=2), 4, Messages(200, 2 * 200 + 240, 2 * 480 / 2 / 2)),
    ],
    ids=["one", "replicate", "shard", "gradients", "hybrid"],
)
def test_messages_by_hand(strategy: Strategy, devices: int, expected: Messages) -> None:
    assert count_messages(SMALL, strategy, devices) == expected


def test_seconds_are_those_of_the_slowest_resource() -> None:
    share = replace(MIDDLE, rate=1.0, bandwidth=1.0, link=1.0, overlap=0.0, launch=0.5, longest=3.0)
    assert Phase("x", flop=200, times=2).seconds(CHIP, share, 1) == 4
    assert Phase("x", flop=200, moved=50).seconds(CHIP, share, 1) == 5
    assert Phase("x", flop=200, sent=6).seconds(CHIP, share, 8) == 2 + 3
    assert Phase("x", flop=200, sent=6).seconds(CHIP, share, 9) == 2 + 6  # over the network
    assert Phase("x", flop=200, sent=6).seconds(CHIP, replace(share, overlap=1.0), 8) == 3
    decoding = Phase("x", moved=10, steps=4, most_steps=100, step_bytes=5, launches=2)
    assert decoding.seconds(CHIP, share, 1) == (10 + 12 * 5) / 10 + 12 * 2 * 0.5
    assert replace(decoding, most_steps=6).limits(CHIP, share, 1)["Python"] == 6


def test_better_is_never_slower() -> None:
    phase = Phase("x", 1e15, 1e12, 1e11, 500, 2000, 1e10, 28)
    best, middle, worst = (phase.seconds(CHIP, share, 8) for share in (BEST, MIDDLE, WORST))
    assert best < middle < worst

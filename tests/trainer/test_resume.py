"""A run that was killed and started again ends with the same bits and the same metrics as one that wasn't."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.parts.advantage import normalise_by_group
from openvlt.grpo.parts.group_filter import drop_zero_variance_groups
from openvlt.grpo.parts.loss_aggregation import sequence_mean
from openvlt.grpo.train import train_grpo
from openvlt.model.load import VLM
from openvlt.reward.reward import Reward
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.sft.module import SFT
from openvlt.trainer.checkpoint import REST
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.metrics import read_metrics
from openvlt.trainer.optimizer import adamw, muon
from openvlt.types import Trace

CLOCKS = {"elapsed_s", "generate_s", "reward_s", "tokens_per_s", "memory_gib"}
MUON = partial(muon, learning_rate=2e-3, muon_learning_rate=0.02)
ADAM = partial(adamw, learning_rate=1e-3, weight_decay=0.01)


class Killed(Exception):
    pass


@dataclass(frozen=True)
class Mortal(TrainingLoop):
    """Fit whose batches stop coming at step `dies`."""

    accelerator: str = "cpu"
    progress: bool = False
    checkpoint_every: int = 2
    dies: int = 10**9
    how: type[BaseException] = Killed

    def run(self, module: Any, make: Callable[[int], Any], folder: Path, **options: Any) -> None:
        def mortal(step: int) -> Any:
            if step == self.dies:
                raise self.how(step)
            return make(step)

        super().run(module, mortal, folder, **options)


def cosine(optimizer, num_warmup_steps: int, num_training_steps: int):
    from transformers import get_cosine_schedule_with_warmup

    return get_cosine_schedule_with_warmup(optimizer, num_warmup_steps, num_training_steps)


def parity(rollouts, services) -> torch.Tensor:
    """A reward that any model earns now and then: 1 where the token ids add up to an even number."""
    return torch.tensor([float(sum(completion.token_ids) % 2 == 0) for completion in rollouts.completions])


@pytest.fixture
def sft(fresh, problems, tmp_path) -> Callable[..., tuple[VLM, Path]]:
    """`sft(folder, dies)` trains a fresh model for six steps on figures and gives it back."""
    traces = [Trace(p, f"<think>{p.question}</think><answer>{p.answer}</answer>") for p in problems]

    def train(name: str, **fit: Any) -> tuple[VLM, Path]:
        settings = SFT(
            Mortal(**fit),
            PromptStyle(),
            MUON,
            cosine,
            epochs=2,
            batch_size=4,
            micro_batch=2,
            warmup_ratio=0.2,
        )
        model, folder = fresh(), tmp_path / name
        folder.mkdir(exist_ok=True)
        settings.train(model, traces, folder=folder, seed=3)
        return model, folder

    return train


def grpo_settings(updates: int, kl: float = 0.0, **fit: Any) -> GRPO:
    return GRPO(
        fit=Mortal(**fit),
        prompt=PromptStyle(),
        generator=PrefixGenerator(),
        reward=Reward({"parity": parity}, {"parity": 1.0}),
        optimizer=ADAM,
        scheduler=cosine,
        advantage=normalise_by_group,
        group_filter=drop_zero_variance_groups,
        loss_aggregation=sequence_mean,
        kl=kl,
        steps=6,
        group_size=4,
        prompts_per_rollout=2 * updates,
        prompts_per_update=2,
        micro_batch=4,
        max_new_tokens=5,
    )


@pytest.fixture
def grpo(fresh, vlm, problems, tmp_path) -> Callable[..., tuple[VLM, Path]]:
    def train(name: str, updates: int, kl: float = 0.0, **fit: Any) -> tuple[VLM, Path]:
        model, folder = fresh(), tmp_path / name
        folder.mkdir(exist_ok=True)
        settings = grpo_settings(updates, kl, **fit)
        train_grpo(settings, model, problems, reference=vlm if kl else None, folder=folder, seed=3)
        return model, folder

    return train


def same(one: tuple[VLM, Path], other: tuple[VLM, Path]) -> list[dict[str, float]]:
    """Bit-identical weights, equal metrics (clocks aside); gives the rows."""
    weights = other[0].model.state_dict()
    for name, value in one[0].model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    rows, others = (
        [{k: v for k, v in row.items() if k not in CLOCKS} for row in read_metrics(folder / "metrics.csv")]
        for folder in (one[1], other[1])
    )
    assert [row.keys() for row in rows] == [row.keys() for row in others]
    assert [list(map(repr, row.values())) for row in rows] == [
        list(map(repr, row.values())) for row in others
    ]
    return rows


def moved(model: VLM, vlm: VLM) -> float:
    start = vlm.model.state_dict()
    return max((value - start[name]).abs().max().item() for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("dies", [1, 3, 5])
def test_sft_killed_and_resumed_ends_the_same(sft, vlm, dies):
    whole = sft("whole")
    with pytest.raises(Killed):
        sft("cut", dies=dies)
    cut = whole[1].parent / "cut"
    assert (cut / "last.ckpt").is_dir() == (dies >= 2) and not list(cut.glob(".*"))
    assert [row["step"] for row in read_metrics(cut / "metrics.csv")] == list(range(1, dies + 1))
    rows = same(whole, sft("cut"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < rows[0]["loss"] and moved(whole[0], vlm) > 1e-2


def test_sft_survives_two_kills_and_a_finished_run_does_nothing(sft):
    whole = sft("whole")
    for dies in (3, 4):
        with pytest.raises(Killed):
            sft("cut", dies=dies)
    same(whole, sft("cut"))
    same(whole, sft("cut", dies=0))  # complete: not one batch is asked for


def test_workers_that_prepare_batches_change_nothing(sft):
    whole = sft("whole")
    same(whole, sft("prepared", workers=1))


def test_ctrl_c_comes_through_and_leaves_a_resumable_run(sft):
    whole, handler = sft("whole"), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        sft("cut", dies=3, how=KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    same(whole, sft("cut"))


@pytest.mark.parametrize(
    ("updates", "kl", "dies"), [(1, 0.0, 3), (1, 0.05, 5), (2, 0.0, 3), (2, 0.05, 5), (2, 0.0, 1)]
)
def test_grpo_killed_and_resumed_ends_the_same(grpo, vlm, updates, kl, dies):
    whole = grpo("whole", updates, kl)
    with pytest.raises(Killed):
        grpo("cut", updates, kl, dies=dies)
    rows = same(whole, grpo("cut", updates, kl))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and moved(whole[0], vlm) > 1e-3
    assert len({row["reward"] for row in rows}) > 1 and any(row["grad_norm"] > 0 for row in rows)
    assert ("kl" in rows[0]) == (kl > 0)
    transcripts = [
        parquet.read_table(folder / "rollouts.parquet").to_pylist()
        for folder in (whole[1], whole[1].parent / "cut")
    ]
    assert transcripts[0] == transcripts[1]
    assert [row["step"] for row in transcripts[0]] == [
        step for step in range(0, 6, updates) for _ in range(8)
    ]


def test_on_policy_steps_have_no_mismatch_and_no_clipping(grpo):
    """The first update after a rollout: the weights that sampled are the weights that are trained."""
    for updates in (1, 2):
        rows = read_metrics(grpo(f"u{updates}", updates)[1] / "metrics.csv")
        learned = [row for row in rows if row["grad_norm"] > 0]
        assert learned and all(
            row["mismatch_kl"] < 1e-8 for row in learned
        )  # behaviour against the rollout's policy
        for row in learned:
            assert (row["step"] - 1) % updates or row["clipped_low"] == row["clipped_high"] == 0.0


def test_a_checkpoint_falls_on_the_end_of_a_rollout_only(grpo, tmp_path):
    with pytest.raises(Killed):
        grpo("cut", 2, checkpoint_every=3, dies=3)  # 3 is no multiple of 2: every 2 steps instead
    assert torch.load(tmp_path / "cut" / "last.ckpt" / REST)["version"] == 2


def test_transcripts_of_a_repeated_rollout_are_written_once(grpo, tmp_path):
    with pytest.raises(Killed):
        grpo("cut", 1, dies=5)
    lines = tmp_path / "cut" / "rollouts.jsonl"
    assert {json.loads(line)["step"] for line in lines.read_text().splitlines()} == {0, 1, 2, 3, 4}
    with lines.open("a") as file:
        file.write('{"step": 5, "probl')  # the kill came in the middle of a line
    grpo("cut", 1)
    rows = parquet.read_table(tmp_path / "cut" / "rollouts.parquet").to_pylist()
    assert [row["step"] for row in rows] == [step for step in range(6) for _ in range(8)]
    assert not lines.exists()
    first = rows[0]
    assert first["gold"] and first["question"] and first["reward"] in (0.0, 1.0) and first["tokens"] <= 5


def test_more_prompts_than_problems_is_one_clear_sentence(fresh, problems, tmp_path):
    settings = replace(grpo_settings(1), prompts_per_rollout=16, prompts_per_update=16)
    with pytest.raises(UserError, match=r"prompts_per_rollout=16 is larger than the data \(12 problems\)"):
        train_grpo(settings, fresh(), problems, reference=None, folder=tmp_path, seed=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"denominator": "al"}, "grpo.denominator='al'; it is all"),
        ({"kl": -0.1}, "grpo.kl=-0.1 is negative"),
        ({"prompts_per_rollout": 5, "prompts_per_update": 2}, "no multiple of"),
    ],
)
def test_settings_that_cannot_be_are_one_clear_sentence(change, words):
    with pytest.raises(UserError, match=words):
        replace(grpo_settings(1), **change)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16-true", torch.bfloat16), ("64-true", torch.float64), ("32-true", torch.float32)],
)
def test_training_has_the_precision_that_is_set(sft, precision, dtype):
    """Of the weights, and of nothing else: the numbers that are logged stay exact."""
    model, folder = sft("whole", precision=precision)
    assert {value.dtype for value in model.model.parameters()} == {dtype}
    assert torch.get_default_dtype() == torch.float32
    rows = read_metrics(folder / "metrics.csv")
    assert rows[-1]["loss"] < rows[0]["loss"]
    with pytest.raises(Killed):
        sft("cut", dies=3, precision=precision)
    same((model, folder), sft("cut", precision=precision))


def test_an_unknown_precision_is_one_sentence():
    with pytest.raises(
        UserError, match=r"trainer.precision=bf32; choose from 32-true, 64-true, bf16-true, 16-true"
    ):
        TrainingLoop(precision="bf32").check()

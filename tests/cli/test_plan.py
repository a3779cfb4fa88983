"""train.py plan=true: what a run needs of memory, from the configuration alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from openvlt.config.build import build
from openvlt.memory import estimate
from openvlt.memory.shares import Shares
from openvlt.memory.tracker import PassSizes
from tests.helpers.configs import compose
from tests.helpers.entry_scripts import FIGURES, Cli


def numbers(out: str) -> dict[str, list[str]]:
    """The table's rows: by their first word, the numbers."""
    return {line.split()[0]: line[22:].split() for line in out.splitlines() if line[22:].split()}


def test_the_papers_model_is_planned_without_weights_or_network(cli: Cli) -> None:
    out = cli("train.py", "scale=7b", "plan=true", "adapter=lora", "grpo.kl=0.01", tiny=False).ok().out
    assert (
        "8,332.5 M parameters, 40.4 M trained, 1 device" in out
    )  # Qwen2.5-VL-7B's 8,292.2 M and rank 16 on its projections
    rows = numbers(out)
    assert (
        rows["weights"] == ["15.5"] * 5 and rows["reference"] == ["-"] * 5
    )  # bfloat16; the reference is the adapter switched off
    # 51 prompts of 474 tokens, 255 rows of 2048, and a layer's growth from 1024: 57,344 bytes a token in 28 layers
    assert float(rows["keys"][2]) == pytest.approx(
        (51 * 474 + 255 * (2048 + 1024 / 28)) * 57344 / 2**30, abs=0.05
    )
    assert "24 GB no, 40 GB no, 80 GB yes, 141 GB yes" in out


def test_a_plan_loads_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    places = [f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}"]
    out = (
        cli(
            "train.py",
            "plan=true",
            *FIGURES,
            *places,
            "grpo=paper",
            "rollout=hf",
            "name=planned",
            "expected.images=0",
        )
        .ok()
        .out
    )
    rows = numbers(out)
    assert rows["reference"][:2] == ["-", "-"]
    assert rows["reference"][2:] == rows["weights"][2:]
    assert "HFGenerator needs for its rollouts isn't known here" in out and "0 image(s)" in out
    assert (
        not list(tmp_path.rglob("*.*"))
        and not list(tmp_path.glob("runs/planned/*"))
        and not (tmp_path / "cache").exists()
    )


def test_devices_that_are_not_there_can_be_planned(cli: Cli) -> None:
    """No process is started for them, which a machine with fewer GPUs would refuse."""
    started = cli("train.py", "plan=true", "trainer.devices=8", "trainer.accelerator=gpu", tiny=False).ok()
    assert "8 devices with the same weights" in started.out and not started.err


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(8, {"replicate": 146.9, "gradients": 61.8, "shard": 61.8}), (2, {"replicate": 146.9, "shard": 104.4})],
)
def test_a_plan_compares_the_strategies(devices: int, expected: dict[str, float]) -> None:
    """Of the paper's model; by hand for eight: 3.0 of shards, 14.2 gathered, 3.0 reference, 10.6 of AdamW, 29.7 keys and values, 1.2 logits."""
    text = estimate.describe_memory(compose("scale=7b", f"trainer.devices={devices}", "strategy=shard"))
    found = dict(re.findall(r"(\w+) ([\d.]+) GiB", text.splitlines()[-1]))
    assert "devices that share the weights" in text
    for name, most in expected.items():
        assert float(found[name]) == pytest.approx(most, abs=0.1), name


@pytest.mark.parametrize(
    ("memory", "shard", "why"),
    [
        (None, "none", "whole weights on every process, as there is no GPU"),
        (80 * 2**30, "weights", "whole ones need 146.9 of 80.0 GiB, shards 61.8"),
        (192 * 2**30, "none", "since they need 146.9 of 192.0 GiB"),
    ],
)
def test_auto_is_what_fits(memory: int | None, shard: str, why: str) -> None:
    chosen, sentence = estimate.choose_strategy(compose("scale=7b"), memory, 8)
    assert chosen == shard and why in sentence and "\n" not in sentence


def test_a_plan_counts_what_is_asked_of_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """NoisyRollout's 6 completions from noisy images are learned from together with the 6 others, and decoded apart from them."""
    passes: list[PassSizes] = []
    monkeypatch.setattr(
        estimate, "_training_phases", lambda vlm, make, sizes, *rest: passes.append(sizes) or ({}, {}, {})
    )
    monkeypatch.setattr(
        estimate,
        "rollout_bytes",
        lambda vlm, sizes, sampling, generator: passes.append(sizes) or {"cache": sampling.n},
    )
    for more in ((), ("~grpo.rollout_plan",)):
        estimate._grpo_phases(
            None,
            None,
            build(compose("+recipe=noisy_rollout", *more).grpo, "grpo"),
            estimate.ExpectedSizes(),
            4,
            1,
            Shares(),
        )
    assert [(sizes.prompts, sizes.group) for sizes in passes] == [(10, 12), (32, 6), (21, 6), (32, 6)]


@pytest.mark.parametrize(
    "words, said",
    [
        (["scale=7b", "model.max_pixels=null"], "set model.max_pixels=<pixels>"),
        (["expected.text=0"], "give one token or more"),
        (["expected.pictures=2"], "there is no setting 'expected.pictures'"),
        (["trainer.devices=0"], "give a number of GPUs"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_mistakes_are_one_sentence(cli: Cli, words: list[str], said: str) -> None:
    assert said in cli("train.py", "plan=true", *words, tiny=False).error

"""train.py plan=true: what a run needs of memory, from the configuration alone."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openvlt.config.build import build
from openvlt.config.resolvers import CONF
from openvlt.memory.advice import STRATEGIES, choose_strategy, fits, fitting_settings, plan_variants
from openvlt.memory.describe import describe_memory
from openvlt.memory.estimate import MemoryPlan
from openvlt.memory.tracker import PassSizes
from openvlt.model.strategy import Strategy
from tests.helpers.configs import NEEDED, compose
from tests.helpers.entry_scripts import FIGURES, Cli


@functools.cache
def papers_variants() -> list[Any]:
    """The paper's run, whole and under LoRA."""
    return plan_variants(MemoryPlan.of(compose("scale=7b")))


def memory_text(*words: str) -> str:
    """The memory estimate of a configuration."""
    config = compose(*words)
    return describe_memory(config, MemoryPlan.of(config))


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
    assert "1 x  80 GB  as it is" in out and "2 x  80 GB  strategy=replicate\n" in out


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
def test_what_the_papers_model_needs_by_strategy(devices: int, expected: dict[str, float]) -> None:
    """By hand for eight: 3.0 of shards, 14.2 gathered, 3.0 reference, 10.6 of AdamW, 29.7 keys and values, 1.2 logits."""
    plan = papers_variants()[0][1]
    for name, most in expected.items():
        assert plan.peak_bytes(STRATEGIES[name], devices) / 2**30 == pytest.approx(most, abs=0.1), name


def test_a_plan_compares_the_strategies() -> None:
    text = memory_text("scale=tiny", "trainer.devices=2", "strategy=shard")
    assert "2 devices that share the weights" in text
    needs = re.findall(r"(\w+) [\d.]+ GiB", text.splitlines()[-1])
    assert needs == ["replicate", "gradients", "shard"]


@pytest.mark.parametrize(
    ("memory", "shard", "why"),
    [
        (None, "none", "whole weights on every process, as there is no GPU"),
        (80 * 2**30, "weights", "whole ones need 146.9 of 80.0 GiB, shards 61.8"),
        (192 * 2**30, "none", "since they need 146.9 of 192.0 GiB"),
    ],
)
def test_auto_is_what_fits(memory: int | None, shard: str, why: str) -> None:
    chosen, sentence = choose_strategy(compose("scale=7b"), memory, 8)
    assert chosen == shard and why in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    ("count", "size", "settings"),
    [
        (1, 24, ["adapter=lora", "rollout.max_rows=32", "grpo.micro_batch=5"]),
        (8, 40, ["strategy=shard", "rollout.max_rows=32", "grpo.micro_batch=5"]),
        (8, 80, ["strategy=shard"]),
        (2, 80, ["strategy=replicate", "adapter=lora"]),
    ],
)
def test_advice_is_what_fits_when_it_is_followed(count: int, size: int, settings: list[str]) -> None:
    assert fitting_settings(papers_variants(), size, count) == settings
    config = compose("scale=7b", f"trainer.devices={count}", *settings)
    strategy = STRATEGIES["shard" if "strategy=shard" in settings else "replicate"]
    assert fits(MemoryPlan.of(config).peak_bytes(strategy, count), size)


def test_what_fits_as_it_is_gets_no_advice_and_what_never_fits_gets_none() -> None:
    assert fitting_settings(papers_variants(), 192, 1) == []
    assert fitting_settings(papers_variants(), 8, 2) is None


@pytest.mark.parametrize("name", ["8x80", "lora_80gb", "lora_24gb", "3b", "v1_2"])
def test_the_papers_experiments_fit_the_hardware_that_they_name(name: str) -> None:
    """At their true sizes, built without memory; the header's figure is the plan's."""
    head = (CONF / "experiment" / f"openvlthinker_{name}.yaml").read_text()
    count, size, peak = re.search(r"Hardware: +(\d+) x (\d+) GB: at most ([\d.]+) GiB", head).groups()
    config = compose(f"+experiment=openvlthinker_{name}", *NEEDED.get(f"experiment=openvlthinker_{name}", ()))
    assert str(config.trainer.devices) == count
    plan, strategy = MemoryPlan.of(config), build(config.strategy, "strategy")
    needed = plan.peak_bytes(Strategy("none") if strategy.shard == "auto" else strategy, int(count))
    assert f"{needed / 2**30:.1f}" == peak and fits(needed, int(size))
    stages = build(config.iteration, "iteration").stages
    learning = [stage for stage in stages if stages[stage].kind == "grpo"]
    assert learning == (["medium", "hard"] if name == "v1_2" else ["grpo1", "grpo2", "grpo3"])


def test_a_plan_says_what_share_of_a_gpu_a_server_beside_may_have() -> None:
    words = ["scale=7b", "trainer.devices=8", "strategy=shard", "rollout=vllm", "rollout.start=true"]
    shares = re.search(r"rollout.server.memory=0.9 of its GPU; .* at most (.*)", memory_text(*words))[1]
    assert shares == "0.47 on 80 GB, 0.68 on 141 GB"
    words.append("rollout.gpus=[0]")
    assert "what VLLMGenerator needs for its rollouts isn't known" in memory_text(*words)


def test_a_plan_counts_what_is_asked_of_a_problem() -> None:
    """NoisyRollout's 6 completions from noisy images are learned from together with the 6 others, and decoded apart from them."""
    passes: list[PassSizes] = []

    def pass_bytes(vlm: Any, sizes: PassSizes, *rest: Any) -> tuple[int, int]:
        passes.append(sizes)
        return 0, 0

    def rollout_bytes(vlm: Any, sizes: PassSizes, *rest: Any) -> dict[str, int]:
        passes.append(sizes)
        return {"cache": 0}

    for more in ((), ("~grpo.rollout_plan",)):
        plan = MemoryPlan.of(compose("+recipe=noisy_rollout", "scale=tiny", *more))
        plan = replace(plan, _pass_bytes=pass_bytes, _rollout_bytes=rollout_bytes)
        plan.phases(Strategy("none"), 1)
    assert [(sizes.prompts, sizes.group) for sizes in passes[1:3] + passes[4:]] == [
        (10, 12),
        (32, 6),
        (21, 6),
        (32, 6),
    ]


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

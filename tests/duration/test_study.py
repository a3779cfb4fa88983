"""The time part of plan=true: what a study's stages do on each device, and what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from openvlt.config.build import build
from openvlt.config.resolvers import CONF
from openvlt.duration.describe import describe_time
from openvlt.duration.gpus import GPUS
from openvlt.duration.study import StageWork, StudyWork
from openvlt.errors import UserError
from openvlt.memory.estimate import MemoryPlan
from openvlt.model.strategy import Strategy
from tests.helpers.configs import NEEDED, compose


def stage_works(*words: str, strategy: str = "none", devices: int = 1) -> dict[str, StageWork]:
    config = compose(*words)
    plan, evaluation = MemoryPlan.of(config), build(config.evaluation, "evaluation")
    work = StudyWork(plan, evaluation, Strategy(strategy), devices)
    return {stage.name: stage for stage in work.stages(dict(build(config.iteration, "iteration").stages))}


def phases(work: StageWork) -> dict[str, Any]:
    return {phase.name: phase for phase in work.phases}


def test_a_stage_does_what_its_settings_say() -> None:
    words = ["iteration=cycle1", "grpo=paper", "evaluation.selection.amount=100", "rollout.max_rows=64"]
    sizes = [
        "grpo.steps=12",
        "grpo.prompts_per_rollout=32",
        "grpo.prompts_per_update=16",
        "grpo.group_size=8",
    ]
    sizes += ["grpo.max_new_tokens=40", "cycles.one.traces.amount=300", "sft.batch_size=32", "sft.epochs=2"]
    works = stage_works(*words, *sizes, "cycles.one.grpo={}", "cycles.one.sft={}")
    grpo = phases(works["grpo1"])
    assert grpo["update"].times == grpo["optimiser"].times == 12
    assert grpo["scoring"].times == 6 * 2  # old and reference of six rollouts
    rollout = grpo["rollout: decoding"]
    assert (rollout.times, rollout.steps, rollout.most_steps) == (
        6,
        4 * 10,
        4 * 40,
    )  # four batches of eight problems
    assert phases(works["sft1"])["SFT"].times == 2 * 5  # half of the 300 problems leave a trace
    assert (
        grpo["evaluation: decoding"].steps == 2 * phases(works["base"])["evaluation: decoding"].most_steps / 8
    )
    two = phases(stage_works(*words, *sizes, "cycles.one.grpo={}", devices=2)["grpo1"])
    assert two["update"].flop == grpo["update"].flop / 2 and two["rollout: decoding"].steps == 2 * 10
    assert two["update"].sent > 0 == grpo["update"].sent


def test_more_devices_than_problems_don_t_help() -> None:
    words = ["grpo.prompts_per_rollout=32", "grpo.prompts_per_update=32"]
    few, many = (phases(stage_works(*words, devices=count)["grpo1"])["update"].flop for count in (32, 64))
    assert few == many


def test_what_is_not_counted_is_said() -> None:
    works = stage_works("scale=tiny", "evaluation.selection.amount=null")
    assert works["base"].phases == [] and "evaluation" in works["base"].left_out[0]
    assert "another model writes them" in works["traces1"].left_out[0]
    assert phases(works["traces2"])


@pytest.mark.parametrize(
    "name",
    ["8x80", *(pytest.param(name, marks=pytest.mark.slow) for name in ("3b", "lora_80gb", "lora_24gb"))],
)
def test_a_plan_says_hours_of_a_papers_experiment(name: str) -> None:
    """The header of the experiment has the hours that the plan says."""
    config = compose(
        f"+experiment=openvlthinker_{name}", *NEEDED[f"experiment=openvlthinker_{name}"], "expected.price=2"
    )
    text = describe_time(config, MemoryPlan.of(config))
    best, middle, worst = re.search(r"^together +(\S+) +(\S+) +(\S+) ", text, re.M).groups()
    head = (CONF / "experiment" / f"openvlthinker_{name}.yaml").read_text()
    assert f"about {middle} h ({best} to {worst}) of {config.trainer.devices} x H100" in head
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert set(GPUS) <= set(rows)
    assert float(rows["H100"][1]) > float(rows["H200"][1]) > float(rows["B200"][1])
    assert float(rows["cost"][1]) == pytest.approx(float(rows["H100"][1]) * 8 * 2, rel=0.1)
    assert "not counted: chains: another model writes them (traces1)" in text


def test_no_time_where_a_part_is_missing_or_unknown() -> None:
    config = compose("scale=7b", "expected.gpu=H1000")
    plan = MemoryPlan.of(config)
    with pytest.raises(UserError, match="expected.gpu=H1000 isn't known; choose from L4, A100"):
        describe_time(config, plan)
    config = compose("scale=7b")
    assert describe_time(config, MemoryPlan.of(config)).startswith(
        "no time is planned: no value for reasoner"
    )
    with pytest.raises(UserError, match="expected.length=2 is a share"):
        MemoryPlan.of(compose("expected.length=2"))

"""GRPO's whole loop on the tiny model: stages of one algorithm share nothing, and a worker that looks ahead changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from openvlt.data import image_views, prompts, self_made_tasks
from openvlt.data.image_views import Blackened, Noisy
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.experience import Experience
from openvlt.grpo.collect.plan import MultiViewPlan, ViewPass, ViewSpec
from openvlt.grpo.collect.resampling import ReplayBuffer, Resample
from openvlt.grpo.collect.sampler import NearHalf
from openvlt.grpo.parts.advantage_shaping import add_uncertainty_bonus, weigh_by_perception
from openvlt.grpo.parts.loss_aggregation import token_mean
from openvlt.grpo.parts.schedules import Ramp
from openvlt.grpo.train import train_grpo
from openvlt.model.load import VLM
from openvlt.reward.reward import Reward
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.metrics import read_metrics
from openvlt.types import Rollouts
from tests.helpers.factories import algorithm


def parity(rollouts: Rollouts, services: Any) -> torch.Tensor:
    """A reward that any model earns now and then: 1 where the token ids add up to an even number."""
    return torch.tensor([float(sum(completion.token_ids) % 2 == 0) for completion in rollouts.completions])


def settings(**changes: Any) -> GRPO:
    parts = dict(loss_aggregation=token_mean, reward=Reward({"parity": parity}, {"parity": 1.0}))
    sizes = dict(steps=4, group_size=2, prompts_per_rollout=4, prompts_per_update=4, max_new_tokens=3)
    return algorithm(**{**parts, **sizes, **changes})


@pytest.fixture
def train(fresh, problems, tmp_path) -> Callable[..., VLM]:
    """`train(settings, folder)` gives a model that was trained from the start."""

    def run(made: GRPO, name: str, **options: Any) -> VLM:
        model, folder = fresh(), tmp_path / name
        folder.mkdir(exist_ok=True)
        train_grpo(made, model, problems, reference=None, folder=folder, seed=3, **options)
        return model

    return run


def same(one: VLM, other: VLM) -> None:
    weights = other.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.model.state_dict().items())


def test_stages_of_one_bundle_share_no_memory(train):
    """The second of two stages neither replays the first's groups nor takes its policy's version."""
    both = settings(resampling=ReplayBuffer())
    first, second = train(both, "first"), train(both, "second")
    same(first, second)
    assert not both.resampling.memory and both.resampling.rounds == 0


def test_a_reward_without_a_gradient_is_told_once(train, capsys):
    zero = Reward({"zero": lambda rollouts, services: torch.zeros(len(rollouts.completions))}, {"zero": 1.0})
    train(settings(reward=zero), "zero", title="grpo1")
    told = [line for line in capsys.readouterr().out.splitlines() if "have the same reward" in line]
    assert len(told) == 1 and told[0].startswith("warning: grpo1, step 1: all completions of a problem")


class Killed(Exception):
    pass


@dataclass(frozen=True)
class Mortal(TrainingLoop):
    """Fit whose batches stop coming at step `dies`."""

    dies: int = 10**9

    def run(self, module: Any, make: Callable[[int], Any], folder: Path, **options: Any) -> None:
        def mortal(step: int) -> Any:
            if step == self.dies:
                raise Killed
            return make(step)

        super().run(module, mortal, folder, **options)


def fit(workers: int, **more: Any) -> dict[str, TrainingLoop]:
    return {"fit": Mortal(accelerator="cpu", progress=False, workers=workers, checkpoint_every=2, **more)}


NOISE = Noisy(steps=500)
CASES = {  # what a draw may depend on, and what has images made
    "plain": {},
    "outcome": {"sampler": NearHalf, "prompts_per_rollout": 8, "steps": 6},
    "resampling": {
        "resampling": Resample(tries=2),
        "view_passes": {"dark": ViewPass(Blackened())},
        "advantage_shaping": {"p": partial(weigh_by_perception, view="dark")},
    },
    "views": {
        "task_builder": self_made_tasks.rotation_task,
        "rollout_plan": MultiViewPlan({"noisy": ViewSpec(2, NOISE, Ramp(0.2, 0.8))}),
        "view_passes": {
            "noisy": ViewPass(NOISE, Ramp(0.2, 0.8), outputs=("sym_kl",)),
            "dark": ViewPass(Blackened(), Ramp(0.0, 0.9)),
        },
        "advantage_shaping": {
            "bonus": partial(add_uncertainty_bonus, weight=0.5, limit=1.0, noisy="noisy"),
            "needy": partial(weigh_by_perception, view="dark"),
        },
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_worker_that_looks_ahead_changes_nothing(train, tmp_path, monkeypatch, case):
    """Also over a restart. From the second rollout on the process that trains opens no image."""
    rollouts, opened = [], set[int]()

    def counting(self: Experience, *args: Any, real: Callable = Experience.collect, **more: Any) -> Any:
        rollouts.append(1)
        return real(self, *args, **more)

    monkeypatch.setattr(Experience, "collect", counting)
    for module in (prompts, image_views, self_made_tasks):
        opener = lambda problem, real=module.open_images: opened.add(len(rollouts)) or real(problem)  # noqa: E731
        monkeypatch.setattr(module, "open_images", opener)
    alone = train(settings(**CASES[case], **fit(0)), "alone")
    assert max(opened) == len(rollouts) > 2
    rollouts.clear(), opened.clear()
    with pytest.raises(Killed):
        train(settings(**CASES[case], **fit(1, dies=3)), "cut")
    assert len(rollouts) >= 2 and opened <= {0, 1}
    same(alone, train(settings(**CASES[case], **fit(1)), "cut"))
    rows, others = (
        [unclocked(row) for row in read_metrics(tmp_path / name / "metrics.csv")] for name in ("alone", "cut")
    )
    assert repr(rows) == repr(others) and len({row["reward"] for row in rows}) > 1


def unclocked(row: dict[str, float]) -> dict[str, float]:
    """Without clocks."""
    return {
        name: value
        for name, value in row.items()
        if name not in ("elapsed_s", "generate_s", "reward_s", "tokens_per_s", "memory_gib")
    }

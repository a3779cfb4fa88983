"""rollout.ahead: the next rollout batch is generated, with known weights, while this one is learned from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from openvlt.data.image_views import Blackened, Noisy
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.plan import MultiViewPlan, ViewPass, ViewSpec, inject_gold_answer
from openvlt.grpo.collect.resampling import ReplayBuffer
from openvlt.grpo.collect.sampler import NearHalf, SamplerAhead, Shuffled
from openvlt.grpo.parts.advantage_shaping import weigh_by_perception
from openvlt.grpo.parts.rollout_correction import RolloutCorrection
from openvlt.grpo.train import train_grpo
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.reward.reward import Reward
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.trainer.metrics import read_metrics
from openvlt.trainer.optimizer import adamw
from openvlt.types import Completion, GRPOBatch, Rollouts
from tests.helpers.aside import Aside, Killed, Watched, aside, parity, settings
from tests.helpers.factories import algorithm

CLOCKS = {"elapsed_s", "generate_s", "reward_s", "tokens_per_s", "memory_gib", "wait_s"}


@pytest.fixture
def train(fresh, problems, tmp_path) -> Callable[..., VLM]:
    """`train(settings, folder)` gives a model that was trained from the start."""

    def run(made: GRPO, name: str) -> VLM:
        model, folder = fresh(), tmp_path / name
        folder.mkdir(exist_ok=True)
        train_grpo(made, model, problems, reference=None, folder=folder, seed=3)
        return model

    return run


@pytest.fixture
def rows(tmp_path) -> Callable[..., list[dict[str, float]]]:
    """`rows(folder)`: metrics of every step, without clocks and what else is named."""

    def read(name: str, *without: str) -> list[dict[str, float]]:
        found = read_metrics(tmp_path / name / "metrics.csv")
        return [{k: v for k, v in row.items() if k not in {*CLOCKS, *without}} for row in found]

    return read


def same(one: VLM, other: VLM) -> None:
    weights = other.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.model.state_dict().items())


def order(log: Sequence[tuple[Any, ...]]) -> list[str]:
    """What happened, without hashes and problems."""
    return [f"due {entry[1]}" if entry[0] == "due" else entry[0] for entry in log]


# --- order, versions, correction ---------------------------------------------------------------------------------------


def test_the_next_batch_is_begun_before_this_one_is_learned_from(train, rows, vlm):
    generator = aside(vlm)
    fit = Watched(log=generator.log)
    train(settings(generator, fit), "run")
    assert order(generator.log) == [
        *("due 0", "begin", "wait", "begin", "due 1"),
        *("due 2", "wait", "begin", "due 3"),
        *("due 4", "wait", "rest", "due 5"),
    ]
    at = {entry[1]: entry[2] for entry in generator.log if entry[0] == "due"}  # the policy's weights by step
    assert len(set(at.values())) == 6
    assert [entry[1] for entry in generator.log if entry[0] == "begin"] == [at[0], at[0], at[2]]
    assert [entry[1] for entry in generator.log if entry[0] == "wait"] == [at[0], at[0], at[2]]
    assert [batch.policy_version for batch in fit.batches] == [0, 0, 0, 0, 2, 2]
    assert [row["rollout_age"] for row in rows("run")] == [0, 1, 2, 3, 2, 3]


def test_tokens_are_corrected_for_their_age(train, rows, fresh, vlm):
    """The sampler's log-probabilities are those of the weights that it had, the old ones those of the policy that learns."""
    generator, models = aside(vlm), {}

    class Copying(Watched):
        def run(self, module: Any, make: Callable[[int], Any], folder: Path, **options: Any) -> None:
            def copying(step: int) -> Any:
                models[step] = fresh()
                models[step].model.load_state_dict(module.vlm.model.state_dict())
                return make(step)

            super().run(module, copying, folder, **options)

    fit = Copying()
    train(settings(generator, fit, rollout_correction=RolloutCorrection(cap=0.9)), "run")
    late = []
    for step, made_at, learned_at in ((0, 0, 0), (1, 0, 0), (2, 0, 2), (3, 0, 2), (4, 2, 4)):
        batch = fit.batches[step]
        behaviour, old = scored(models[made_at], batch), scored(models[learned_at], batch)
        assert torch.allclose(batch.behaviour_logp_NT * batch.mask_NT, behaviour, atol=1e-5)
        assert torch.allclose(batch.old_logp_NT * batch.mask_NT, old, atol=1e-5)
        weight = (old - behaviour).exp().clamp(max=0.9) * batch.mask_NT
        assert torch.allclose(batch.weight_NT, weight, atol=1e-4)
        if made_at == learned_at:
            assert (old - behaviour).abs().max() < 1e-5
        else:
            late.append((old - behaviour)[batch.mask_NT.bool()].exp())
    assert late[0].min() < 0.8 and torch.cat(late).max() > 0.9, "weights below the cap, and cut ones"
    gaps = [row["mismatch_kl"] for row in rows("run")]
    assert max(gaps[:2]) < 1e-9 < min(gaps[2:])


def scored(vlm: VLM, batch: GRPOBatch) -> torch.Tensor:
    with torch.no_grad():
        logp, _ = completion_logp(vlm, batch.prompts, batch.ids_NT, batch.mask_NT, batch.group_N)
    return logp * batch.mask_NT


# --- what stays the same ------------------------------------------------------------------------------------------------


class Served:
    """A generator with servers that can't work ahead at all."""

    def __init__(self, inner: Any) -> None:
        self.check, self.sync, self.rest, self.generate = (
            inner.check,
            inner.sync,
            inner.rest,
            inner.generate,
        )


def test_ahead_0_is_what_there_was_without_it(train, rows, vlm):
    """Weights and metrics to the last bit, of generators that can work ahead, can't, and have no servers."""
    off = aside(vlm, ahead=0)
    one = train(settings(off), "off")
    same(one, train(settings(Served(aside(vlm))), "served"))
    same(one, train(settings(PrefixGenerator()), "prefix"))
    assert repr(rows("off")) == repr(rows("served")) == repr(rows("prefix"))
    assert order(off.log) == ["rest"] * 3
    assert [row["rollout_age"] for row in rows("off")] == [0, 1] * 3
    other = train(settings(aside(vlm)), "on")
    with pytest.raises(AssertionError):
        same(one, other)


NOISE = Noisy(steps=500)
VIEWS = {
    "rollout_plan": MultiViewPlan({"noisy": ViewSpec(2, NOISE, 0.5)}, inject_gold_answer),
    "view_passes": {"dark": ViewPass(Blackened())},
    "advantage_shaping": {"p": partial(weigh_by_perception, view="dark")},
    "prompts_per_rollout": 8,  # of twelve problems: some are in two batches that follow each other
    "steps": 12,
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "changes", [{}, VIEWS, {"resampling": ReplayBuffer()}], ids=["plain", "views", "replay"]
)
def test_a_policy_that_stays_is_taught_the_same(train, rows, vlm, changes, workers):
    """Where no weight moves, a batch that is generated ahead is the one that would have been generated when it is due."""
    still = {"optimizer": partial(adamw, learning_rate=0.0), **changes}
    if "resampling" in changes:
        still |= {"group_filter": algorithm().group_filter}
    train(settings(PrefixGenerator(), **still), "now")
    train(settings(aside(vlm), Watched(workers=workers), **still), "ahead")
    now, then = rows("now", "rollout_age"), rows("ahead", "rollout_age")
    assert repr(now) == repr(then) and len({row["reward"] for row in now}) > 1


@pytest.mark.parametrize("changes", [{"sampler": NearHalf}, VIEWS], ids=["sampler", "views"])
def test_a_worker_changes_nothing(train, rows, vlm, changes):
    same(*(train(settings(aside(vlm), Watched(workers=n), **changes), f"w{n}") for n in (0, 1)))
    assert repr(rows("w0")) == repr(rows("w1"))


# --- a run that ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", [2, 3, 4, 5])
def test_a_killed_run_goes_on_with_the_same_problems(train, rows, vlm, dies):
    """The batch under way is generated again, by the policy of then; none is left out, none comes twice."""
    whole, cut = aside(vlm), aside(vlm)
    train(settings(whole), "whole")
    with pytest.raises(Killed):
        train(settings(cut, Watched(dies=dies)), "cut")
    first = dies // 2 * 2  # the step of the checkpoint
    assert cut.log[-1][0] == ("rest" if dies == 5 else "cancel") and not cut.pending
    drawn = [entry[2] for entry in whole.log if entry[0] == "begin"]
    resumed, fit = aside(vlm), Watched()
    train(settings(resumed, fit), "cut")
    assert [entry[2] for entry in resumed.log if entry[0] == "begin"] == drawn[first // 2 :]
    assert resumed.log[0][1] == fit.log[0][2], "the weights of the policy that goes on"
    ages = [row["rollout_age"] for row in rows("cut")]
    assert ages[first : first + 2] == [0, 1] and [row["step"] for row in rows("cut")] == [1, 2, 3, 4, 5, 6]
    assert repr(rows("cut")[:first]) == repr(rows("whole")[:first])


def test_resuming_gives_the_same_bits_each_time(train, rows, vlm, tmp_path):
    with pytest.raises(Killed):
        train(settings(aside(vlm), Watched(dies=2), sampler=NearHalf), "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    same(*(train(settings(aside(vlm), sampler=NearHalf), name) for name in "ab"))
    assert repr(rows("a")) == repr(rows("b"))


def test_a_sampler_draws_the_same_again_and_then_observes_the_same(problems):
    """Killed after any draw; accuracies change what comes next."""

    def drawn(sampler: SamplerAhead, step: int) -> list[str]:
        with sampler.drawing():
            return [problem.id for problem in sampler.sampler.next(4, step)]

    def accuracy(step: int) -> dict[str, float]:
        return {problem.id: float((place + step) % 2) for place, problem in enumerate(problems)}

    whole = SamplerAhead(NearHalf(problems, 5))
    seen, states = [], []
    for step in range(5):
        seen.append(drawn(whole, step))
        if step:
            whole.observe(accuracy(step - 1))
            states.append(whole.state_dict())
    assert len({tuple(sorted(ids)) for ids in seen}) > 2
    for killed, state in enumerate(states, 1):
        other = SamplerAhead(NearHalf(problems, 5))
        other.load_state_dict(state)
        for step in range(killed, 5):
            assert drawn(other, step) == seen[step]
            if step > killed:
                other.observe(accuracy(step - 1))
            assert other.state_dict() == states[step - 1]
    whole.finish()
    assert whole.state_dict() == {"sampler": whole.sampler.state_dict(), "observed": None}


def test_what_is_under_way_is_given_up_when_a_run_ends(train, vlm):
    for how in (KeyboardInterrupt, UserError):
        generator = aside(vlm)
        with pytest.raises(how):
            train(settings(generator, Watched(dies=1, how=how)), how.__name__)
        assert order(generator.log)[-1] == "cancel" and not generator.pending


def test_completions_without_log_probabilities_are_refused(train, vlm):
    class Silent(Aside):
        def generate(self, *arguments: Any) -> list[Completion]:
            return [replace(one, logp=()) for one in super().generate(*arguments)]

    generator = Silent(aside(vlm).vlm)
    with pytest.raises(UserError, match=r"rollout.ahead=1 needs the probability that each token was sampled"):
        train(settings(generator), "run")


def test_resampling_of_ones_own_that_draws_again_is_refused(train, vlm):
    made = settings(
        aside(vlm), resampling=lambda rollouts, draw: draw(), group_filter=algorithm().group_filter
    )
    with pytest.raises(UserError, match=r"grpo.resampling draws again .* rollout.ahead=1"):
        train(made, "run")


def test_a_reward_term_may_ask_the_policy_meanwhile(train, vlm):
    """The servers have its present weights: nothing is sent."""
    asked = []

    def curious(rollouts: Rollouts, services: Any) -> torch.Tensor:
        asked.append(services.generate(rollouts.problems, "policy"))
        return parity(rollouts, services)

    generator = aside(vlm)
    train(settings(generator, reward=Reward({"curious": curious}, {"curious": 1.0})), "run")
    assert len(asked) == 3 and all(len(texts) == 4 for texts in asked)


def test_samplers_without_accuracy_need_no_more():
    assert SamplerAhead(Shuffled([], 1)).state_dict() == {"sampler": {"draws": 0}, "observed": None}

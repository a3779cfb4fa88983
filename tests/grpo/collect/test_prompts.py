"""Experience: the draws of resampling, a memory's groups, views of the images, and terms that have somebody write."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial

import pytest
import torch

from openvlt.errors import UserError
from openvlt.grpo.collect.experience import Experience
from openvlt.grpo.collect.plan import MultiViewPlan, ViewPass, ViewSpec
from openvlt.grpo.collect.resampling import ReplayBuffer, Resample
from openvlt.model.shared_prefix.vision_features import FEATURES
from openvlt.reward.reward import Reward
from openvlt.types import Origin
from tests.helpers.factories import Scripted, written


def test_every_round_of_resampling_draws_anew_and_is_observed(make, mixed):
    """The first draw's seed is the rollout's. Otherwise a problem that is drawn twice would say the same again."""
    experience = make(resampling=Resample(tries=2), rewards=[1.0] * 7 + [0.0])
    others = iter([replace(problem, id=f"{problem.id}-{draw}") for problem in mixed] for draw in (1, 2))
    rollouts, _ = experience.collect(mixed, seed=9, version=0, more=lambda: next(others))
    seeds = [seed for _, _, _, seed in experience.grpo.generator.calls]
    assert seeds[0] == 9 and len(set(seeds)) == 3
    assert [problem.id for problem in rollouts.problems] == ["wide", "wide-1", "wide-2"]
    assert set(experience.accuracy) == {
        f"{problem.id}{draw}" for problem in mixed for draw in ("", "-1", "-2")
    }
    again = make(resampling=Resample(tries=2), rewards=[1.0] * 8)
    again.collect(mixed, seed=9, version=3, more=lambda: mixed)
    assert [
        seed for _, _, _, seed in again.grpo.generator.calls
    ] == seeds  # a function of the rollout's seed alone
    assert set(again.accuracy) == {problem.id for problem in mixed}


def test_the_ratio_of_a_replayed_row_is_to_the_policy_that_said_it(make, mixed):
    """Of a given text, or a row whose first policy isn't known, to the present one."""

    def replayed(rollouts, make_more):
        rollouts.behaviour_logp_NT[1] = torch.nan
        return rollouts.with_(
            origin_N=torch.tensor([Origin.REPLAYED, Origin.REPLAYED, Origin.INJECTED] + [Origin.POLICY] * 5)
        )

    _, (plain, _) = make(rewards=[0, 1] * 4, count=2).collect(mixed, seed=0, version=0)
    _, (batch, _) = make(rewards=[0, 1] * 4, count=2, resampling=replayed).collect(mixed, seed=0, version=0)
    assert batch.old_logp_NT[0].tolist() == pytest.approx([-0.1, -0.2, -0.3, 0.0, 0.0])
    assert batch.old_logp_NT[1:].equal(plain.old_logp_NT[1:]) and not batch.old_logp_NT[0].equal(
        plain.old_logp_NT[0]
    )


def test_a_frozen_towers_features_are_made_anew_for_what_comes_from_a_memory(make, fresh, mixed):
    model = fresh()
    model.model.model.visual.requires_grad_(False)
    experience = make(resampling=ReplayBuffer(), model=model)
    first, _ = experience.collect(mixed, seed=0, version=0)
    second, _ = experience.collect(mixed, seed=1, version=1)
    assert len(first.problems) == 2 and len(second.problems) == 4
    assert (
        FEATURES in first.prompts.vision
        and FEATURES not in experience.grpo.resampling.memory[0].prompts.vision
    )
    torch.testing.assert_close(second.prompts.select([0, 1]).vision[FEATURES], first.prompts.vision[FEATURES])
    assert len(second.prompts.vision[FEATURES]) * 4 == len(second.prompts.vision["pixel_values"])


def test_a_pass_looks_through_the_same_noise_as_the_plan(make, mixed):
    """VOGUE compares predictions from the image that the completions were generated from, whatever the policy's version."""
    drawn: dict[str, set[float]] = {"plan": set(), "pass": set()}

    def view(image, rng, strength, *, who):
        drawn[who].add(float(rng.random()))
        return image

    noisy = {"noisy": ViewSpec(2, view=partial(view, who="plan"))}
    experience = make(
        rollout_plan=MultiViewPlan(noisy), view_passes={"noisy": ViewPass(partial(view, who="pass"))}
    )
    for version in (0, 3):
        experience.collect(mixed, seed=5, version=version)
        assert drawn["plan"] == drawn["pass"] and len(drawn["plan"]) == 4  # one per image
    experience.collect(mixed, seed=6, version=3)
    assert len(drawn["plan"]) == 8


class Writing(Scripted):
    """Remembers who wrote greedily, and whether its adapter was on."""

    def generate(self, vlm, problems, prompts, sampling, seed):
        if not sampling.greedy:
            return super().generate(vlm, problems, prompts, sampling, seed)
        self.calls.append((vlm, getattr(vlm.model, "adapter_is_on", None)))
        return self.completions[: len(problems)]


def writers(experience: Experience, model: str, mixed) -> list[tuple]:
    """Who wrote, when a reward term has `model` write."""

    def term(rollouts, services):
        services.generate(rollouts.problems, model)
        return written(rollouts)

    said = experience.grpo.generator.completions
    generator = Writing(
        [completion.token_ids for completion in said], [completion.text for completion in said]
    )
    experience.grpo = replace(
        experience.grpo, generator=generator, reward=Reward({"asks": term}, {"asks": 1.0})
    )
    experience.collect(mixed, seed=0, version=0)
    return generator.calls[1:]


def test_a_term_that_asks_the_reference_gets_it_and_never_the_policy(make, fresh, mixed):
    reference, plain = fresh(), make()
    assert writers(make(reference=reference), "reference", mixed) == [(reference, None)]
    assert writers(plain, "policy", mixed) == [(plain.models.policy, None)]
    with pytest.raises(UserError, match="a reward term asks the reference, and none was loaded"):
        writers(plain, "reference", mixed)


def test_with_an_adapter_the_reference_writes_without_it(make, mixed):
    experience = make()
    model = experience.models.policy.model
    model.adapter_is_on = True

    @contextlib.contextmanager
    def disable_adapter():
        model.adapter_is_on = False
        yield
        model.adapter_is_on = True

    model.disable_adapter = disable_adapter
    assert writers(experience, "reference", mixed) == [(experience.models.policy, False)]
    assert writers(experience, "policy", mixed) == [(experience.models.policy, True)]

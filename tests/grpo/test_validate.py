"""What can't be an algorithm: each mistake is one sentence that says what is wrong, why, and what is allowed."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import hydra
import pytest

from openvlt.config.build import build
from openvlt.config.resolvers import CONF
from openvlt.data.image_views import Blackened
from openvlt.data.prompts import PromptStyle
from openvlt.data.sources import selection
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect import sampler
from openvlt.grpo.collect.plan import MultiViewPlan, ViewPass, ViewSpec, inject_gold_answer
from openvlt.grpo.collect.resampling import ReplayBuffer, Resample
from openvlt.grpo.parts import advantage, advantage_shaping, group_filter, loss, loss_aggregation
from openvlt.grpo.parts.auxiliary_losses import EntropyBonus, PerceptionKL, ReferenceKL, RewardKL, SFTLoss
from openvlt.grpo.parts.rollout_correction import RolloutCorrection
from openvlt.grpo.parts.schedules import Ramp
from openvlt.grpo.parts.traits import declare_traits, has_trait
from openvlt.grpo.validate import SIZES
from openvlt.reward.reward import Reward, gate_terms, weigh_by_level
from openvlt.reward.terms import CaptionSuffices, Overlong
from openvlt.sft.module import SFT
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.optimizer import adamw
from tests.helpers.aside import Aside
from tests.helpers.factories import algorithm


def reward(**more: Any) -> Reward:
    return Reward({"a": lambda rollouts, services: None}, {"a": 1.0}, **more)


def grpo(**changes: Any) -> GRPO:
    parts = dict(fit=TrainingLoop(), scheduler=None, advantage=advantage.normalise_by_group, reward=reward())
    return algorithm(**{**parts, **changes})


NEED = partial(advantage_shaping.weigh_by_perception, view="black")
VIEW, KL_ONLY = ({"black": ViewPass(Blackened(), outputs=outputs)} for outputs in (("logp",), ("sym_kl",)))


BY_GROUP = (
    advantage.normalise_by_group,
    advantage.centre_by_group,
    advantage.normalise_by_batch,
    advantage.leave_one_out,
)
OVER_BATCH = (advantage.reinforce_pp, advantage.reinforce_pp_baseline, advantage.gdpo)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"denominator": "sum"}, "grpo.denominator='sum'; it is all .*, or kept .*, or selected"),
        ({"kl": -0.1}, "grpo.kl=-0.1 is negative; 0 switches"),
        ({"kl": 0.1, "auxiliary_losses": {"kl": ReferenceKL(0.1)}}, "two KL terms of one name"),
        ({"kl": Ramp(0.1, -0.1)}, "KL.coefficient=-0.1 is negative"),
        ({"loss": partial(loss.clipped_surrogate, clip_low=-0.2)}, "grpo.loss.clip_low=-0.2 is negative"),
        ({"prompts_per_rollout": 10, "prompts_per_update": 4}, "is no multiple of grpo.prompts_per_update=4"),
        (
            {"advantage": lambda reward, group_N: None},
            r"grpo.advantage asks for \['reward'\]; its parameters may be reward_N",
        ),
        ({"group_filter": lambda penalty_NT: None}, r"grpo.group_filter asks for \['penalty_NT'\]"),
        (
            {"advantage_shaping": {"mine": lambda entropy: None}},
            r"grpo.advantage_shaping.mine asks for \['entropy'\]",
        ),
        ({"metric_hooks": {"mine": lambda x: None}}, r"grpo.metric_hooks.mine asks for \['x'\]"),
        (
            {"advantage_shaping": {"p": partial(advantage_shaping.weigh_by_perception, view="black")}},
            r"grpo.advantage_shaping.p.view='black' is no pass; grpo.view_passes has \[\]",
        ),
        (
            {"auxiliary_losses": {"gap": PerceptionKL(0.1, view="blak")}, "view_passes": VIEW},
            r"needs the pass 'blak'; grpo.view_passes has \['black'\]",
        ),
        (
            {"reward": reward(multiplier=partial(weigh_by_level, weights={1: 2.0}))},
            r"cancels in \(r - mean\) / std; weigh the loss instead",
        ),
        (
            {"loss": partial(loss.gspo, clip_low=1e-3), "loss_aggregation": loss_aggregation.sequence_sum},
            "gspo gives one value per completion",
        ),
        (
            {"resampling": Resample(), "group_filter": group_filter.keep_all_groups},
            "has nothing to replace under group_filter keep_all_groups",
        ),
        (
            {"reward_kl": RewardKL(0.1)},
            "group_filter drop_zero_variance_groups drops groups .* the KL term in the reward gives them one",
        ),
        (
            {"loss": loss.policy_gradient, "prompts_per_rollout": 64},
            "takes every completion for the present policy's own",
        ),
        (
            {"loss": loss.policy_gradient, "resampling": ReplayBuffer()},
            "replayed groups use clipped_surrogate",
        ),
        *[({size: 0}, f"grpo.{size}=0; it is above 0") for size in SIZES],
        ({"prompts_per_update": -32}, "grpo.prompts_per_update=-32; it is above 0"),
        ({"top_p": 1.1}, "grpo.top_p=1.1; it is above 0 and at most 1"),
        (
            {"temperature": Ramp(1.0, 0.5)},
            "grpo.temperature can't be a schedule: .* go into numbers of loss, loss_aggregation",
        ),
        ({"sampler": partial(sampler.NearHalf, floor=Ramp(0.1, 0.2))}, "grpo.sampler can't be a schedule"),
        ({"rollout_correction": RolloutCorrection(cap=Ramp(2.0, 0.0))}, "cap=0.0; they are 0 <= floor < cap"),
        ({"rollout_plan": MultiViewPlan({"more": ViewSpec(Ramp(2, 0))})}, "n=0 completions"),
        (
            {"problem_filter": partial(selection.keep_between, low=0.2)},
            r"grpo.problem_filter has no column; give \+grpo.problem_filter.column=<value>",
        ),
        (
            {"problem_filter": partial(selection.keep_highest, column="level")},
            "grpo.problem_filter has no amount",
        ),
        (
            {"auxiliary_losses": {"gap": PerceptionKL(0.1, view="black")}, "view_passes": KL_ONLY},
            r"reads logp of the pass 'black'; add it: .*=\[logp, \.\.\.\]",
        ),
        (
            {
                "advantage_shaping": {"p": partial(advantage_shaping.weigh_by_perception, view="black")},
                "view_passes": KL_ONLY,
            },
            "grpo.advantage_shaping.p reads logp of the pass 'black'",
        ),
        (
            {
                "advantage_shaping": {
                    "u": partial(
                        advantage_shaping.add_uncertainty_bonus, weight=1.0, limit=1.0, noisy="black"
                    )
                },
                "view_passes": VIEW,
            },
            "u reads sym_kl of the pass",
        ),
        (
            {"group_filter": lambda entropy_NT: None},
            r"grpo.group_filter asks for \['entropy_NT'\], which isn't known yet when it runs",
        ),
        (
            {"group_filter": lambda adv_NT: None},
            r"grpo.group_filter asks for \['adv_NT'\], which isn't known yet",
        ),
        ({"advantage": lambda adv_NT: None}, r"grpo.advantage asks for \['adv_NT'\], which isn't known yet"),
        (
            {"advantage_shaping": {"first": advantage_shaping.require_perception}, "resampling": Resample()},
            "has to see the groups that resampling takes out; leave grpo.resampling out",
        ),
        (
            {"advantage_shaping": {"p": NEED}, "view_passes": VIEW, "resampling": ReplayBuffer()},
            "grpo.advantage_shaping.p reads .* those of replayed groups are an earlier",
        ),
        *[
            ({"advantage": each}, f"but {each.__name__} gives them one; use group_filter keep_all_groups")
            for each in OVER_BATCH
        ],
        (
            {
                "advantage": advantage.gdpo,
                "reward_kl": RewardKL(0.1),
                "group_filter": group_filter.keep_all_groups,
            },
            "reward_kl has no effect .* such as gdpo",
        ),
        (
            {"advantage": advantage.gdpo, "reward": reward(combine=partial(gate_terms, gates={"a": "a"}))},
            "combine has no effect under gdpo",
        ),
        *[
            ({"group_size": 1, "advantage": each}, f"=1 trains nothing under {each.__name__}")
            for each in (*BY_GROUP, *OVER_BATCH[1:])
        ],
        (
            {"group_size": 1, "rollout_plan": MultiViewPlan({"other": ViewSpec(3, train=False)})},
            "grpo.group_size=1 trains nothing",
        ),
        ({"loss": partial(loss.clipped_surrogate, dual=1.0)}, "grpo.loss.dual=1.0; it bounds ratios above 1"),
        ({"loss": partial(loss.clipped_surrogate, dual=Ramp(3.0, 0.5))}, "grpo.loss.dual=0.5"),
        (
            {"loss": partial(loss.clipped_surrogate, clip_high=Ramp(0.0, -0.5))},
            "grpo.loss.clip_high=-0.5 is negative",
        ),
        ({"sampler": partial(sampler.NearHalf, floor=0.0)}, "grpo.sampler.floor=0.0; it is above 0"),
    ],
)
def test_a_bundle_that_cannot_be_says_why(changes: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        grpo(**changes)


AHEAD = Aside(None)  # its model isn't looked at


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rollout_correction": None},
            r"for which nothing corrects; give '\+grpo.rollout_correction={_target_",
        ),
        ({"top_p": 0.9}, "aren't known under grpo.top_p=0.9; set grpo.top_p=1, or rollout.ahead=0"),
        (
            {"resampling": Resample(), "group_filter": group_filter.drop_zero_variance_groups},
            "grpo.resampling Resample draws again .* take ReplayBuffer, or set rollout.ahead=0",
        ),
        (
            {"reward": Reward({"seen": CaptionSuffices(model="reference")}, {"seen": 1.0})},
            "reward.terms.seen asks the reference, whose weights .* model=policy, or set rollout.ahead=0",
        ),
        ({"loss": loss.policy_gradient}, "policy_gradient takes every .* with rollout.ahead=1, several"),
    ],
)
def test_what_rollouts_ahead_cannot_have_is_refused(changes: dict[str, Any], said: str):
    good = {"generator": AHEAD, "rollout_correction": RolloutCorrection()}
    assert (
        grpo(**good).ahead == 1 and grpo(**{**good, **changes, "generator": Aside(None, ahead=0)}).ahead == 0
    )
    with pytest.raises(UserError, match=said):
        grpo(**{**good, **changes})


def test_what_is_allowed_is_built():
    centred = {
        "advantage": advantage.centre_by_group,
        "reward": reward(multiplier=partial(weigh_by_level, weights={1: 2.0})),
    }
    assert grpo(**centred).updates == 1
    assert (
        grpo(
            advantage_shaping={"p": partial(advantage_shaping.weigh_by_perception, view="black")},
            view_passes=VIEW,
        ).losses
        == {}
    )
    assert grpo(kl=Ramp(0.1, 0.0)).needs_reference and not grpo().needs_reference
    assert grpo(reward_kl=RewardKL(0.1), group_filter=group_filter.keep_all_groups).needs_reference
    assert grpo(reward=Reward({"caption": CaptionSuffices("reference")}, {"caption": 1.0})).needs_reference
    assert not grpo(reward=Reward({"caption": CaptionSuffices()}, {"caption": 1.0})).needs_reference
    assert grpo(
        rollout_correction=RolloutCorrection(cap=Ramp(3.0, 2.0)),
        problem_filter=partial(selection.keep_between, column="level"),
    ).steps
    assert list(grpo(kl=0.1, auxiliary_losses={"entropy": EntropyBonus(0.1)}).losses) == ["kl", "entropy"]
    assert grpo(advantage_shaping={"p": NEED}, view_passes=VIEW, resampling=Resample()) and grpo(
        advantage_shaping={"cut": advantage_shaping.drop_truncated}, resampling=ReplayBuffer()
    )
    assert grpo(advantage=advantage.gdpo, group_filter=group_filter.keep_all_groups) and grpo(
        advantage_shaping={"first": advantage_shaping.require_perception}
    )


def test_one_completion_of_a_problem_is_enough_where_others_stand_beside_it():
    over_batch = {
        "advantage": advantage.reinforce_pp,
        "group_filter": group_filter.keep_all_groups,
        "reward_kl": RewardKL(0.1),
    }
    for changes in (
        over_batch,
        {"rollout_plan": MultiViewPlan(texts=inject_gold_answer)},
        {"rollout_plan": MultiViewPlan({"noisy": ViewSpec(1)})},
    ):
        assert grpo(group_size=1, **changes).group_size == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *[
            (
                {"max_grad_norm": clip},
                f"max_grad_norm={clip}; the norm that gradients are cut to is a number above 0",
            )
            for clip in (-1.0, 0.0, None, math.nan)
        ],
        *[
            (
                {"warmup_ratio": warmup},
                f"warmup_ratio={warmup}; it is a share of the steps, from 0 to below 1",
            )
            for warmup in (10, 1.0, -0.1)
        ],
    ],
)
def test_how_weights_move_is_checked_in_both_kinds_of_training(changes: dict[str, Any], said: str):
    machine = dict(
        fit=TrainingLoop(), prompt=PromptStyle(), optimizer=partial(adamw, learning_rate=1e-3), scheduler=None
    )
    for name, make in (("grpo", grpo), ("sft", partial(SFT, **machine))):
        with pytest.raises(UserError, match=f"{name}.{said}"):
            make(**changes)
        assert make(max_grad_norm=math.inf, warmup_ratio=0.99).max_grad_norm == math.inf


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16", "16"])
def test_updates_are_computed_in_the_precision_of_the_rollout(precision: str):
    with pytest.raises(
        UserError,
        match=f"trainer.precision={precision} would compute updates in another precision .* use 32-true or bf16-true",
    ):
        TrainingLoop(precision=precision).check()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EntropyBonus(-1.0), "EntropyBonus.coefficient=-1.0 is negative"),
        (lambda: RewardKL(-1.0), "reward_kl.coefficient=-1.0 is negative"),
        (lambda: SFTLoss(0.1, rows="corect"), "SFTLoss.rows='corect'; it is injected .* or correct"),
        (lambda: RolloutCorrection(level="word"), "level is token or sequence, action truncate or mask"),
        (lambda: RolloutCorrection(cap=0.0), "0 <= floor < cap"),
        (lambda: Resample(tries=0), "grpo.resampling.tries=0; it is at least 1"),
        (
            lambda: Resample(tries=Ramp(1, 4)),
            "grpo.resampling.tries can't be a schedule: it stays the same over a run",
        ),
        (lambda: ReplayBuffer(capacity=Ramp(1, 4)), "grpo.resampling.capacity can't be a schedule"),
        (lambda: ReplayBuffer(capacity=0), "grpo.resampling.capacity=0"),
        (lambda: ViewPass(Blackened(), outputs=("kl",)), r"outputs \['kl'\] unknown; they are logp, sym_kl"),
        (lambda: ViewSpec(0), "n=0 completions"),
        (lambda: MultiViewPlan({"clean": ViewSpec(1)}), "'clean' names the completions of the plain image"),
        (lambda: Overlong(10, share=0.0), "share=0.0 of the token limit"),
        (
            lambda: gate_terms({"a": None}, {"a": 1.0}, gates={"b": "a"}),
            r"reward gates name \['b'\]; terms are \['a'\]",
        ),
    ],
)
def test_a_part_that_cannot_be_says_what_it_may_be(make, said: str):
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["+grpo.loss.clip=0.2"],
            r"grpo.loss has unknown key 'clip'; openvlt.grpo.parts.loss.clipped_surrogate takes .*clip_low, clip_high, dual",
        ),
        (
            ["grpo.advantage._target_=openvlt.grpo.parts.advantage.group_normalized"],
            "has no 'group_normalized', but .*leave_one_out, normalise_by_batch, normalise_by_group",
        ),
        (["+grpo.auxilary.kl=1"], "grpo has unknown key 'auxilary'; .*auxiliary"),
        (
            [
                "+grpo.auxiliary_losses.e={_target_: openvlt.grpo.parts.auxiliary_losses.EntropyBonus, coefficient: high}"
            ],
            "coefficient='high' is no float",
        ),
        (
            [
                "grpo=dr_grpo",
                "+reward.multiplier={_target_: openvlt.reward.reward.weigh_by_level, _partial_: true, weights: {1: 1}}",
            ],
            None,
        ),
        (
            [
                "grpo=paper",
                "+reward.multiplier={_target_: openvlt.reward.reward.weigh_by_level, _partial_: true, weights: {1: 1}}",
            ],
            "cancels",
        ),
        (
            ["grpo=gspo", "grpo.loss_aggregation._target_=openvlt.grpo.parts.loss_aggregation.sequence_sum"],
            "gspo gives one value per completion",
        ),
        (
            [
                "grpo=rloo",
                "grpo.group_filter._target_=openvlt.grpo.parts.group_filter.drop_zero_variance_groups",
            ],
            "group_filter drop_zero_variance_groups drops groups",
        ),
        (
            ["+recipe=pearl", "grpo=dapo", "grpo.advantage_shaping.perceived.auxiliary=1"],
            r"\(require_perception\) has to see .*; leave grpo.resampling out",
        ),
        (
            ["grpo.max_grad_norm=-1"],
            r"grpo.max_grad_norm=-1; .* above 0; inf \(.inf in a file\) clips nothing",
        ),
    ],
)
def test_the_same_from_the_command_line(words: list[str], said: str | None):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=words)
    if said is None:
        assert build(config.grpo, "grpo").reward.multiplier is not None
        return
    with pytest.raises(UserError, match=said):
        build(config.grpo, "grpo")


# --- traits: parts of one's own are checked by what they declare -------------------------------------------------------


@declare_traits("divides_by_group_std", "needs_siblings", "uses_equal_groups")
def my_advantage(reward_N, group_N):
    return reward_N


@declare_traits("sequence_level", "on_policy_only")
def my_loss(logp_NT, old_NT, adv_NT, mask_NT):
    return logp_NT


@declare_traits("sums_tokens")
def my_aggregation(loss_NT, mask_NT, totals):
    return loss_NT.sum()


@declare_traits("drops_equal_groups")
def my_filter(reward_N, group_N):
    return reward_N > 0


@declare_traits("reads_dropped_groups")
def my_shaping(reward_N):
    return advantage_shaping.AdvantageUpdate()


@declare_traits("replays_groups")
class MyBuffer:
    def __call__(self, rollouts, draw):
        return rollouts


class MySampler(sampler.Shuffled):
    def __init__(self, problems, seed, *, share=0.5):
        raise AssertionError("a sampler is made when its stage begins")

    @staticmethod
    def check_settings(*, share=0.5):
        if share > 1:
            raise UserError(f"grpo.sampler.share={share}; it is at most 1")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "advantage": my_advantage,
                "reward": reward(multiplier=partial(weigh_by_level, weights={1: 2.0})),
            },
            "reward.multiplier has no effect under my_advantage",
        ),
        ({"advantage": my_advantage}, "drops groups .* but my_advantage gives them one"),
        (
            {"advantage": my_advantage, "group_filter": group_filter.keep_all_groups, "group_size": 1},
            "=1 trains nothing under my_advantage",
        ),
        (
            {"loss": partial(my_loss), "loss_aggregation": my_aggregation},
            "my_loss gives one value per completion, which my_aggregation would count",
        ),
        ({"loss": my_loss, "resampling": MyBuffer()}, "loss my_loss takes every completion for the present"),
        ({"group_filter": my_filter, "reward_kl": RewardKL(0.1)}, "group_filter my_filter drops groups"),
        ({"advantage_shaping": {"x": my_shaping}, "resampling": MyBuffer()}, r"x \(my_shaping\) has to see"),
        ({"sampler": partial(MySampler, share=2.0)}, "grpo.sampler.share=2.0; it is at most 1"),
    ],
)
def test_what_a_part_of_ones_own_declares_is_checked(changes: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        grpo(**changes)


def test_traits_are_found_through_partials_and_instances_and_unknown_ones_are_refused():
    assert has_trait(partial(loss.gspo, clip_low=0.1), "sequence_level") and has_trait(
        MyBuffer(), "replays_groups"
    )
    assert not has_trait(loss.clipped_surrogate, "sequence_level") and not has_trait(None, "draws_again")
    assert grpo(sampler=partial(MySampler, share=1.0)).sampler.keywords == {"share": 1.0}
    with pytest.raises(
        ValueError, match=r"unknown traits \['sequnce_level'\]; they are sequence_level, on_policy"
    ):
        declare_traits("sequnce_level")

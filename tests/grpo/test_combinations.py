"""Shapers, masks, correction, schedules, plans, passes: what each does to a rollout, on paper."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from openvlt.data import self_made_tasks
from openvlt.data.image_views import Blackened, Noisy, apply_view
from openvlt.data.sources import selection
from openvlt.data.synthetic import figures
from openvlt.errors import UserError
from openvlt.grpo.collect import columns, sampler, weighting
from openvlt.grpo.collect.metrics import accuracies, distinct_answers
from openvlt.grpo.collect.plan import MultiViewPlan, ViewSpec, inject_gold_answer, largest_draw, largest_group
from openvlt.grpo.parts import advantage_shaping
from openvlt.grpo.parts.auxiliary_losses import EntropyBonus, PerceptionKL, ReferenceKL, RewardKL, SFTLoss
from openvlt.grpo.parts.group_filter import keep_accuracy_band
from openvlt.grpo.parts.rollout_correction import RolloutCorrection
from openvlt.grpo.parts.schedules import Ramp, Sigmoid, resolve_schedules
from openvlt.reward.terms import Overlong
from openvlt.types import Origin, Problem
from tests.helpers.factories import algorithm, rollouts

NAN = float("nan")


# --- shapers ------------------------------------------------------------------------------------------------------------


def test_a_shape_multiplies_adds_weighs_and_drops():
    before = rollouts([1.0, 0.0, 1.0, 0.0])
    one = advantage_shaping.AdvantageUpdate(
        scale=torch.full((4, 1), 2.0),
        shift=torch.ones(4, 1),
        sample_weight_N=torch.tensor([1.0, 0.5, 1.0, 1.0]),
    )
    after = one.apply(before)
    assert (
        after.adv_NT.tolist() == [[3], [1], [3], [1]]  # one value per completion still
        and before.adv_NT.tolist() == [[1], [0], [1], [0]]
    )
    token = advantage_shaping.AdvantageUpdate(
        shift=torch.arange(4.0)[None].expand(4, 4), token_weight_NT=torch.tensor([[1.0, 1, 0, 0]] * 4)
    )
    twice = token.apply(token.apply(after))
    assert twice.adv_NT[0].tolist() == [3, 5, 7, 9]
    assert weighting.token_weights(twice).tolist()[1] == [0.5, 0.5, 0, 0]
    dropped = advantage_shaping.AdvantageUpdate(keep_N=torch.tensor([True, True, False, False])).apply(twice)
    assert weighting.token_weights(dropped)[2:].sum() == 0


def test_masks_leave_the_denominator_unless_it_is_selected():
    made = rollouts([1.0, 0.0, 1.0, 1.0], lengths=[4, 3, 2, 1])  # the second group is dropped
    masked = advantage_shaping.AdvantageUpdate(
        token_weight_NT=torch.tensor([[1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    ).apply(made)
    every = torch.ones(4, dtype=torch.bool)
    for denominator, tokens, sequences in (("all", 10, 4), ("kept", 7, 2), ("selected", 2, 1)):
        totals = weighting.loss_totals(
            *weighting.select_denominator(masked, weighting.token_weights(masked), denominator), every
        )
        assert (totals.tokens, totals.sequences) == (tokens, sequences)


def test_token_masks_on_paper():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    entropy = torch.tensor([[0.1, 0.9, 0.5, 0.2, 0.3], [0.8, 0.4, 9.0, 9.0, 9.0]])
    kept = (
        advantage_shaping.keep_top_entropy(entropy, mask, share=0.3).token_weight_NT & mask.bool()
    )  # the 70th percentile of seven is .52
    assert kept.tolist() == [[False, True, False, False, False], [True, False, False, False, False]]
    assert advantage_shaping.top_tokens(entropy, mask, 0.4).tolist() == [
        [False, True, True, False, False],
        [True, False, False, False, False],
    ]
    assert advantage_shaping.drop_truncated(torch.tensor([1.0, 0.0])).token_weight_NT.tolist() == [[1], [0]]
    with pytest.raises(UserError, match="share=0 of the tokens; it is above 0"):
        advantage_shaping.top_tokens(entropy, mask, 0)


def test_the_highest_entropies_are_those_above_the_quantile(monkeypatch):
    """Found without torch.quantile, which refuses more than 2^24 numbers: a large rollout has more tokens."""
    values, shares = (
        torch.rand(3, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        (0.05, 0.2, 0.5, 1.0),
    )
    expected = [values >= torch.quantile(values.flatten(), 1 - share) for share in shares]
    monkeypatch.delattr(torch, "quantile")
    for share, kept in zip(shares, expected, strict=True):
        assert advantage_shaping.keep_top_entropy(
            values, torch.ones(3, 17), share=share
        ).token_weight_NT.equal(kept)
    assert (
        advantage_shaping.keep_top_entropy(values, torch.zeros(3, 17)) == advantage_shaping.AdvantageUpdate()
    )  # nothing was said


def test_perception_keeps_what_needs_the_image_and_has_mean_factor_one():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    old = torch.zeros(3, 4)
    black = torch.tensor([[0.0, -1, 0, -2], [0, 0, 0, 0], [-1, -1, 7, 7]])
    made = advantage_shaping.weigh_by_perception({"old": old, "blackened": black}, mask, share=0.5)
    assert made.token_weight_NT.tolist() == [
        [False, True, False, True],
        [True, True, False, False],
        [True, False, False, False],
    ]
    k3 = lambda x: math.exp(x) - x - 1  # noqa: E731
    need = [(k3(-1) + k3(-2)) / 4, 0.0, k3(-1)]
    level = [value / max(need) for value in need]
    expected = [0.9 + each * 0.1 / (sum(level) / 3) for each in level]
    assert made.scale[:, 0].tolist() == pytest.approx(expected, rel=1e-5) and sum(
        expected
    ) / 3 == pytest.approx(1)


def test_a_view_that_changes_nothing_scales_nothing():
    same = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    made = advantage_shaping.weigh_by_perception(
        {"old": same, "blackened": same.clone()}, torch.ones(3, 4).long()
    )
    assert made.scale is None


def test_shapers_of_recipes_on_paper():
    mask, view = torch.tensor([[1, 1], [1, 1], [1, 0]]), ["clean", "noisy", "noisy"]
    stats = {"sym_kl:noisy": torch.tensor([[1.0, 3], [1, 3], [9, 0]])}
    bonus = advantage_shaping.add_uncertainty_bonus(
        stats, mask, view, weight=0.1, limit=0.5, noisy="noisy"
    ).shift[:, 0]
    assert bonus.tolist() == pytest.approx([0, 0.2, 0.5])
    assert advantage_shaping.add_entropy_bonus(torch.tensor([[1.0, 3.0]]), weight=0.5).shift.tolist() == [
        [0.5, 1.5]
    ]
    weights = advantage_shaping.weigh_by_difficulty(
        torch.tensor([1.0, 2.0, NAN]), weights={1: 1.0, 2: 1.5}
    ).sample_weight_N
    assert weights.tolist() == [1, 1.5, 1]
    with pytest.raises(UserError, match=r"no weight for levels \[3\]"):
        advantage_shaping.weigh_by_difficulty(torch.tensor([3.0]), weights={1: 1.0})
    parent, other = Problem("a", "?", "1"), Problem("b", "?", "1")
    child, its = (
        Problem("a|see", "?", "1", meta={"parent": "a"}),
        Problem("b|see", "?", "1", meta={"parent": "b"}),
    )
    origin = torch.tensor([0, 0, Origin.AUXILIARY, Origin.AUXILIARY, 0])
    gate = advantage_shaping.require_perception(
        [parent, other, child, its, parent], origin, torch.tensor([1.0, 1, 0, 1, 0]), auxiliary=0.3
    )
    assert gate.sample_weight_N.tolist() == pytest.approx([0, 1, 0.3, 0.3, 0])


# --- correction and KL in the reward ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "action", "first", "second"),
    [
        ("token", "truncate", [2.0, 1.0, 0.5], [1.0, 1.0, 1.0]),
        ("token", "mask", [0.0, 1.0, 0.5], [1.0, 1.0, 1.0]),
        ("sequence", "truncate", [1.5, 1.5, 1.5], [1.0, 1.0, 1.0]),
        ("sequence", "mask", [1.5, 1.5, 1.5], [1.0, 1.0, 1.0]),
    ],
)
def test_correction_on_paper(level, action, first, second):
    old = torch.log(torch.tensor([[3.0, 1.0, 0.5], [5.0, 5.0, 5.0]]))
    behaviour = torch.stack([torch.zeros(3), torch.full((3,), NAN)])  # a given text has no behaviour
    weight = RolloutCorrection(level=level, action=action, cap=2.0)(old, behaviour, torch.ones(2, 3).long())
    assert weight[0].tolist() == pytest.approx(first) and weight[1].tolist() == second


def test_without_the_samplers_probabilities_nothing_is_corrected_silently():
    settings = algorithm(rollout_correction=RolloutCorrection())
    made = rollouts([1.0, 0.0, 1.0, 0.0]).with_(logp={"old": torch.zeros(4, 4)})
    assert weighting.compute_advantages(settings, made).token_weight_NT[0].tolist() == pytest.approx(
        [math.exp(0.1)] * 4
    )
    with pytest.raises(
        UserError, match="grpo.rollout_correction needs the sampler's log-probabilities; use rollout=prefix"
    ):
        weighting.compute_advantages(settings, made.with_(behaviour_logp_NT=None))


def test_a_kl_term_in_the_reward_charges_the_sum():
    old, ref, mask = torch.full((2, 3), -1.0), torch.full((2, 3), -1.5), torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert RewardKL(0.1).penalty(old, ref, mask).sum(1).tolist() == pytest.approx([0.15, 0.05])


# --- schedules ----------------------------------------------------------------------------------------------------------


def test_schedules_on_paper():
    ramp = Ramp(start=1.0, end=0.0, begin=0.2, until=0.6)
    assert [ramp(step, 11) for step in (0, 2, 4, 6, 10)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert (
        Ramp(0.0, 2.0, shape="cosine")(5, 11) == pytest.approx(1.0)
        and Ramp(0.0, 2.0, shape="cosine")(2, 11) < 0.4
    )
    assert Sigmoid(2.0, 30.0, 40.0)(40, 60) == pytest.approx(1.0) and Sigmoid(2.0, 30.0, 40.0)(
        0, 60
    ) == pytest.approx(2.0)
    for bad in ({"shape": "sine"}, {"begin": 0.5, "until": 0.5}):
        with pytest.raises(UserError, match="schedule"):
            Ramp(0.0, 1.0, **bad)


def test_every_number_of_a_part_may_be_a_schedule():
    falling = Ramp(1.0, 0.0)
    part = {"loss": partial(max, clip_high=falling), "kl": ReferenceKL(falling), "list": [falling, 3]}
    half = resolve_schedules(part, 5, 11)
    assert (
        half["loss"].keywords == {"clip_high": 0.5}
        and half["kl"].coefficient == 0.5
        and half["list"] == [0.5, 3]
    )
    plain = {"loss": partial(max, clip_high=1.0), "kl": ReferenceKL(0.5)}
    assert resolve_schedules(plain, 5, 11) is plain
    with pytest.raises(UserError, match="coefficient=-1.0 is negative"):
        resolve_schedules(ReferenceKL(Ramp(1.0, -1.0)), 10, 11)


def test_a_schedule_becomes_a_part_that_checks_itself():
    half = resolve_schedules(
        {
            "n": ViewSpec(Ramp(2, 5)),
            "cap": RolloutCorrection(cap=Ramp(3.0, 1.0)),
            "overlong": Overlong(10, share=Ramp(0.2, 0.4)),
        },
        5,
        11,
    )
    assert (half["n"].n, half["cap"].cap, half["overlong"].share) == (
        4,
        2.0,
        pytest.approx(0.3),
    )  # 3.5 completions are four
    for part, said in (
        (ViewSpec(Ramp(2, 0)), "n=0"),
        (RolloutCorrection(cap=Ramp(2.0, 0.0)), "cap=0"),
        (Overlong(9, Ramp(0.5, 0.0)), "share=0"),
    ):
        with pytest.raises(UserError, match=said):
            resolve_schedules(part, 10, 11)


# --- auxiliary losses ---------------------------------------------------------------------------------------------------


def test_auxiliary_losses_mark_their_own_tokens():
    made = rollouts([1.0, 0.0, 1.0, 0.0], lengths=[1, 2, 3, 4], origin_N=torch.tensor([0, 1, 0, 1]))
    tokens = lambda loss: columns.call_with_columns(loss.tokens, made)  # noqa: E731
    assert tokens(SFTLoss(1.0)).sum(1).tolist() == [0, 2, 0, 4]
    assert tokens(SFTLoss(1.0, rows="correct")).sum(1).tolist() == [1, 0, 3, 0]
    assert (
        tokens(ReferenceKL(1.0)).equal(made.mask_NT)
        and EntropyBonus(1.0).needs == ("entropy",)
        and PerceptionKL(1.0, view="v").needs == ("v",)
    )


# --- views, plans, tasks, selectors, samplers, hooks --------------------------------------------------------------------


@pytest.mark.parametrize("view", [Blackened(), Noisy()])
def test_a_view_keeps_the_size_draws_once_and_at_strength_0_changes_nothing(view):
    image = Image.fromarray(np.random.default_rng(0).integers(1, 256, (60, 45, 3), dtype=np.uint8))
    problem = Problem("p", "?", "1", (image,))
    (same,) = apply_view(problem, view, 0.0, 3).images
    (once,), (twice,) = (apply_view(problem, view, 0.7, 3).images for _ in range(2))
    assert (
        same.tobytes() == image.tobytes()
        and once.tobytes() == twice.tobytes() != image.tobytes()
        and once.size == image.size
    )
    (other,) = apply_view(problem, view, 0.7, 4).images
    assert other.tobytes() != once.tobytes()


def test_blackened_hits_whole_patches():
    image = Image.new("RGB", (56, 42), (9, 9, 9))
    pixels = np.asarray(Blackened(14)(image, np.random.default_rng(0), 0.5))[..., 0].reshape(3, 14, 4, 14)
    per_patch = pixels.transpose(0, 2, 1, 3).reshape(12, -1)
    assert all(len(set(patch)) == 1 for patch in per_patch) and 0 < (per_patch[:, 0] == 0).sum() < 12
    with pytest.raises(UserError, match="a view keeps the size"):
        apply_view(
            Problem("p", "?", "1", (image,)), lambda image, rng, strength: image.resize((10, 10)), 1.0, 0
        )


def test_task_builders_know_their_answer():
    problem = figures.generate_figures(1, split="train", seed=1)[0]
    (turned,) = self_made_tasks.rotation_task(problem, random.Random(3))
    first, second = turned.images
    assert (
        second.tobytes() == first.rotate(int(turned.answer), expand=True).tobytes()
        and len(turned.images) == 2
    )
    assert turned.id == problem.id  # a sampler hears of it
    asked, check = self_made_tasks.add_perception_task(problem, random.Random(0))
    assert asked is problem and check.meta["parent"] == problem.id
    assert check.answer == str(problem.meta["values"][check.question.split()[-1].rstrip("?")])
    with pytest.raises(UserError, match="no caption with values"):
        self_made_tasks.add_perception_task(Problem("p", "?", "1"), random.Random(0))


def test_selectors_read_levels_and_numbers_of_meta():
    problems = [
        Problem(str(n), "?", "1", level=n % 3, meta={"pass_rate": n / 4} if n < 4 else {}) for n in range(5)
    ]
    middle = selection.filter_problems(
        problems, partial(selection.keep_between, column="pass_rate", low=0.2, high=0.6)
    )
    assert [p.id for p in middle] == ["1", "2"]
    assert [
        p.id
        for p in selection.filter_problems(
            problems, partial(selection.keep_highest, column="pass_rate", amount=2)
        )
    ] == ["2", "3"]
    assert len(selection.filter_problems(problems, None)) == 5
    with pytest.raises(
        UserError, match=r"names column 'passrate'; the problems have \['level', 'pass_rate'\]"
    ):
        selection.filter_problems(problems, partial(selection.keep_between, column="passrate"))
    with pytest.raises(UserError, match="keeps none of 5 problems"):
        selection.filter_problems(problems, partial(selection.keep_between, column="level", low=9))


def test_the_largest_group_and_draw_of_a_plan():
    noisy, compared = ViewSpec(Ramp(6, 1)), ViewSpec(9, train=False)
    for plan, group, draw in (
        (MultiViewPlan(), 4, 4),
        (MultiViewPlan({"noisy": noisy}), 10, 6),
        (MultiViewPlan({"noisy": noisy, "compared": compared}), 10, 9),
        (MultiViewPlan({"more": ViewSpec(Ramp(1, 7))}, texts=inject_gold_answer), 12, 7),
    ):
        assert (largest_group(plan, 4, 20), largest_draw(plan, 4, 20)) == (group, draw)


@pytest.mark.parametrize("kind", [sampler.Shuffled, sampler.EasyFirst, sampler.NearHalf])
def test_a_sampler_continues_from_its_state(kind):
    problems = [Problem(str(n), "?", "1", level=1 + n // 4) for n in range(12)]
    whole = kind(problems, 5)
    accuracy = {"3": 1.0, "4": 0.5}
    first = whole.next(4, 0)
    whole.observe(accuracy)
    state, second = whole.state_dict(), whole.next(4, 1)
    cut = kind(problems, 5)
    cut.load_state_dict(state)
    assert cut.next(4, 1) == second and len({p.id for p in first}) == 4


def test_samplers_choose_what_they_say():
    problems = [Problem(str(n), "?", "1", level=3 - n // 4) for n in range(12)]
    easy = sampler.EasyFirst(problems, 0)
    assert [{p.level for p in easy.next(4, step)} for step in range(4)] == [{1}, {2}, {3}, {1}]
    near = sampler.NearHalf(problems, 0, floor=1e-9)
    near.observe({str(n): float(n % 2) for n in range(10)})  # all right or all wrong: only 10 and 11 are left
    assert {p.id for p in near.next(2, 0)} == {"10", "11"}


def test_accuracy_is_the_policys_own():
    """Given texts and rows that are only compared with are in no problem's share of correct answers."""
    given, compared = Origin.INJECTED, Origin.REWARD_ONLY
    made = rollouts(
        [0.0, 1.0, 1.0, 1.0, 0.0, 0.0], origin_N=torch.tensor([0, given, compared, 0, 0, compared])
    )
    assert columns.call_with_columns(lambda correct_N: correct_N, made).isnan().tolist() == [
        False,
        True,
        True,
        False,
        False,
        True,
    ]
    band = partial(keep_accuracy_band, low=0.1, high=0.9)
    assert (
        columns.call_with_columns(band, made).tolist() == [False] * 3 + [True] * 3
    )  # shares 0 / 1 and 1 / 2
    assert accuracies(made) == {"p0": 0.0, "p1": 0.5}
    nobody = rollouts([1.0, 1.0], origin_N=torch.tensor([given, 0]))
    assert accuracies(nobody) == {"p1": 1.0} and columns.call_with_columns(band, nobody).tolist() == [
        False,
        False,
    ]


def test_columns_are_given_by_name_and_unknown_ones_are_told():
    made = rollouts([1.0, 0.0, 1.0, 0.0], lengths=[1, 2, 3, 4])

    def mine(length_N, correct_N, level_N, problems, *, weight=2.0):
        return weight * length_N * correct_N + level_N, [problem.id for problem in problems]

    value, names = columns.call_with_columns(mine, made)
    assert value.tolist() == [3, 1, 8, 2] and names == ["p0", "p0", "p1", "p1"]
    with pytest.raises(
        UserError, match=r"grpo.group_filter asks for \['rewrd_N'\]; its parameters may be reward_N"
    ):
        columns.check_requested_columns("grpo.group_filter", lambda rewrd_N: rewrd_N)


def test_a_hook_counts_distinct_answers():
    made = rollouts([1.0, 0.0, 1.0, 0.0])
    said = ["<think>a</think>5", "<think>b</think>5", "6", "7"]
    completions = tuple(replace(c, text=text) for c, text in zip(made.completions, said, strict=True))
    assert columns.call_with_columns(distinct_answers, made.with_(completions=completions)) == 0.75

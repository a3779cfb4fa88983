"""Every advantage, loss and aggregate: numbers on paper, a slow twin on random ragged batches, gradients by autograd."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from openvlt.grpo.parts import advantage, loss, loss_aggregation
from openvlt.grpo.parts.group_filter import drop_zero_variance_groups, keep_accuracy_band
from openvlt.grpo.parts.traits import has_trait
from openvlt.types import Totals
from tests.helpers import slow_twins as slow

NAN = float("nan")
LENGTHS = [3, 5, 1, 4, 2, 6, 3, 2, 5, 1]
GROUPS = [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]
MASK = (torch.arange(6) < torch.tensor(LENGTHS)[:, None]).long()


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rows(tensor: Tensor) -> list[list[float]]:
    """The valid tokens of each completion."""
    return [
        row[:length] for row, length in zip(tensor.expand(len(LENGTHS), 6).tolist(), LENGTHS, strict=True)
    ]


def same(tensor: Tensor, expected: list) -> None:
    """Equal to 1e-10; a nested list is compared on valid tokens, padding must be 0."""
    if isinstance(expected[0], list):
        assert (tensor.expand(len(LENGTHS), 6) * (1 - MASK)).abs().max() == 0
        tensor, expected = doubles(*sum(rows(tensor), [])), sum(expected, [])
    assert tensor.tolist() == pytest.approx(expected, rel=1e-10, abs=1e-10)


# --- advantages ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=range(4))
def case(request) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards (every other case with NaN), shuffled ragged groups, penalties per token."""
    rng = torch.Generator().manual_seed(request.param)
    reward = torch.randn(10, generator=rng, dtype=torch.float64)
    if request.param % 2:
        reward[torch.randperm(10, generator=rng)[:3]] = NAN
    penalty = torch.randn(10, 6, generator=rng, dtype=torch.float64) * MASK
    return reward, torch.tensor(GROUPS)[torch.randperm(10, generator=rng)], penalty


def test_advantages_equal_their_slow_twins(case):
    reward, group, penalty = case
    values, groups = reward.tolist(), group.tolist()
    for eps in (1e-6, 0.1):
        same(advantage.normalise_by_group(reward, group, eps=eps), slow.grpo(values, groups, eps))
        same(advantage.normalise_by_batch(reward, group, eps=eps), slow.batch_normalised(values, groups, eps))
    same(advantage.centre_by_group(reward, group), slow.dr_grpo(values, groups))
    same(advantage.leave_one_out(reward, group), slow.rloo(values, groups))
    same(
        advantage.reinforce_pp_baseline(reward, group, MASK),
        slow.reinforce_pp_baseline(values, groups, LENGTHS),
    )
    for discount in (1.0, 0.9):
        same(
            advantage.reinforce_pp(reward, penalty, MASK, discount=discount),
            slow.reinforce_pp(values, rows(penalty), discount),
        )


def test_gdpo_equals_its_slow_twin(case):
    reward, group, penalty = case
    terms, weights = {"a": reward, "b": penalty.sum(1), "c": reward * 100}, {"a": 1.0, "b": 0.5, "c": 2.0}
    expected = slow.gdpo({name: term.tolist() for name, term in terms.items()}, weights, group.tolist(), 1e-4)
    same(advantage.gdpo(terms, weights, group), expected)


def test_advantages_on_paper():
    reward, group = doubles(1, 0, 0, 0, 3, 1), torch.tensor([0, 0, 0, 0, 1, 1])
    assert advantage.leave_one_out(reward, group).tolist() == pytest.approx(
        [1, -1 / 3, -1 / 3, -1 / 3, 2, -2]
    )
    # all six: mean 5/6, variance (1/6)(...) = 1.3666 unbiased
    std = math.sqrt(sum((r - 5 / 6) ** 2 for r in (1, 0, 0, 0, 3, 1)) / 5)
    assert advantage.normalise_by_batch(reward, group, eps=0).tolist() == pytest.approx(
        [a / std for a in (0.75, -0.25, -0.25, -0.25, 1, -1)]
    )
    two, mask = doubles(1, 0), torch.tensor([[1, 1], [1, 0]])
    # returns 1, 1, 0: mean 2/3, unbiased variance 1/3
    made = advantage.reinforce_pp(two, torch.zeros(2, 2), mask)
    assert made.flatten().tolist() == pytest.approx(
        [1 / math.sqrt(3), 1 / math.sqrt(3), -2 / math.sqrt(3), 0], rel=1e-6
    )


def test_a_reward_that_does_not_apply_is_outside_the_baseline():
    reward, group = doubles(1, 0, NAN, 1, NAN, NAN), torch.tensor([0, 0, 0, 1, 1, 2])
    for made in (advantage.centre_by_group(reward, group), advantage.leave_one_out(reward, group) / 2):
        assert made.tolist() == [0.5, -0.5, 0, 0, 0, 0]
    assert advantage.normalise_by_group(reward, group, eps=0.0)[:3].tolist() == pytest.approx(
        [math.sqrt(0.5), -math.sqrt(0.5), 0]
    )
    assert drop_zero_variance_groups(reward, group).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("size", [1, 2, 7, 12])
@pytest.mark.parametrize("value", [0.0, 0.7, -0.9])
def test_equal_rewards_have_no_advantage_whatever_the_estimator(value: float, size: int):
    reward, group = torch.full((size,), value), torch.zeros(size, dtype=torch.long)
    mask = torch.ones(size, 3).long()
    for made in (
        advantage.normalise_by_group(reward, group),
        advantage.centre_by_group(reward, group),
        advantage.leave_one_out(reward, group),
        advantage.normalise_by_batch(reward, group),
        advantage.reinforce_pp_baseline(reward, group, mask),
        advantage.reinforce_pp(reward, torch.zeros(size, 3), mask),
        advantage.gdpo({"a": reward}, {"a": 1.0}, group),
    ):
        assert made.dtype == torch.float32 and made.abs().max().item() <= 1e-6


def test_scaling_the_reward_matters_only_without_a_standard_deviation():
    reward, group = doubles(1, 0, 0, 2, 1, 0), torch.tensor([0, 0, 0, 1, 1, 1])
    weight = doubles(1, 1, 1, 5, 5, 5)
    exact = partial(advantage.normalise_by_group, eps=0.0)
    assert exact(reward * weight, group).tolist() == pytest.approx(exact(reward, group).tolist())
    centred = advantage.centre_by_group(reward * weight, group)
    assert centred.tolist() == pytest.approx((advantage.centre_by_group(reward, group) * weight).tolist())


def test_the_accuracy_band_keeps_groups_between_its_bounds():
    correct = doubles(1, 1, 1, 0, 0, 0, 1, 0, 0, 0)
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    assert keep_accuracy_band(correct, group).tolist() == [False] * 5 + [True] * 5
    assert (
        not keep_accuracy_band(correct, group, low=0.25).any()
        and keep_accuracy_band(correct, group, low=0.0, high=1.0).all()
    )


# --- losses -------------------------------------------------------------------------------------------------------------

LOSSES = [
    (loss.clipped_surrogate, slow.clipped_surrogate, {}),
    (loss.clipped_surrogate, slow.clipped_surrogate, {"clip_low": 0.1, "clip_high": 0.28, "dual": 1.5}),
    (loss.gspo, slow.gspo, {}),
    (loss.gspo, slow.gspo, {"clip_low": 0.1, "clip_high": 0.2}),
    (loss.gspo_token, slow.gspo, {"clip_low": 0.1, "clip_high": 0.2}),
    (loss.sequence_surrogate, slow.sequence_surrogate, {}),
    (loss.cispo, slow.cispo, {"ratio_low": 0.9, "ratio_high": 1.3}),
    (loss.cispo, slow.cispo, {}),
    (loss.sapo, slow.sapo, {}),
    (loss.policy_gradient, slow.policy_gradient, {}),
]
NAMES = [f"{function.__name__}-{len(settings)}" for function, _, settings in LOSSES]


def tensors(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """New and old log-probabilities, up to 0.6 apart, and an advantage per completion."""
    rng = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(10, 6, generator=rng, dtype=torch.float64)
    new = old + 1.2 * (torch.rand(10, 6, generator=rng, dtype=torch.float64) - 0.5)
    return new, old, torch.randn(10, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize(("function", "twin", "settings"), LOSSES, ids=NAMES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per_token", [False, True])
def test_losses_equal_their_slow_twins(function, twin, settings, seed: int, per_token: bool):
    new, old, adv_N = tensors(seed)
    adv = tensors(seed + 9)[0] + 1.5 if per_token else adv_N[:, None]
    made = function(new, old, adv, MASK, **settings)
    assert made.shape == ((10, 1) if has_trait(function, "sequence_level") and not per_token else (10, 6))
    expected = [twin(*each, **settings) for each in zip(rows(new), rows(old), rows(adv), strict=True)]
    same(made * MASK, expected)


# CISPO's and GSPO-token's values aren't what they differentiate: their slopes are written down below
@pytest.mark.parametrize(
    ("function", "twin", "settings"),
    [each for each in LOSSES if each[0] not in (loss.cispo, loss.gspo_token)],
)
def test_gradients_equal_finite_differences(function, twin, settings):
    new, old, adv = tensors(4)
    new = new.requires_grad_()

    def total(logp: Tensor) -> Tensor:
        return (function(logp, old, adv[:, None], MASK, **settings) * MASK).sum()

    (slope,) = torch.autograd.grad(total(new), new)
    step = 1e-6 * torch.eye(60, dtype=torch.float64).view(60, 10, 6)
    with torch.no_grad():
        numeric = torch.stack([(total(new + s) - total(new - s)) / 2e-6 for s in step]).view(10, 6)
    assert (slope - numeric).abs().max() < 1e-6


def test_gradients_that_can_be_written_down():
    new, old, adv = tensors(5)
    leaf, rho = new.clone().requires_grad_(), (new - old).exp()
    adv_N1 = adv[:, None]

    def slope(function, **settings) -> Tensor:
        return torch.autograd.grad((function(leaf, old, adv_N1, MASK, **settings) * MASK).sum(), leaf)[0]

    torch.testing.assert_close(slope(loss.policy_gradient), -adv_N1 * MASK)
    torch.testing.assert_close(
        slope(loss.cispo, ratio_low=0.9, ratio_high=1.3), -rho.clamp(0.9, 1.3) * adv_N1 * MASK
    )
    tau = torch.where(adv_N1 > 0, 1.0, 1.05)
    gate = (tau * (rho - 1)).sigmoid()
    torch.testing.assert_close(slope(loss.sapo), -adv_N1 * 4 * gate * (1 - gate) * rho * MASK)
    # without a clip in reach: GSPO's is s A / |o| at every token, its token form's s A, a whole completion's rho A
    wide = {"clip_low": 9.0, "clip_high": 9.0}
    mean = loss.mean_over_tokens(new - old, MASK).exp()
    length = MASK.sum(1, keepdim=True)
    torch.testing.assert_close(
        slope(loss.gspo, **wide), -mean * adv_N1 * MASK
    )  # summed over |o| tokens of one value
    torch.testing.assert_close(slope(loss.gspo_token, **wide), -mean * adv_N1 * MASK)
    whole = ((new - old) * MASK).sum(1, keepdim=True).exp()
    torch.testing.assert_close(slope(loss.sequence_surrogate, **wide), -whole * adv_N1 * length * MASK)


@pytest.mark.parametrize(("function", "twin", "settings"), LOSSES, ids=NAMES)
def test_old_equal_new_gives_the_policy_gradient(function, twin, settings):
    """Ratio 1 everywhere: every loss has REINFORCE's gradient (a completion's loss counted once: through its mean)."""
    new, _, adv = tensors(6)
    leaf = new.clone().requires_grad_()
    per_token = has_trait(function, "sequence_level")
    value = function(leaf, leaf.detach(), adv[:, None], MASK, **settings)
    total = value.sum() if per_token else (value * MASK).sum()
    (slope,) = torch.autograd.grad(total, leaf)
    scale = 1 / MASK.sum(1, keepdim=True) if function is loss.gspo else 1
    torch.testing.assert_close(slope, -adv[:, None] * MASK * scale)


def test_losses_on_paper():
    new, old, mask = doubles(0.5, -0.1).view(1, 2), torch.zeros(1, 2), torch.ones(1, 2)
    two = doubles(2).view(1, 1)
    assert loss.clipped_surrogate(new, old, two)[0, 0].item() == pytest.approx(-2.4, rel=1e-6)
    assert loss.clipped_surrogate(new, old, -two, dual=1.5)[0].tolist() == pytest.approx(
        [3.0, 2 * math.exp(-0.1)]
    )
    assert loss.gspo(new, old, two, mask, clip_high=1.0).item() == pytest.approx(-2 * math.exp(0.2))
    assert loss.gspo(new, old, two, mask).item() == pytest.approx(-2 * 1.0004)
    assert loss.sequence_surrogate(new, old, -two, mask).item() == pytest.approx(2 * math.exp(0.4))
    assert loss.cispo(new, old, two, ratio_high=1.2)[0].tolist() == pytest.approx(
        [-1.2 * 2 * 0.5, math.exp(-0.1) * 2 * 0.1]
    )
    assert loss.sapo(torch.zeros(1, 1), torch.zeros(1, 1), two).item() == pytest.approx(
        -4
    )  # sigmoid(0) = 1/2
    assert loss.policy_gradient(new, old, two)[0].tolist() == pytest.approx([-1.0, 0.2])


def test_clip_fraction_asks_the_loss_itself():
    old, mask = torch.zeros(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]])
    new = torch.log(torch.tensor([[1.5, 1.0, 0.5], [0.1, 1.0, 9.0]]))
    adv = torch.tensor([[1.0], [-1.0]])
    assert [int(n) for n in loss.clip_fraction(loss.clipped_surrogate, new, old, adv, mask, 1)] == [1, 1]
    assert [int(n) for n in loss.clip_fraction(loss.gspo, new, old, adv, mask, 1)] == [
        2,
        0,
    ]  # s = .32: all of the second; .75^(1/3) stays
    assert [int(n) for n in loss.clip_fraction(loss.cispo, new, old, adv, mask, 1)] == [0, 0]
    very = torch.full((2, 3), 3.0)
    dual = partial(loss.clipped_surrogate, dual=3.0)
    assert [int(n) for n in loss.clip_fraction(dual, very, old, adv, mask, 1)] == [2, 3]


# --- aggregates ---------------------------------------------------------------------------------------------------------

AGGREGATES = [
    (loss_aggregation.token_mean, slow.token_mean),
    (loss_aggregation.sequence_mean, slow.sequence_mean),
    (loss_aggregation.sequence_sum, slow.sequence_sum),
    (partial(loss_aggregation.constant_length, length=17), partial(slow.constant_length, length=17)),
]


@pytest.mark.parametrize(("function", "twin"), AGGREGATES)
def test_aggregates_equal_their_slow_twins_and_add_up_over_any_split(function, twin):
    value, _, _ = tensors(7)
    totals = Totals(tokens=40, sequences=12)
    whole = function(value, MASK, totals).item()
    assert whole == pytest.approx(twin(rows(value), 40, 12), rel=1e-10)
    for cuts in ([1] * 10, [4, 6], [2, 3, 5]):
        parts = zip(value.split(cuts), MASK.split(cuts), strict=True)
        assert sum(function(*part, totals).item() for part in parts) == pytest.approx(whole, rel=1e-12)
    wider = torch.cat([value, torch.full((10, 3), 77.0)], 1), torch.cat([MASK, torch.zeros(10, 3).long()], 1)
    assert function(*wider, totals).item() == pytest.approx(whole, rel=1e-12)


def test_aggregates_on_paper():
    value, mask = doubles(2, 4, 9, 6).view(2, 2), torch.tensor([[1, 1], [1, 0]])
    totals = Totals(tokens=3, sequences=2)
    assert loss_aggregation.token_mean(value, mask, totals).item() == pytest.approx(5)
    assert loss_aggregation.sequence_mean(value, mask, totals).item() == pytest.approx((3 + 9) / 2)
    assert loss_aggregation.sequence_sum(value, mask, totals).item() == pytest.approx(15 / 2)
    assert loss_aggregation.constant_length(value, mask, totals, length=10).item() == pytest.approx(15 / 20)


def test_one_value_per_completion_counts_once_under_the_sequence_mean():
    value = doubles(2, 5).view(2, 1)
    assert loss_aggregation.sequence_mean(
        value, torch.tensor([[1, 1], [1, 0]]), Totals(3, 2)
    ).item() == pytest.approx(3.5)

"""GRPO's pure functions against numbers one can do on paper and against slow loops in float64."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from openvlt.grpo.parts.advantage import centre_by_group, group_mean, group_sizes, normalise_by_group
from openvlt.grpo.parts.group_filter import drop_zero_variance_groups, keep_all_groups
from openvlt.grpo.parts.kl import k3
from openvlt.grpo.parts.loss import clip_fraction, clipped_surrogate
from openvlt.grpo.parts.loss_aggregation import sequence_mean, token_mean
from openvlt.types import Totals

RAGGED = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3])


def surrogate(ratio: float, advantage: float, **clip: float) -> float:
    logp = torch.tensor([[math.log(ratio) - 1.0]], dtype=torch.float64)
    old = torch.full_like(logp, -1.0)
    return clipped_surrogate(logp, old, torch.tensor([[advantage]], dtype=torch.float64), **clip).item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (math.exp(0.5), 2.0, -2.4),  # above the clip, wanted: held at 1.2 x 2
        (math.exp(0.5), -2.0, 2 * math.exp(0.5)),  # above the clip, unwanted: not clipped
        (math.exp(-0.5), 2.0, -2 * math.exp(-0.5)),  # below the clip, wanted: not clipped
        (math.exp(-0.5), -2.0, 1.6),  # below the clip, unwanted: held at 0.8 x 2
        (1.1, 2.0, -2.2),
        (1.0, -3.0, 3.0),
        (5.0, 0.0, 0.0),
    ],
)
def test_surrogate_is_ppos_on_paper(ratio: float, advantage: float, loss: float):
    assert surrogate(ratio, advantage) == pytest.approx(loss, rel=1e-6)


def test_clip_sides_are_separate():
    assert surrogate(2.0, 1.0, clip_low=0.2, clip_high=0.28) == pytest.approx(-1.28)
    assert surrogate(0.1, -1.0, clip_low=0.4, clip_high=0.28) == pytest.approx(0.6)


def test_surrogate_gradient_is_ratio_times_advantage_or_nothing():
    logp = torch.log(torch.tensor([[1.1, 1.5], [0.5, 1.5], [0.5, 0.9]], dtype=torch.float64)).requires_grad_()
    adv = torch.tensor([2.0, -1.0, 3.0], dtype=torch.float64)
    clipped_surrogate(logp, torch.zeros_like(logp), adv[:, None]).sum().backward()
    torch.testing.assert_close(
        logp.grad, torch.tensor([[-2.2, 0.0], [0.0, 1.5], [-1.5, -2.7]], dtype=torch.float64)
    )


def test_old_equal_new_gives_ratio_one_and_policy_gradient():
    logp = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    adv = torch.tensor([1.5, -0.5, 0.0], dtype=torch.float64)
    loss = clipped_surrogate(logp, logp.detach(), adv[:, None])
    assert torch.equal(loss.detach(), -adv[:, None].expand(3, 4))
    loss.sum().backward()
    assert torch.equal(logp.grad, -adv[:, None].expand(3, 4))


def test_clip_fraction_counts_tokens_whose_gradient_is_gone():
    ratio = torch.tensor(
        [[1.3, 0.7, 1.0, 1.3], [1.3, 0.7, 0.7, 0.7], [9.0, 0.1, 9.0, 0.1]], dtype=torch.float64
    )
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    adv = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    logp, old = ratio.log().requires_grad_(), torch.zeros_like(ratio)
    low, high = clip_fraction(clipped_surrogate, logp, old, adv[:, None], mask, 1)
    assert (low.item(), high.item()) == (2, 1)
    low, high = clip_fraction(
        clipped_surrogate, logp, old, adv[:, None], mask, 8
    )  # shares of the step's tokens
    assert (low.item(), high.item()) == (2 / 8, 1 / 8)
    (clipped_surrogate(logp, old, adv[:, None]) * mask).sum().backward()
    gone = (logp.grad == 0) & mask.bool() & (adv != 0)[:, None]
    assert int(gone.sum()) == 3


def test_k3_on_paper():
    logp = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([[-1.0, -2.0 + math.log(2), -0.5 - math.log(4)]], dtype=torch.float64)
    kl = k3(logp, ref)
    assert kl[0].tolist() == pytest.approx([0.0, 2 - math.log(2) - 1, 0.25 + math.log(4) - 1], abs=1e-12)
    kl.sum().backward()
    assert logp.grad[0].tolist() == pytest.approx([0.0, 1 - 2, 1 - 0.25], abs=1e-12)  # 1 - ref/policy


def test_k3_is_unbiased_and_never_negative():
    policy, ref = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)
    each = k3(policy.log()[None], ref.log()[None])[0]
    assert (each > 0).all()
    assert (policy * each).sum().item() == pytest.approx(
        (policy * (policy / ref).log()).sum().item(), rel=1e-12
    )


def slow_advantages(rewards: list[float], groups: list[int], eps: float | None) -> list[float]:
    result = []
    for reward, group in zip(rewards, groups, strict=True):
        siblings = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        centred = reward - statistics.fmean(siblings)
        spread = statistics.stdev(siblings) if len(siblings) > 1 else 0.0
        result.append(centred if eps is None else centred / (spread + eps))
    return result


@pytest.mark.parametrize("seed", range(3))
def test_advantages_equal_a_slow_loop_on_ragged_shuffled_groups(seed: int):
    rng = torch.Generator().manual_seed(seed)
    reward = torch.randn(len(RAGGED), generator=rng, dtype=torch.float64)
    group = RAGGED[torch.randperm(len(RAGGED), generator=rng)]
    for eps in (1e-6, 0.1):
        slow = slow_advantages(reward.tolist(), group.tolist(), eps)
        assert normalise_by_group(reward, group, eps=eps).tolist() == pytest.approx(slow, abs=1e-12)
        single = normalise_by_group(reward.float(), group, eps=eps)
        assert single.dtype == torch.float32 and single.tolist() == pytest.approx(slow, abs=2e-5)
    assert centre_by_group(reward, group).tolist() == pytest.approx(
        slow_advantages(reward.tolist(), group.tolist(), None), abs=1e-12
    )


def test_normalised_advantage_on_paper():
    reward, group = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    # four rewards: mean .25, unbiased std .5; two rewards: mean .5, unbiased std 1/sqrt(2)
    expected = [1.5, -0.5, -0.5, -0.5, math.sqrt(0.5), -math.sqrt(0.5)]
    assert normalise_by_group(reward, group, eps=0.0).tolist() == pytest.approx(expected, rel=1e-6)
    assert centre_by_group(reward, group).tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25, 0.5, -0.5])
    assert group_sizes(group).tolist() == [4, 4, 4, 4, 2, 2]
    assert group_mean(reward, group).tolist() == pytest.approx([0.25] * 4 + [0.5] * 2)


@pytest.mark.parametrize(
    ("value", "size"), [(0.0, 8), (1.0, 7), (0.5, 3), (0.7, 1), (0.1, 8), (0.7, 12), (-0.9, 3)]
)
def test_equal_rewards_have_no_advantage(value: float, size: int):
    """Also where the float32 mean of equal values isn't that value: rounding divided by a standard deviation of 0 is no signal."""
    reward, group = torch.full((size,), value), torch.zeros(size, dtype=torch.long)
    assert normalise_by_group(reward, group).abs().max().item() == 0.0
    assert centre_by_group(reward, group).abs().max().item() <= 1e-6


def test_groups_of_equal_rewards_are_dropped_whole():
    reward = torch.tensor([1.0, 1.0, 1.0, 0.3, 0.0, 0.0, 1.0, 0.0, 0.3, 0.3])
    kept = drop_zero_variance_groups(reward, RAGGED)
    assert kept.tolist() == [False] * 4 + [True] * 4 + [False] * 2
    order = torch.tensor([9, 4, 0, 7, 3, 1, 8, 5, 2, 6])
    assert torch.equal(drop_zero_variance_groups(reward[order], RAGGED[order]), kept[order])
    assert keep_all_groups(RAGGED).all()


def test_means_name_their_denominator():
    loss = torch.tensor([[2.0, 4.0, 100.0], [1.0, 100.0, 100.0], [3.0, 3.0, 6.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    totals = Totals(tokens=6, sequences=3)
    assert token_mean(loss, mask, totals).item() == pytest.approx(19 / 6)
    assert sequence_mean(loss, mask, totals).item() == pytest.approx((3 + 1 + 4) / 3)
    twice = Totals(tokens=12, sequences=6)  # the same rows as half of a larger step
    assert token_mean(loss, mask, twice).item() == pytest.approx(19 / 12)
    assert sequence_mean(loss, mask, twice).item() == pytest.approx(8 / 6)


@pytest.mark.parametrize("aggregate", [token_mean, sequence_mean])
def test_means_add_up_over_any_split_and_ignore_padding(aggregate):
    rng = torch.Generator().manual_seed(1)
    loss = torch.randn(6, 5, generator=rng, dtype=torch.float64)
    mask = (torch.arange(5) < torch.tensor([5, 1, 3, 2, 4, 5])[:, None]).long()
    totals = Totals(tokens=int(mask.sum()), sequences=6)
    whole = aggregate(loss, mask, totals)
    for cuts in ([1] * 6, [2, 4], [5, 1], [3, 3]):
        parts = zip(loss.split(cuts), mask.split(cuts), strict=True)
        assert sum(aggregate(*part, totals) for part in parts).item() == pytest.approx(
            whole.item(), rel=1e-12
        )
    padded = torch.cat([loss, torch.full((6, 3), 77.0)], 1), torch.cat([mask, torch.zeros(6, 3).long()], 1)
    assert aggregate(*padded, totals).item() == pytest.approx(whole.item(), rel=1e-12)

"""One decoding step by hand: four tokens, known draws, known cuts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from openvlt.rollout.base import Sampling, row_uniforms
from openvlt.rollout.sampling import next_tokens
from openvlt.types import Problem

FOUR = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
FREE = torch.zeros(4, dtype=torch.bool)


def draw(uniform: list[float], sampling: Sampling = Sampling(), logits=FOUR, banned=FREE) -> list[int]:  # noqa: B008
    rows = logits.expand(len(uniform), -1)
    return next_tokens(rows, torch.tensor(uniform, dtype=torch.float64), banned, sampling)[0].tolist()


def test_draws_invert_the_cumulative_distribution():
    # cumulative: .1 .5 .7 1
    assert draw([0.0, 0.09, 0.11, 0.49, 0.51, 0.69, 0.71, 0.999]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_top_k_keeps_the_k_likeliest():
    # k = 2 leaves tokens 1 (.4) and 3 (.3): cumulative 4/7 and 1
    assert draw([0.0, 0.56, 0.58, 0.999], Sampling(top_k=2)) == [1, 1, 3, 3]
    assert draw([0.0, 0.5, 0.999], Sampling(top_k=1)) == [1, 1, 1]
    everything = [0.05, 0.3, 0.6, 0.9]
    assert (
        draw(everything, Sampling(top_k=4))
        == draw(everything, Sampling(top_k=9))
        == draw(everything)
        == [0, 1, 2, 3]
    )


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    # ranked .4 .3 .2 .1: p = .39 needs one token, .41 to .69 two, .71 three, .95 all
    assert draw([0.0, 0.999], Sampling(top_p=0.39)) == [1, 1]
    for p in (0.41, 0.69):
        assert draw([0.0, 0.56, 0.58, 0.999], Sampling(top_p=p)) == [1, 1, 3, 3]
    # three left in token order 1, 2, 3: cumulative 4/9, 6/9, 1
    assert draw([0.0, 0.43, 0.45, 0.66, 0.67, 0.999], Sampling(top_p=0.71)) == [1, 1, 2, 2, 3, 3]
    assert draw([0.05], Sampling(top_p=0.95)) == [0]


def test_top_k_comes_before_top_p():
    # k = 3 leaves .4 .3 .2 of .9; p = .75 of that: .4/.9 = .44, .7/.9 = .78 >= .75, so two are left
    assert draw([0.0, 0.56, 0.58, 0.999], Sampling(top_k=3, top_p=0.75)) == [1, 1, 3, 3]


def test_temperature_divides_the_logits():
    # squared: .01 .16 .04 .09 of .30 -> cumulative 1/30 17/30 21/30 1
    assert draw([0.03, 0.04, 0.56, 0.57, 0.69, 0.71], Sampling(temperature=0.5)) == [0, 1, 1, 2, 2, 3]


def test_bans_come_first_and_log_probabilities_include_them():
    banned = torch.tensor([False, True, False, False])  # .1 .2 .3 of .6 -> cumulative 1/6, 1/2, 1
    assert draw([0.0, 0.16, 0.17, 0.49, 0.51, 0.999], banned=banned) == [0, 0, 2, 2, 3, 3]
    tokens, logp = next_tokens(FOUR[None], None, banned, Sampling(greedy=True))
    assert tokens.item() == 3 and logp.item() == pytest.approx(math.log(0.5))
    tokens, logp = next_tokens(FOUR[None], torch.tensor([0.0]), banned, Sampling(temperature=0.5, top_k=1))
    assert tokens.item() == 3 and logp.item() == pytest.approx(
        math.log(9 / 14)
    )  # before top-k, after temperature and bans


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=3), Sampling(top_p=0.9), Sampling(temperature=0.3)]
)
def test_extreme_draws_never_pick_a_token_of_probability_zero(sampling: Sampling):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 50, generator=rng) * 3
    banned = torch.zeros(50, dtype=torch.bool)
    banned[[0, 1, 17, 48, 49]] = True
    for uniform in (0.0, 1 - 2.0**-53):
        tokens, logp = next_tokens(logits, torch.full((200,), uniform, dtype=torch.float64), banned, sampling)
        assert not banned[tokens].any() and torch.isfinite(logp).all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_frequencies_follow_the_softmax(temperature: float):
    """Pearson's chi-square over 20,000 draws on 12 tokens, two of them banned: 9 degrees of freedom, 99.99 % below 33.7."""
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3))
    banned = torch.zeros(12, dtype=torch.bool)
    banned[[4, 11]] = True
    draws = torch.from_numpy(np.random.default_rng(0).random(20_000))
    tokens, _ = next_tokens(logits.expand(20_000, -1), draws, banned, Sampling(temperature=temperature))
    share = torch.softmax((logits.double() / temperature).masked_fill(banned, -torch.inf), 0)
    seen, expected = torch.bincount(tokens, minlength=12)[~banned], 20_000 * share[~banned]
    assert int(seen.sum()) == 20_000
    assert ((seen - expected) ** 2 / expected).sum().item() < 33.7


def test_every_row_has_random_numbers_of_its_own():
    one, two = Problem("a", "?", ""), Problem("b", "?", "")
    sampling = Sampling(n=3, max_new_tokens=5)
    both = row_uniforms([one, two], sampling, seed=1)
    assert both.shape == (6, 5) and len({tuple(row) for row in both}) == 6
    assert np.array_equal(both[3:], row_uniforms([two], sampling, seed=1))  # batch mates don't matter
    assert np.array_equal(
        both[:2], row_uniforms([one], Sampling(n=2, max_new_tokens=5), seed=1)
    )  # nor how many siblings
    longer = row_uniforms([one, two], Sampling(n=3, max_new_tokens=9), seed=1)
    assert np.array_equal(both, longer[:, :5])  # nor the token limit
    assert not np.array_equal(both, row_uniforms([one, two], sampling, seed=2))
    many = row_uniforms([one], Sampling(n=4, max_new_tokens=5000), seed=0)
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many)[np.triu_indices(4, 1)]).max() < 0.05


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"max_new_tokens": 0},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="Sampling: .*" + next(iter(wrong))):
        Sampling(**wrong)


def test_large_vocabularies_are_inverted_block_by_block():
    """1,300 tokens, some of probability 0: the same token as the plain cumulative sum gives, also in the last, smaller block."""
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 1300, generator=rng, dtype=torch.float64)
    banned = torch.rand(1300, generator=rng) < 0.2
    banned[1280:], logits[0, 1299] = torch.arange(1280, 1300) < 1299, 2.0
    uniform = torch.cat(
        [
            torch.rand(400, generator=rng, dtype=torch.float64),
            torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64),
        ]
    )
    tokens, logp = next_tokens(logits.expand(402, -1), uniform, banned, Sampling())
    exact = logits[0].float().masked_fill(banned, -torch.inf).softmax(-1)
    expected = torch.searchsorted(
        exact.double().cumsum(-1), uniform * exact.double().sum(), right=True
    ).clamp(max=1299)
    assert (tokens == expected).float().mean() > 0.99  # float32 sums may move a border
    assert not banned[tokens].any() and tokens[-1] == 1299
    torch.testing.assert_close(logp, exact[tokens].log())

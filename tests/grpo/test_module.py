"""GRPOModule: however an optimiser step is cut, padded or ordered, its loss and every gradient are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.ops import micro_batches
from openvlt.grpo.module import GRPOModule
from openvlt.grpo.parts.auxiliary_losses import EntropyBonus, ReferenceKL
from openvlt.grpo.parts.loss import clipped_surrogate
from openvlt.grpo.parts.loss_aggregation import sequence_mean, token_mean
from openvlt.grpo.parts.rollout_correction import RolloutCorrection
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.trainer.module import add_logged
from openvlt.types import GRPOBatch, Prompts, Totals
from tests.helpers import factories
from tests.helpers.aside import aside
from tests.helpers.factories import algorithm, grpo_batch

LENGTHS = [3, 5, 1, 4, 2, 6, 3, 2, 5]
GROUPS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])
ADVANTAGES = torch.tensor([1.0, -0.5, -0.5, 0.7, -0.7, 1.2, 0.0, -1.2, 0.4], dtype=torch.float64)


def objective(aggregate, kl: float = 0.0, **clip: float) -> GRPO:
    """The paper's: a clipped surrogate and, with `kl`, k3."""
    return algorithm(loss=partial(clipped_surrogate, **clip), loss_aggregation=aggregate, kl=kl, steps=1)


def module(model: VLM, objective: GRPO, micro_batch: int, updates: int = 1) -> GRPOModule:
    return GRPOModule(model, replace(objective, micro_batch=micro_batch, **factories.updates(updates)))


@pytest.fixture
def double(fresh: Callable[..., VLM]) -> VLM:
    return fresh(torch.float64)


@pytest.fixture
def batch(double: VLM, mixed, render, ragged) -> GRPOBatch:
    """Nine rows of four ragged groups; stored log-probabilities off by up to 0.5, so that some tokens are clipped."""
    prompts, (ids, mask) = render(mixed), ragged(LENGTHS)
    with torch.no_grad():
        logp, _ = completion_logp(double, prompts, ids, mask, GROUPS)
    rng = torch.Generator().manual_seed(5)
    old, ref = ((logp + torch.rand(logp.shape, generator=rng) - 0.5) * mask for _ in range(2))
    totals = Totals(tokens=sum(LENGTHS) + 7, sequences=len(LENGTHS) + 2)  # dropped rows count too
    scored = dict(old_logp_NT=old, ref_logp_NT=ref, marks={"kl": mask}, mark_totals={"kl": totals})
    return grpo_batch(prompts, ids, mask, GROUPS, ADVANTAGES, totals, **scored)


def total(made: GRPOModule, batch: GRPOBatch) -> tuple[Tensor, dict[str, Tensor]]:
    loss, sums = torch.zeros((), dtype=torch.float64), {}
    for part in made.split(batch):
        share, logged = made.loss(part)
        loss = loss + share
        add_logged(sums, logged)
    return loss, sums


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("aggregate", [token_mean, sequence_mean])
def test_any_split_gives_the_same_loss_gradients_and_metrics(
    double, batch, gradients, same_gradients, aggregate, kl
):
    results = []
    for micro_batch in (1, 5, 1000):  # one group each; the first two groups together; all
        made = module(double, objective(aggregate, kl=kl), micro_batch)
        loss, sums = total(made, batch)
        results.append((loss.item(), gradients(double.model, loss), sums))
    assert [len(micro_batches(GROUPS, size)) for size in (1, 5, 1000)] == [4, 2, 1]
    assert results[0][2]["clipped_low"] > 0 and results[0][2]["clipped_high"] > 0
    for loss, grads, sums in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        same_gradients(results[0][1], grads, 1e-6)
        assert {name: float(value) for name, value in sums.items()} == pytest.approx(
            {name: float(value) for name, value in results[0][2].items()}, rel=1e-6
        )


def test_loss_is_the_formula_token_by_token(double, batch):
    """A slow twin: the paper's objective in plain Python over the scored log-probabilities."""
    goal = objective(sequence_mean, kl=0.3, clip_low=0.1, clip_high=0.3)
    loss, sums = total(module(double, goal, 5), batch)
    with torch.no_grad():
        logp, _ = completion_logp(double, batch.prompts, batch.ids_NT, batch.mask_NT, GROUPS)
    expected, kl = 0.0, 0.0
    for row, length in enumerate(LENGTHS):
        for place in range(length):
            new, old, ref = (t[row, place] for t in (logp, batch.old_logp_NT, batch.ref_logp_NT))
            ratio, a = (new - old).exp().item(), ADVANTAGES[row].item()
            k = (ref - new).exp().item() - (ref - new).item() - 1
            expected += (
                (-min(ratio * a, min(max(ratio, 0.9), 1.3) * a) + 0.3 * k) / length / batch.totals.sequences
            )
            kl += k / batch.totals.tokens
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert sums["kl"].item() == pytest.approx(kl, rel=1e-6)


def test_without_stored_log_probabilities_the_ratio_is_one(double, batch, gradients, same_gradients):
    on_policy = replace(batch, old_logp_NT=None)
    loss, sums = total(module(double, objective(token_mean), 4), on_policy)
    assert loss.item() == pytest.approx(
        -sum(a * n for a, n in zip(ADVANTAGES.tolist(), LENGTHS, strict=True)) / batch.totals.tokens
    )
    assert sums["clipped_low"] == 0 and sums["clipped_high"] == 0
    logp, _ = completion_logp(double, batch.prompts, batch.ids_NT, batch.mask_NT, GROUPS)
    reinforce = -(logp * ADVANTAGES[:, None] * batch.mask_NT).sum() / batch.totals.tokens
    same_gradients(gradients(double.model, loss), gradients(double.model, reinforce), 1e-6)


def test_padding_is_inert(double, batch, gradients, same_gradients):
    rows = len(LENGTHS)

    def right(tensor: Tensor, fill: float) -> Tensor:
        return torch.cat([tensor, torch.full((rows, 2), fill, dtype=tensor.dtype)], 1)

    def left(tensor: Tensor, fill: float) -> Tensor:
        return torch.cat([torch.full((len(batch.prompts), 3), fill, dtype=tensor.dtype), tensor], 1)

    prompts = batch.prompts
    wider = Prompts(
        left(prompts.ids_PL, 9),
        left(prompts.mask_PL, 0),
        left(prompts.token_type_PL, 0),
        prompts.images_P,
        prompts.vision,
    )
    padded = replace(
        batch,
        prompts=wider,
        ids_NT=right(batch.ids_NT, 11),
        mask_NT=right(batch.mask_NT, 0),
        weight_NT=right(batch.weight_NT, 0),
        counted_NT=right(batch.counted_NT, 0),
        old_logp_NT=right(batch.old_logp_NT, 50.0),
        ref_logp_NT=right(batch.ref_logp_NT, -50.0),
        marks={"kl": right(batch.mask_NT, 0)},
    )
    made = module(double, objective(sequence_mean, kl=0.1), 1000)
    one, other = (total(made, each)[0] for each in (batch, padded))
    assert other.item() == pytest.approx(one.item(), rel=1e-6)
    same_gradients(gradients(double.model, one), gradients(double.model, other), 1e-6)


def test_order_of_siblings_and_groups_is_irrelevant(double, batch, gradients, same_gradients):
    order = torch.tensor([2, 0, 1, 4, 3, 8, 6, 7, 5])
    places = torch.tensor([3, 1, 0, 2])  # prompts in another order as well
    shuffled = replace(
        batch,
        prompts=batch.prompts.select(places.tolist()),
        group_N=places.argsort()[GROUPS[order]],
        marks={"kl": batch.mask_NT[order]},
        **{
            name: getattr(batch, name)[order]
            for name in (
                "ids_NT",
                "mask_NT",
                "adv_NT",
                "weight_NT",
                "counted_NT",
                "old_logp_NT",
                "ref_logp_NT",
            )
        },
    )
    made = module(double, objective(token_mean, kl=0.1), 4)
    one, other = (total(made, each)[0] for each in (batch, shuffled))
    assert other.item() == pytest.approx(one.item(), rel=1e-6)
    same_gradients(gradients(double.model, one), gradients(double.model, other), 1e-6)


def test_zero_advantages_give_exactly_zero_gradient_without_kl(double, batch, gradients):
    silent = replace(batch, adv_NT=torch.zeros(len(LENGTHS), 1, dtype=torch.float64))
    loss, _ = total(module(double, objective(sequence_mean), 4), silent)
    assert loss.item() == 0 and all(
        value.abs().max() == 0 for value in gradients(double.model, loss).values()
    )
    with_kl, _ = total(module(double, objective(sequence_mean, kl=0.1), 4), silent)
    assert any(value.abs().max() > 0 for value in gradients(double.model, with_kl).values())


def test_logged_sums_are_what_they_say(double, batch):
    behaviour = batch.old_logp_NT - 0.25 * batch.mask_NT
    _, sums = total(module(double, objective(token_mean), 4), replace(batch, behaviour_logp_NT=behaviour))
    k3 = 2.718281828459045**0.25 - 0.25 - 1
    assert sums["mismatch_kl"].item() == pytest.approx(k3, rel=1e-6)
    with torch.no_grad():
        logp, entropy = completion_logp(double, batch.prompts, batch.ids_NT, batch.mask_NT, GROUPS)
    assert sums["entropy"].item() == pytest.approx(entropy.sum().item() / sum(LENGTHS), rel=1e-6)
    ratio, rows, adv = (logp - batch.old_logp_NT).exp(), batch.mask_NT.bool(), ADVANTAGES[:, None]
    assert sums["clipped_low"].item() == pytest.approx(
        ((ratio < 0.8) & rows & (adv < 0)).sum().item() / sum(LENGTHS)
    )
    assert sums["clipped_high"].item() == pytest.approx(
        ((ratio > 1.2) & rows & (adv > 0)).sum().item() / sum(LENGTHS)
    )


def test_an_auxiliary_loss_is_logged_under_a_name_of_its_own(double, batch):
    """`entropy` is the policy's entropy, whatever the losses are called."""
    more = replace(
        batch,
        marks={**batch.marks, "entropy": batch.mask_NT},
        mark_totals={name: batch.totals for name in ("kl", "entropy")},
    )
    _, plain = total(module(double, objective(token_mean, kl=0.1), 4), more)
    _, sums = total(
        module(
            double,
            algorithm(
                loss_aggregation=token_mean,
                auxiliary_losses={"kl": ReferenceKL(0.1), "entropy": EntropyBonus(0.1)},
            ),
            4,
        ),
        more,
    )
    assert sums.keys() - plain.keys() == {"auxiliary_entropy"} and sums["entropy"].item() == pytest.approx(
        plain["entropy"].item()
    )
    assert sums["auxiliary_entropy"].item() * batch.totals.tokens == pytest.approx(
        -sums["entropy"].item() * sum(LENGTHS)
    )


@pytest.mark.parametrize(
    ("version", "updates", "good"), [(0, 1, True), (1, 1, False), (1, 2, True), (2, 2, False)]
)
def test_a_stale_batch_stops_the_run(double, batch, version: int, updates: int, good: bool):
    made = module(double, objective(token_mean), 1, updates)
    made.version = version
    if good:
        assert len(list(made.split(batch))) == 4
    else:
        with pytest.raises(RuntimeError, match=f"stale rollout: made by policy 0, now at {version}"):
            list(made.split(batch))


@pytest.mark.parametrize(("version", "good"), [(3, True), (4, False)])
def test_a_batch_that_was_generated_ahead_may_be_one_rollout_older(double, batch, version: int, good: bool):
    goal = replace(objective(token_mean), generator=aside(double), rollout_correction=RolloutCorrection())
    made = module(double, goal, 1, updates=2)
    made.version = version
    if good:
        assert len(list(made.split(batch))) == 4
    else:
        with pytest.raises(RuntimeError, match="made by policy 0, now at 4, updates per rollout 2, ahead 1"):
            list(made.split(batch))


def test_a_batch_from_the_future_stops_the_run(double, batch):
    with pytest.raises(RuntimeError, match="stale"):
        list(module(double, objective(token_mean), 4).split(replace(batch, policy_version=1)))


def test_micro_batches_are_whole_groups_within_the_limit():
    assert [part.tolist() for part in micro_batches(GROUPS, 5)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    assert [part.tolist() for part in micro_batches(GROUPS, 2)] == [[0, 1, 2], [3, 4], [5, 6, 7], [8]]
    mixed_up = torch.tensor([1, 0, 1, 0])
    assert [part.tolist() for part in micro_batches(mixed_up, 2)] == [[1, 3], [0, 2]]
    assert micro_batches(torch.empty(0, dtype=torch.long), 4) == []

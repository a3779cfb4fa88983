"""Experience: what is generated, judged, dropped, counted and handed to each update, with completions and rewards by script."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from openvlt.grpo.collect.experience import Experience
from openvlt.grpo.module import GRPOModule
from openvlt.grpo.parts.advantage import normalise_by_group
from openvlt.grpo.parts.auxiliary_losses import ReferenceKL
from openvlt.model.load import VLM, add_adapter
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.reward.reward import Reward
from openvlt.rollout.base import Sampling
from openvlt.trainer.optimizer import adamw, muon
from openvlt.types import Totals
from tests.helpers import factories
from tests.helpers.factories import LENGTHS, REWARDS, algorithm, grpo_batch


def test_equal_groups_are_dropped_and_the_rest_is_whole(make, mixed, ragged, render):
    experience = make()
    rollouts, (batch,) = experience.collect(mixed, seed=9, version=4)
    assert experience.grpo.generator.calls == [(4, 4, Sampling(n=2, max_new_tokens=6), 9)]
    assert rollouts.group_N.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and rollouts.reward_N.tolist() == list(
        REWARDS
    )
    assert rollouts.keep_N.tolist() == [True, True, False, False, True, True, False, False]
    assert rollouts.adv_NT[:, 0].tolist() == [0.5, -0.5, 0, 0, -0.5, 0.5, 0, 0]
    ids, mask = ragged(LENGTHS)
    kept = [0, 1, 4, 5]
    assert torch.equal(batch.ids_NT, ids[kept]) and torch.equal(batch.mask_NT, mask[kept])
    assert batch.group_N.tolist() == [0, 0, 1, 1] and batch.adv_NT[:, 0].tolist() == [0.5, -0.5, -0.5, 0.5]
    assert batch.policy_version == rollouts.policy_version == 4
    assert batch.old_logp_NT is None and batch.ref_logp_NT is None
    assert torch.equal(batch.prompts.ids_PL[:, -5:], render(mixed).select([0, 2]).ids_PL[:, -5:])
    assert batch.prompts.images_P.tolist() == [1, 2]
    assert batch.behaviour_logp_NT[1].tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.4, -0.5, 0.0])
    assert (batch.metrics["dropped_groups"], batch.metrics["reward"]) == (0.5, pytest.approx(5 / 8))
    assert batch.metrics["length"] == pytest.approx(27 / 8) and batch.metrics["finished"] == 1.0
    assert batch.metrics["reward_group_std"] == pytest.approx(0.25)  # biased std .5 in two groups, 0 in two


@pytest.mark.parametrize(("denominator", "tokens", "sequences"), [("all", 27, 8), ("kept", 15, 4)])
def test_the_denominator_counts_dropped_rows_or_not(make, mixed, denominator, tokens, sequences):
    _, (batch,) = make(denominator=denominator).collect(mixed, seed=0, version=0)
    assert (batch.totals.tokens, batch.totals.sequences) == (tokens, sequences)
    parts = make(denominator=denominator, count=2).collect(mixed, seed=0, version=0)[1]
    assert [(part.totals.tokens, part.totals.sequences) for part in parts] == (
        [(14, 4), (13, 4)] if denominator == "all" else [(8, 2), (7, 2)]
    )


@pytest.mark.parametrize("updates", [1, 2, 3, 4])
def test_updates_cover_every_row_exactly_once_in_whole_groups(make, mixed, ragged, updates):
    experience = make(rewards=[0, 1] * 4, count=updates)
    _, batches = experience.collect(mixed, seed=0, version=0)
    assert len(batches) == updates
    ids, mask = ragged(LENGTHS)
    rows = [
        tuple(row[: int(m.sum())].tolist())
        for b in batches
        for row, m in zip(b.ids_NT, b.mask_NT, strict=True)
    ]
    assert rows == [tuple(row[: int(m.sum())].tolist()) for row, m in zip(ids, mask, strict=True)]
    assert (
        sum(batch.totals.tokens for batch in batches) == 27
        and sum(batch.totals.sequences for batch in batches) == 8
    )
    for batch in batches:
        assert torch.bincount(batch.group_N).tolist() == [2] * len(batch.prompts)
        assert int(batch.mask_NT.sum(1).max()) == batch.ids_NT.shape[1]


def test_several_updates_store_the_old_log_probabilities(make, mixed, render, ragged):
    experience = make(
        rewards=[0, 1] * 4,
        count=2,
        temperature=0.7,
        micro_batch=3,
    )
    batches = experience.collect(mixed, seed=0, version=0)[1]
    ids, mask = ragged(LENGTHS)
    with torch.no_grad():
        logp, _ = completion_logp(
            experience.models.policy,
            render(mixed),
            ids,
            mask,
            torch.arange(4).repeat_interleave(2),
            temperature=0.7,
        )
    for batch, rows in zip(batches, (slice(0, 4), slice(4, 8)), strict=True):
        width = batch.ids_NT.shape[1]
        torch.testing.assert_close(batch.old_logp_NT, logp[rows, :width], atol=1e-5, rtol=1e-5)
        assert not batch.old_logp_NT.requires_grad


def test_a_kl_term_keeps_every_group_and_scores_the_reference(make, fresh, mixed, render, ragged):
    reference = fresh()
    with torch.no_grad():
        reference.model.model.language_model.norm.weight.mul_(1.3)
    _, (batch,) = make(auxiliary_losses={"kl": ReferenceKL(0.1)}, reference=reference, micro_batch=2).collect(
        mixed, seed=0, version=0
    )
    assert len(batch) == 8 and batch.totals.tokens == 27
    ids, mask = ragged(LENGTHS)
    with torch.no_grad():
        expected, _ = completion_logp(
            reference, render(mixed), ids, mask, torch.arange(4).repeat_interleave(2)
        )
    torch.testing.assert_close(batch.ref_logp_NT, expected, atol=1e-5, rtol=1e-5)


def test_with_an_adapter_the_reference_is_the_base(make, fresh, vlm, mixed, render, ragged):
    from peft import LoraConfig

    base = fresh()
    adapted = VLM(
        add_adapter(base.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"])), base.processor, "lora"
    )
    with torch.no_grad():
        for name, value in adapted.model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.3)
    adapted.model.train()
    _, batches = make(auxiliary_losses={"kl": ReferenceKL(0.1)}, model=adapted, count=2).collect(
        mixed, seed=0, version=0
    )
    ids, mask = ragged(LENGTHS)
    with torch.no_grad():
        expected, _ = completion_logp(vlm, render(mixed), ids, mask, torch.arange(4).repeat_interleave(2))
    ref, old = (torch.cat([torch.nn.functional.pad(t, (0, 6 - t.shape[1])) for t in column]) for column in (
        [b.ref_logp_NT for b in batches], [b.old_logp_NT for b in batches]))  # fmt: skip
    torch.testing.assert_close(ref, expected, atol=1e-5, rtol=1e-5)
    assert (old - expected).abs().max() > 1e-2  # the policy has the adapter on
    assert adapted.model.training


def test_a_kl_term_without_any_reference_is_refused(make):
    with pytest.raises(ValueError, match="needs a reference model, or an adapter"):
        make(auxiliary_losses={"kl": ReferenceKL(0.1)})


def test_a_generator_without_log_probabilities_is_fine(make, mixed):
    rollouts, (batch,) = make(logp=False).collect(mixed, seed=0, version=0)
    assert rollouts.behaviour_logp_NT is None and batch.behaviour_logp_NT is None


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(
    "optimizer",
    [
        partial(adamw, learning_rate=0.1, weight_decay=0.1),
        partial(muon, learning_rate=0.1, muon_learning_rate=0.1),
    ],
)
def test_all_equal_rewards_give_an_empty_batch_and_a_step_that_moves_nothing(
    make, mixed, tmp_path, updates, optimizer
):
    from openvlt.trainer.loop import TrainingLoop
    from openvlt.trainer.metrics import read_metrics

    experience = make(rewards=[1.0] * 8, count=updates)
    _, batches = experience.collect(mixed, seed=0, version=0)
    assert [len(batch) for batch in batches] == [0] * updates
    assert (
        sum(batch.totals.sequences for batch in batches) == 8 and batches[0].metrics["dropped_groups"] == 1.0
    )
    vlm, sizes = experience.models.policy, factories.updates(updates)
    module = GRPOModule(vlm, algorithm(optimizer=optimizer, steps=updates, micro_batch=4, **sizes))
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    TrainingLoop(accelerator="cpu", progress=False).run(
        module, lambda step: batches[step], tmp_path, title="empty"
    )
    assert module.version == updates
    assert all(torch.equal(value, before[name]) for name, value in vlm.model.state_dict().items())
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == list(range(1, updates + 1)) and rows[0]["grad_norm"] == 0.0


@pytest.mark.parametrize("pattern", ["full empty full", "empty full full"])
def test_an_empty_step_keeps_its_row_and_columns_in_the_metrics(make, mixed, tmp_path, pattern):
    """Every row means what the header says, also that of a step in which nothing was learned."""
    from openvlt.trainer.loop import TrainingLoop
    from openvlt.trainer.metrics import read_metrics

    made = {"full": make(), "empty": make(rewards=[1.0] * 8)}
    batches = [
        made[kind].collect(mixed, seed=0, version=step)[1][0] for step, kind in enumerate(pattern.split())
    ]
    settings = algorithm(optimizer=partial(adamw, learning_rate=1e-4), steps=3, micro_batch=4)
    module = GRPOModule(made["full"].models.policy, settings)
    TrainingLoop(accelerator="cpu", progress=False).run(
        module, lambda step: batches[step], tmp_path, title="sometimes empty"
    )
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3]
    full = [kind == "full" for kind in pattern.split()]
    assert [row["reward"] for row in rows] == pytest.approx([5 / 8 if kind else 1.0 for kind in full])
    assert [row["dropped_groups"] for row in rows] == [0.5 if kind else 1.0 for kind in full]
    assert [row["grad_norm"] > 0 for row in rows] == full
    assert all("loss" in row and "entropy" in row for row in rows)


def test_a_real_rollout_has_ratio_one_and_no_mismatch(fresh, mixed):
    """From the sampler to the loss: behaviour, old and new log-probabilities are the same numbers at temperature 0.8."""
    model = fresh()
    reward = Reward(
        {
            "length": lambda rollouts, services: torch.tensor(
                [sum(c.token_ids) % 7 / 7 for c in rollouts.completions]
            )
        },
        {"length": 1.0},
    )
    sizes = dict(group_size=3, max_new_tokens=8, temperature=0.8, **factories.updates(2))
    settings = algorithm(reward=reward, advantage=normalise_by_group, steps=2, **sizes)
    rollouts, batches = Experience(settings, model, None).collect(mixed, seed=5, version=0)
    module = GRPOModule(model, replace(settings, micro_batch=3))
    for batch in batches:
        torch.testing.assert_close(batch.old_logp_NT, batch.behaviour_logp_NT, atol=1e-5, rtol=1e-5)
        parts = [module.loss(part) for part in module.split(batch)]
        assert sum(share["mismatch_kl"] for _, share in parts) < 1e-9
        assert sum(loss for loss, _ in parts).item() == pytest.approx(
            -batch.adv_NT.sum().item() / batch.totals.sequences, abs=1e-5
        )


def test_a_part_brings_only_the_prompts_that_are_needed(render, mixed, ragged):
    prompts, (ids, mask) = render(mixed), ragged(LENGTHS)
    groups = torch.arange(4).repeat_interleave(2)
    whole = grpo_batch(prompts, ids, mask, groups, torch.zeros(8), Totals(9, 9), marks={"kl": mask})
    part = whole.part(torch.tensor([2, 3, 6]), torch.device("cpu"))
    assert (
        len(part.prompts) == 2
        and part.prompts.images_P.tolist() == [0, 1]
        and part.group_N.tolist() == [0, 0, 1]
    )
    assert part.ids_NT.shape == part.mask_NT.shape == part.marks["kl"].shape == (3, 4) and part.mask_NT.sum(
        1
    ).tolist() == [2, 4, 4]
    assert part.totals == Totals(9, 9) and part.trained_tokens == sum(LENGTHS)

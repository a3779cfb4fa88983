"""Generators against Hugging Face's `generate`, against each other, and against the scored log-probabilities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from openvlt.data.prompts import pad_right
from openvlt.errors import UserError
from openvlt.model import cpu_linear
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.model.transformers_range import enable_checkpointing
from openvlt.rollout import prefix
from openvlt.rollout.base import Sampling, generating
from openvlt.rollout.hf import HFGenerator
from openvlt.rollout.prefix import PrefixGenerator

GREEDY = Sampling(max_new_tokens=14, greedy=True)
SAMPLED = Sampling(n=3, max_new_tokens=14, temperature=0.8)


@pytest.fixture
def chatty(fresh) -> VLM:
    """A copy for which every tenth token ends the answer: completions of all lengths."""
    model = fresh()
    end = model.tokenizer.eos_token_id
    model.model.generation_config.eos_token_id = [end, *range(0, 260, 10)]
    return model


def plain_greedy(vlm: VLM, problem, render, steps: int) -> list[int]:
    """`model.generate(do_sample=False)` on one unpadded prompt, bans as `suppress_tokens`."""
    prompts = render([problem])
    types = {"mm_token_type_ids": prompts.token_type_PL} if prompts.token_type_PL.any() else {}
    banned = vlm.banned_V().nonzero()[:, 0].tolist()
    out = vlm.core.generate(
        input_ids=prompts.ids_PL, attention_mask=prompts.mask_PL, **types, **prompts.vision,
        do_sample=False, max_new_tokens=steps, suppress_tokens=banned,
    )  # fmt: skip
    return out[0, prompts.ids_PL.shape[1] :].tolist()


@pytest.mark.parametrize("generator", [PrefixGenerator(), HFGenerator()])
def test_greedy_equals_plain_generate_token_for_token(vlm, chatty, mixed, render, generator):
    for model in (vlm, chatty):
        ours = generator.generate(model, mixed, render(mixed), GREEDY, 0)
        for problem, completion in zip(mixed, ours, strict=True):
            assert list(completion.token_ids) == plain_greedy(model, problem, render, 14), problem.id
            assert completion.finished == (completion.token_ids[-1] in model.stop_ids)
        assert (
            len({completion.token_ids for completion in ours}) == 4
        )  # the problems are not all answered alike
    assert len({len(completion.token_ids) for completion in ours}) > 1


@pytest.mark.parametrize(
    "sampling", [SAMPLED, replace(SAMPLED, temperature=1.3, top_p=0.9), replace(SAMPLED, top_k=20), GREEDY]
)
def test_both_generators_generate_the_same(chatty, mixed, render, sampling):
    one, other = (
        each.generate(chatty, mixed, render(mixed), sampling, 7)
        for each in (PrefixGenerator(), HFGenerator())
    )
    assert [c.token_ids for c in one] == [c.token_ids for c in other]
    assert [(c.text, c.finished) for c in one] == [(c.text, c.finished) for c in other]
    for mine, theirs in zip(one, other, strict=True):
        assert mine.logp == pytest.approx(theirs.logp, abs=1e-5)
    if not sampling.greedy:
        assert len({c.token_ids for c in one}) > 9 and len({len(c.token_ids) for c in one}) > 3


@pytest.mark.parametrize("generator", [PrefixGenerator, HFGenerator])
def test_a_completion_does_not_depend_on_its_batch_mates(chatty, mixed, render, generator):
    together = generator().generate(chatty, mixed, render(mixed), SAMPLED, 11)
    alone = [c for p in mixed for c in generator().generate(chatty, [p], render([p]), SAMPLED, 11)]
    fewer = generator(max_rows=6).generate(chatty, mixed, render(mixed), SAMPLED, 11)
    single = [generator().generate(chatty, [p], render([p]), replace(SAMPLED, n=1), 11)[0] for p in mixed]
    ids = [c.token_ids for c in together]
    assert [c.token_ids for c in alone] == ids and [c.token_ids for c in fewer] == ids
    assert [c.token_ids for c in single] == ids[::3]
    assert [c.token_ids for c in generator().generate(chatty, mixed, render(mixed), SAMPLED, 12)] != ids


def test_completions_end_at_their_stop_token(chatty, mixed, render):
    stop, completions = (
        set(chatty.stop_ids),
        PrefixGenerator().generate(chatty, mixed, render(mixed), replace(SAMPLED, n=16), 1),
    )
    assert len(completions) == 64 and {c.finished for c in completions} == {True, False}
    for c in completions:
        assert not stop & set(c.token_ids[:-1]) and len(c.logp) == len(c.token_ids) <= 14
        assert c.finished == (c.token_ids[-1] in stop) and (c.finished or len(c.token_ids) == 14)
        assert c.text == chatty.tokenizer.decode(c.token_ids, skip_special_tokens=True)
    assert not chatty.banned_V()[torch.tensor([token for c in completions for token in c.token_ids])].any()


def test_stop_strings_end_a_completion_with_the_token_that_completes_them(chatty, mixed, render):
    free = PrefixGenerator().generate(chatty, mixed, render(mixed), replace(SAMPLED, n=6), 2)
    longest = max(free, key=lambda c: len(c.text))
    middle = len(longest.text) // 2
    stop = (longest.text[middle : middle + 3], "never said")
    stopped = PrefixGenerator().generate(chatty, mixed, render(mixed), replace(SAMPLED, n=6, stop=stop), 2)
    assert HFGenerator().generate(chatty, mixed, render(mixed), replace(SAMPLED, n=6, stop=stop), 2) == [
        replace(c, logp=pytest.approx(c.logp, abs=1e-5)) for c in stopped
    ]
    assert any(len(cut.token_ids) < len(whole.token_ids) for cut, whole in zip(stopped, free, strict=True))
    for cut, whole in zip(stopped, free, strict=True):
        assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]  # up to there the same draws
        before = chatty.tokenizer.decode(cut.token_ids[:-1], skip_special_tokens=True)
        assert stop[0] not in before and (cut.finished or len(cut.token_ids) == 14)
        assert len(cut.token_ids) == len(whole.token_ids) or stop[0] in cut.text
    for wrong in ("end", ("",)):
        with pytest.raises(ValueError, match="must be a list of strings, none empty"):
            Sampling(stop=wrong)


def test_finished_rows_leave_the_batch(chatty, mixed, render, monkeypatch):
    fed, plain = [], prefix._DecodingBatch._feed
    monkeypatch.setattr(
        prefix._DecodingBatch, "_feed", lambda self, tokens: fed.append(len(tokens)) or plain(self, tokens)
    )
    completions = PrefixGenerator().generate(chatty, mixed, render(mixed), SAMPLED, 11)
    running = [rows for step in range(13) if (rows := sum(len(c.token_ids) > step + 1 for c in completions))]
    assert len(fed) == len(running) and fed == sorted(fed, reverse=True) and fed[-1] < fed[0]
    for rows, needed in zip(fed, running, strict=True):
        assert (
            needed <= rows < needed * prefix.DROP_SHARE / (prefix.DROP_SHARE - 1)
        )  # at most an eighth of the batch waits to leave


def test_images_and_prompts_run_once_per_problem(vlm, mixed, render):
    seen = []
    hook = vlm.core.model.visual.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs), with_kwargs=True
    )
    feed = vlm.core.model.language_model.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    try:
        PrefixGenerator().generate(vlm, mixed, render(mixed), Sampling(n=5, max_new_tokens=3), 0)
    finally:
        hook.remove()
        feed.remove()
    assert [isinstance(each, dict) for each in seen] == [True, False, False, False]
    assert seen[1] == (1, int(render(mixed).mask_PL.sum()))  # one sequence without padding
    assert all(15 < rows <= 20 and width == 1 for rows, width in seen[2:])


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
def test_behaviour_equals_scored_log_probabilities(chatty, mixed, render, temperature):
    sampling = replace(SAMPLED, temperature=temperature, top_p=0.95)
    completions = PrefixGenerator().generate(chatty, mixed, render(mixed), sampling, 3)
    ids, mask = pad_right([c.token_ids for c in completions], chatty.pad_id)
    behaviour, _ = pad_right([[0] * len(c.token_ids) for c in completions], 0)
    behaviour = behaviour.float()
    for row, c in enumerate(completions):
        behaviour[row, : len(c.logp)] = torch.tensor(c.logp)
    with torch.no_grad():
        scored, _ = completion_logp(
            chatty, render(mixed), ids, mask, torch.arange(4).repeat_interleave(3), temperature=temperature
        )
    torch.testing.assert_close(scored, behaviour, atol=1e-5, rtol=1e-5)


def test_first_tokens_are_drawn_from_the_models_softmax(vlm, mixed, render):
    """600 samples of one token against the scored distribution of a whole vocabulary, in eight bins of equal probability."""
    prompts = render(mixed[:1])
    completions = PrefixGenerator(max_rows=600).generate(
        vlm, mixed[:1], prompts, Sampling(n=600, max_new_tokens=1), 0
    )
    allowed = (~vlm.banned_V()).nonzero()[:, 0]
    with torch.no_grad():
        ids = allowed[:, None]
        logp, _ = completion_logp(
            vlm, prompts, ids, torch.ones_like(ids), torch.zeros(len(ids), dtype=torch.long)
        )
    probability = torch.zeros(len(vlm.banned_V())).scatter(0, allowed, logp[:, 0].exp())
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    order = probability.argsort(descending=True)
    bins = torch.empty(len(order), dtype=torch.long).scatter(
        0, order, (probability[order].cumsum(0) * 8).long().clamp(max=7)
    )
    expected = 600 * torch.zeros(8).index_add(0, bins, probability)
    seen = torch.bincount(bins[torch.tensor([c.token_ids[0] for c in completions])], minlength=8)
    filled = expected > 5
    assert (
        (seen - expected)[filled] ** 2 / expected[filled]
    ).sum().item() < 31.8  # 99.99 % at 7 degrees of freedom


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generating_gives_the_model_back_as_it_was(fresh, training, use_cache):
    model = fresh().model
    config = model.config.get_text_config()
    model.train(training)
    config.use_cache = use_cache
    with generating(model):
        assert not any(module.training for module in model.modules())
        assert config.use_cache and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert all(module.training is training for module in model.modules())
    assert config.use_cache is use_cache and torch.is_grad_enabled()
    with pytest.raises(KeyError), generating(model):
        raise KeyError("inside")
    assert all(module.training is training for module in model.modules())
    assert config.use_cache is use_cache and torch.is_grad_enabled()
    with torch.no_grad():
        with generating(model):
            pass
        assert not torch.is_grad_enabled()


def test_generating_restores_modules_that_were_in_another_mode(fresh):
    """A frozen vision tower kept in eval mode inside a training model."""
    model = fresh().model.train()
    model.model.visual.eval()
    before = [module.training for module in model.modules()]
    with generating(model):
        pass
    assert [module.training for module in model.modules()] == before


def test_generating_keeps_gradient_checkpointing(fresh, mixed, render):
    model = fresh()
    enable_checkpointing(model.model)
    model.model.train()
    plain = PrefixGenerator().generate(fresh(), mixed, render(mixed), SAMPLED, 1)
    assert PrefixGenerator().generate(model, mixed, render(mixed), SAMPLED, 1) == plain
    assert (
        any(getattr(part, "gradient_checkpointing", False) for part in model.model.modules())
        and model.model.training
    )


def test_training_works_after_generating(fresh, mixed, render, ragged):
    """Nothing cached while sampling may be unusable under autograd."""
    model = fresh()
    PrefixGenerator().generate(model, mixed, render(mixed), SAMPLED, 1)
    ids, mask = ragged([3, 2, 4, 1])
    completion_logp(model, render(mixed), ids, mask, torch.arange(4))[0].sum().backward()
    assert all(value.grad is not None for value in model.model.parameters())


def test_packed_weights_multiply_alike_and_are_given_back(fresh, monkeypatch):
    model = fresh().model
    monkeypatch.setattr(cpu_linear, "MIN_WEIGHT_SIZE", 1)
    part, rows = model.model.language_model.layers[0].mlp.up_proj, torch.randn(3, 1, 64)
    biased = model.model.language_model.layers[0].self_attn.q_proj
    with torch.no_grad():
        plain = part(rows), biased(rows)
        with cpu_linear.prepack_weights(model):
            packed = part(rows), biased(rows)
            assert "forward" in vars(part)
        assert not any("forward" in vars(each) for each in model.modules())
        torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)
    with cpu_linear.prepack_weights(model.double()):
        assert not any(
            "forward" in vars(each) for each in model.modules()
        )  # another precision: nothing changes


def test_an_unknown_family_is_sent_to_the_plain_generator(vlm, mixed, render, monkeypatch):
    monkeypatch.setattr("openvlt.model.families.FAMILIES", {})
    with pytest.raises(
        UserError, match="rollout=prefix doesn't know model type 'qwen2_5_vl'; use rollout=hf"
    ):
        PrefixGenerator().generate(vlm, mixed, render(mixed), GREEDY, 0)

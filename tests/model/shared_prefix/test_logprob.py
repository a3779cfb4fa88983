"""Scored log-probabilities against Hugging Face's own forward, one unpadded sample at a time."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.model import families
from openvlt.model.load import VLM, add_adapter, freeze
from openvlt.model.shared_prefix import forward, logprob
from openvlt.model.shared_prefix.logprob import completion_logp, token_logp
from openvlt.model.transformers_range import enable_checkpointing
from openvlt.types import Problem

LENGTHS = [3, 7, 1, 5, 4, 6, 2, 3]
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def reference(vlm: VLM, problem, row: list[int], temperature: float = 1.0) -> Tensor:
    """Log-probabilities (T,V) of one sample: the stock processor's output and the stock forward, nothing padded, nothing of ours."""
    message = [{"type": "image"} for _ in problem.images] + [{"type": "text", "text": problem.question}]
    text = vlm.processor.apply_chat_template(
        [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
    )
    inputs = vlm.processor(text=[text], images=list(problem.images) or None, return_tensors="pt")
    width = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([row])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat(
            [inputs["mm_token_type_ids"], torch.zeros(1, len(row), dtype=torch.long)], 1
        )
    vlm.core.model.rope_deltas = None
    logits = vlm.core(**inputs, use_cache=False).logits[0, width - 1 : -1]
    return (logits / temperature).masked_fill(vlm.banned_V(), -torch.inf).log_softmax(-1)


@pytest.fixture
def scored(mixed, render, ragged):
    """Prompts of different lengths (left padding), with none, one and two images, and two ragged completions of each."""
    prompts, (ids, mask) = render(mixed), ragged(LENGTHS)
    assert (
        sorted(prompts.images_P.tolist()) == [0, 1, 1, 2] and len(set(prompts.mask_PL.sum(1).tolist())) == 4
    )
    grids = prompts.vision["image_grid_thw"].tolist()
    assert len({tuple(grid) for grid in grids}) >= 3  # several image sizes
    return prompts, ids, mask, GROUPS


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_hugging_faces_unpadded_forward(vlm, mixed, scored, temperature):
    with torch.no_grad():
        logp, entropy = completion_logp(vlm, *scored, temperature=temperature)
        for row, length in enumerate(LENGTHS):
            ids = scored[1][row, :length]
            whole = reference(vlm, mixed[GROUPS[row]], ids.tolist(), temperature)
            torch.testing.assert_close(
                logp[row, :length], whole.gather(1, ids[:, None])[:, 0], atol=1e-5, rtol=1e-5
            )
            own = -(whole.exp() * whole.nan_to_num(neginf=0.0)).sum(-1)
            torch.testing.assert_close(entropy[row, :length], own, atol=1e-5, rtol=1e-5)
    assert logp.dtype == entropy.dtype == torch.float32
    assert (logp[scored[2] == 0] == 0).all() and (entropy[scored[2] == 0] == 0).all()


def test_the_tolerance_would_notice_a_missing_image_or_shifted_positions(vlm, scored, monkeypatch):
    prompts, ids, mask, group = scored
    with torch.no_grad():
        right, _ = completion_logp(vlm, *scored)
        blank = {**prompts.vision, "pixel_values": torch.zeros_like(prompts.vision["pixel_values"])}
        blind = type(prompts)(prompts.ids_PL, prompts.mask_PL, prompts.token_type_PL, prompts.images_P, blank)
        unseen, _ = completion_logp(vlm, blind, ids, mask, group)
        encode = forward.encode_prompts
        monkeypatch.setattr(
            forward,
            "encode_prompts",
            lambda *args, **given: replace(encoded := encode(*args, **given), next_P=encoded.next_P + 1),
        )
        shifted, _ = completion_logp(vlm, *scored)
    seen = scored[0].images_P[group] > 0
    assert ((right - unseen).abs().amax(1)[seen] > 1e-2).all() and (right - unseen)[~seen].abs().max() < 1e-6
    assert ((right - shifted).abs().amax(1)[mask.sum(1) > 1] > 1e-3).all()


def test_banned_tokens_have_no_probability(vlm, scored):
    banned = vlm.banned_V()
    names = vlm.tokenizer.convert_ids_to_tokens(
        [i for i in banned.nonzero()[:, 0].tolist() if i < len(vlm.tokenizer)]
    )
    assert {
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|im_start|>",
        "<|endoftext|>",
    } <= set(names)
    assert banned[len(vlm.tokenizer) :].all() and not banned[list(vlm.stop_ids)].any()
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert not banned[vlm.tokenizer.convert_tokens_to_ids(tag)]
    hidden = torch.randn(
        5, vlm.core.config.get_text_config().hidden_size, generator=torch.Generator().manual_seed(0)
    )
    head, size = vlm.core.get_output_embeddings(), len(banned)
    with torch.no_grad():
        every = torch.stack(
            [token_logp(head, hidden, torch.full((5,), i), banned, 0.8)[0] for i in range(size)], 1
        )
    assert (every[:, banned] == -torch.inf).all() and torch.isfinite(every[:, ~banned]).all()
    torch.testing.assert_close(every.exp().sum(1), torch.ones(5))


def test_token_logp_on_paper():
    """Three logits 0, ln 2, ln 5 and a banned fourth: probabilities 1/8, 2/8, 5/8; at temperature 1/2 they are 1/30, 4/30, 25/30."""
    head = torch.nn.Linear(1, 4, bias=False)
    head.weight.data = torch.tensor([[0.0], [math.log(2)], [math.log(5)], [9.0]])
    banned = torch.tensor([False, False, False, True])
    logp, entropy = token_logp(head, torch.ones(3, 1), torch.tensor([0, 1, 2]), banned, 1.0)
    assert logp.exp().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert entropy.tolist() == pytest.approx([-sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))] * 3)
    sharper, _ = token_logp(head, torch.ones(3, 1), torch.tensor([0, 1, 2]), banned, 0.5)
    assert sharper.exp().tolist() == pytest.approx([1 / 30, 4 / 30, 25 / 30])


def loss_of(vlm: VLM, scored) -> Tensor:
    logp, _ = completion_logp(vlm, *scored)
    return (logp * torch.linspace(-1, 2, logp.numel(), dtype=logp.dtype).view_as(logp)).sum()


@pytest.mark.parametrize("banned", [True, False])
def test_the_head_equals_autograds_own(banned):
    """Chunked, with gradients through log-probabilities and entropy, against log_softmax on whole logits."""
    rng = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False).double()
    hidden, ids = torch.randn(9, 6, generator=rng, dtype=torch.float64), torch.arange(9) + banned
    mask = torch.zeros(11, dtype=torch.bool)
    mask[0] = banned
    weight = torch.randn(2, 9, generator=rng, dtype=torch.float64)
    found = []
    for score in (token_logp, logprob._head_logp):
        rows = hidden.clone().requires_grad_()
        logp, entropy = score(head, rows, ids, mask, 0.7)
        head.zero_grad()
        (logp * weight[0] + entropy * weight[1]).sum().backward()
        found.append((logp.detach(), entropy.detach(), rows.grad, head.weight.grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_chunked_head_equals_the_whole_one(fresh, scored, gradients, same_gradients, monkeypatch):
    model = fresh(torch.float64)
    whole = loss_of(model, scored)
    expected = gradients(model.model, whole)
    calls = []
    plain = logprob._logits
    monkeypatch.setattr(
        logprob, "_logits", lambda hidden, *args: calls.append(len(hidden)) or plain(hidden, *args)
    )
    monkeypatch.setattr(logprob, "CHUNK_LOGITS", 5 * len(model.banned_V()) + 3)
    chunked = loss_of(model, scored)
    assert calls == [5] * 6 + [1] and sum(LENGTHS) == 31
    assert chunked.item() == pytest.approx(whole.item(), rel=1e-9)
    same_gradients(expected, gradients(model.model, chunked), 1e-9)
    assert len(calls) == 14  # each chunk is computed again in the backward pass: its logits were not kept
    monkeypatch.setattr(logprob, "CHUNK_LOGITS", 1)  # less than one row: one row at a time
    assert loss_of(model, scored).item() == pytest.approx(whole.item(), rel=1e-9)


def test_a_known_slope_saves_the_second_pass_over_the_logits(
    fresh, scored, gradients, same_gradients, monkeypatch
):
    """Gradients formed in the forward equal those of the backward; a wrong slope is noticed."""
    model = fresh(torch.float64)
    expected = gradients(model.model, loss_of(model, scored))
    calls, plain = [], logprob._logits
    monkeypatch.setattr(logprob, "_logits", lambda *args: calls.append(1) or plain(*args))
    monkeypatch.setattr(logprob, "CHUNK_LOGITS", 5 * len(model.banned_V()))
    slope = torch.linspace(-1, 2, scored[1].numel(), dtype=torch.float64).view_as(scored[1])
    for given, passes in ((slope, 1), (-3 * slope, 1), (slope.square(), 2), (torch.zeros_like(slope), 2)):
        calls.clear()
        logp, _ = completion_logp(model, *scored, slope_NT=given)
        same_gradients(expected, gradients(model.model, (logp * slope).sum()), 1e-6)
        assert len(calls) == 7 * passes


def test_whole_rows_equal_the_shared_prefix(fresh, scored, gradients, same_gradients, monkeypatch):
    model = fresh(torch.float64)
    shared = loss_of(model, scored)
    expected = gradients(model.model, shared)
    monkeypatch.setattr(families, "FAMILIES", {})
    model.core.model.rope_deltas = torch.full(
        (8, 1), 77
    )  # left behind by a generate(): must not be relied on
    plain = loss_of(model, scored)
    assert plain.item() == pytest.approx(shared.item(), rel=1e-6)
    same_gradients(expected, gradients(model.model, plain), 1e-5)


def test_gradients_equal_hugging_faces_own(fresh, mixed, scored, gradients, same_gradients):
    model = fresh(torch.float64)
    ours = gradients(model.model, loss_of(model, scored))
    weight = torch.linspace(-1, 2, scored[1].numel(), dtype=torch.float64).view_as(scored[1])
    twin = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        ids = scored[1][row, :length]
        whole = reference(model, mixed[GROUPS[row]], ids.tolist())
        twin = twin + (whole.gather(1, ids[:, None])[:, 0] * weight[row, :length]).sum()
    theirs = gradients(model.model, twin)
    same_gradients(theirs, ours, 1e-5)
    assert theirs["model.visual.patch_embed.proj.weight"].abs().max() > 0  # through the vision tower
    assert theirs["model.language_model.embed_tokens.weight"].abs().max() > 0  # and the tied head


@pytest.mark.parametrize("selective", [False, True])
def test_gradient_checkpointing_changes_nothing(fresh, scored, gradients, same_gradients, selective):
    model = fresh(torch.float64)
    model.model.train()
    expected = gradients(model.model, loss_of(model, scored))
    enable_checkpointing(model.model, selective=selective)
    same_gradients(expected, gradients(model.model, loss_of(model, scored)), 1e-9)


def test_selective_checkpointing_computes_no_product_twice(fresh, scored):
    """The same products as without it, to the same bits; with plain checkpointing there are more."""
    counts, found = {}, {}
    for name in ("without", "selective", "plain"):
        model = fresh()
        model.model.train()
        if name != "without":
            enable_checkpointing(model.model, selective=name == "selective")
        with FlopCounterMode(display=False) as counter:
            loss_of(model, scored).backward()
        counts[name] = counter.get_total_flops()
        found[name] = [value.grad for value in model.model.parameters() if value.grad is not None]
    assert counts["without"] == counts["selective"] < counts["plain"]
    assert all(map(torch.equal, found["without"], found["selective"]))


def test_a_frozen_vision_tower_gets_no_gradient(fresh, scored):
    model = fresh()
    freeze(model.model, ("vision",))
    loss_of(model, scored).backward()
    got = {name for name, value in model.model.named_parameters() if value.grad is not None}
    tower = {name for name, _ in model.model.named_parameters() if "visual" in name and "merger" not in name}
    assert tower and not got & tower
    assert any("visual.merger" in name for name in got)  # the projector is a part of its own
    assert "model.language_model.embed_tokens.weight" in got
    freeze(model.model, ("projector",))
    assert not any(value.requires_grad for name, value in model.model.named_parameters() if "visual" in name)


def test_lora_off_is_the_base_and_saving_merges_it(fresh, vlm, scored, tmp_path):
    from openvlt.model.load import load_weights

    base = fresh()
    adapted = VLM(
        add_adapter(base.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"])), base.processor, "lora"
    )
    with torch.no_grad():
        expected, _ = completion_logp(vlm, *scored)
        for name, value in adapted.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
        moved, _ = completion_logp(adapted, *scored)
        with adapted.model.disable_adapter():
            off, _ = completion_logp(adapted, *scored)
    assert torch.equal(off, expected) and (moved - expected).abs().max() > 1e-2
    loss_of(adapted, scored).backward()
    assert all(
        ("lora" in name) == (value.grad is not None) for name, value in adapted.model.named_parameters()
    )
    adapted.save(tmp_path)
    merged = VLM(
        load_weights(str(tmp_path), dtype="float32", attn_implementation="sdpa"), base.processor, "merged"
    )
    with torch.no_grad():
        torch.testing.assert_close(completion_logp(merged, *scored)[0], moved, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            completion_logp(adapted, *scored)[0], moved, atol=1e-5, rtol=1e-5
        )  # still usable


def test_real_photographs_of_all_sizes(vlm, data_dir, ragged):
    """The first K12 problems, resized to between 56 x 56 and 112 x 112 pixels' area, whatever their shape."""
    folder = data_dir / "train_sources" / "mm_eureka_k12"
    rows = json.loads((folder / "k12.json").read_text())[:6]
    asked = []
    for row in rows:
        with Image.open(folder / row["image_path"]) as image:
            asked.append(Problem(row["id"], row["question"][:200], row["answer"], (image.convert("RGB"),)))
    prompts, (ids, mask) = Renderer(vlm.processor, PromptStyle()).prompts(asked), ragged([4, 2, 5, 3, 1, 6])
    assert len({tuple(grid) for grid in prompts.vision["image_grid_thw"].tolist()}) >= 3
    with torch.no_grad():
        logp, _ = completion_logp(vlm, prompts, ids, mask, torch.arange(6))
        for row, problem in enumerate(asked):
            own = ids[row][mask[row].bool()]
            expected = reference(vlm, problem, own.tolist()).gather(1, own[:, None])[:, 0]
            torch.testing.assert_close(logp[row, : len(own)], expected, atol=1e-5, rtol=1e-5)

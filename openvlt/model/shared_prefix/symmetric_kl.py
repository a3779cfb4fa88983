"""Symmetric KL divergence of predictions from two sets of images; the vocabulary axis is never stored."""

from __future__ import annotations

import torch
from torch import Tensor

from openvlt.model.load import VLM
from openvlt.model.shared_prefix.forward import completion_hidden
from openvlt.model.shared_prefix.logprob import CHUNK_LOGITS, log_probabilities
from openvlt.types import Prompts


@torch.no_grad()
def symmetric_kl(
    vlm: VLM,
    prompts: Prompts,
    other: Prompts,
    ids_NT: Tensor,
    mask_NT: Tensor,
    group_N: Tensor,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """½ KL(p, q) + ½ KL(q, p) at every completion token: (N,T) in nats, 0 where masked.

    p is predicted from `prompts`, q from `other`.
    """
    rows, banned_V = mask_NT.bool(), vlm.banned_V()
    hidden = [completion_hidden(vlm, each, ids_NT, mask_NT, group_N) for each in (prompts, other)]
    head, chunk = vlm.core.get_output_embeddings(), max(1, CHUNK_LOGITS // banned_V.shape[0])
    values = []
    for start in range(0, len(hidden[0]), chunk):
        p, q = (
            log_probabilities(head(each[start : start + chunk]), banned_V, temperature) for each in hidden
        )
        values.append((torch.where(banned_V, 0.0, p - q) * (p.exp() - q.exp())).sum(-1) / 2)
    kl_M = torch.cat(values) if values else hidden[0].new_zeros(0)
    return torch.zeros(ids_NT.shape, dtype=kl_M.dtype, device=kl_M.device).masked_scatter(rows, kl_M)

"""Log-probabilities of completion tokens, in the same distribution that the samplers draw from (temperature, bans)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openvlt.model.forward import completion_hidden
from openvlt.model.load import VLM
from openvlt.types import Prompts

CHUNK_LOGITS = 1 << 26  # logits in memory at a time: 256 MiB in float32


def completion_logp(
    vlm: VLM, prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token, both (N,T) float32 and 0 where `mask_NT` is 0.

    `group_N` maps each row to its prompt. Gradients flow through the log-probabilities, not through the entropy. Only completion
    positions reach the head, in chunks that are recomputed in the backward pass, so (N,T,V) never exists.
    """
    hidden_NTD = completion_hidden(vlm, prompts, ids_NT, mask_NT, group_N)
    rows = mask_NT.bool()
    head, banned_V = vlm.core.get_output_embeddings(), vlm.banned_V()
    logp, entropy = token_logp(head, hidden_NTD[rows], ids_NT[rows], banned_V, temperature)
    zeros = torch.zeros(ids_NT.shape, dtype=logp.dtype, device=logp.device)
    return zeros.masked_scatter(rows, logp), zeros.masked_scatter(rows, entropy)


def token_logp(
    head: nn.Module, hidden_MD: Tensor, ids_M: Tensor, banned_V: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (M,) of M tokens from the hidden states that predict them."""
    chunk = max(1, CHUNK_LOGITS // banned_V.shape[0])
    if len(ids_M) <= chunk:
        return _head_logp(head, hidden_MD, ids_M, banned_V, temperature)
    parts = [
        checkpoint(_head_logp, head, hidden_MD[i : i + chunk], ids_M[i : i + chunk], banned_V, temperature, use_reentrant=False)
        for i in range(0, len(ids_M), chunk)
    ]
    logp, entropy = zip(*parts, strict=True)
    return torch.cat(logp), torch.cat(entropy)


def _head_logp(
    head: nn.Module, hidden_MD: Tensor, ids_M: Tensor, banned_V: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_MV = head(hidden_MD)
    logits_MV = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
    logp_MV = (logits_MV / temperature).masked_fill(banned_V, -torch.inf).log_softmax(-1)
    with torch.no_grad():
        entropy_M = -torch.where(banned_V, 0.0, logp_MV * logp_MV.exp()).sum(-1)
    return logp_MV.gather(1, ids_M[:, None])[:, 0], entropy_M

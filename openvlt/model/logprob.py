"""Log-probabilities of completion tokens, in the same distribution that the samplers draw from (temperature, bans).

Legend: N rows, T completion tokens (padded), M scored tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openvlt.model.forward import scored_hidden
from openvlt.model.load import VLM
from openvlt.types import Prompts

CHUNK_LOGITS = 1 << 23  # logits in memory at a time: 32 MiB in float32, twice


def completion_logp(
    vlm: VLM,
    prompts: Prompts,
    ids_NT: Tensor,
    mask_NT: Tensor,
    group_N: Tensor,
    *,
    temperature: float = 1.0,
    entropy_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token, both (N,T) float32 and 0 where `mask_NT` is 0.

    `group_N` maps each row to its prompt. Gradients flow through the log-probabilities, and through the entropy if `entropy_grad`.
    Only completion positions reach the head, in chunks that are recomputed in the backward pass, so (N,T,V) never exists.
    """
    hidden_MD, rows = scored_hidden(vlm, prompts, ids_NT, mask_NT, group_N), mask_NT.bool()
    logp_M, entropy_M = token_logp(vlm.core.get_output_embeddings(), hidden_MD, ids_NT[rows], vlm.banned_V(), temperature)
    zeros_NT = logp_M.new_zeros(ids_NT.shape)
    entropy_M = entropy_M if entropy_grad else entropy_M.detach()
    return zeros_NT.masked_scatter(rows, logp_M), zeros_NT.masked_scatter(rows, entropy_M)


def token_logp(
    head: nn.Module, hidden_MD: Tensor, ids_M: Tensor, banned_V: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (M,) of M tokens from the hidden states that predict them."""
    if type(head) is nn.Linear and head.bias is None:
        return _Head.apply(hidden_MD, head.weight, ids_M, banned_V, temperature)
    chunk = max(1, CHUNK_LOGITS // len(banned_V))  # a head of another kind (an adapter on it): its own forward, chunk by chunk
    if len(ids_M) <= chunk:
        return _head_logp(head, hidden_MD, ids_M, banned_V, temperature)
    parts = [
        checkpoint(_head_logp, head, hidden, ids, banned_V, temperature, use_reentrant=False)
        for hidden, ids in zip(hidden_MD.split(chunk), ids_M.split(chunk), strict=True)
    ]
    logp, entropy = zip(*parts, strict=True)
    return torch.cat(logp), torch.cat(entropy)


def _head_logp(
    head: nn.Module, hidden_MD: Tensor, ids_M: Tensor, banned_V: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_MV = head(hidden_MD)
    logits_MV = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
    logp_MV = (logits_MV / temperature).masked_fill(banned_V, -torch.inf).log_softmax(-1)
    entropy_M = -(logp_MV.masked_fill(banned_V, 0.0) * logp_MV.exp()).sum(-1)
    return logp_MV.gather(1, ids_M[:, None])[:, 0], entropy_M


class _Head(torch.autograd.Function):
    """A linear head with log-softmax: logits exist for one chunk of tokens at a time, in the forward and again in the backward.

    With z = logits / temperature and p = softmax(z): d logp_i / dz = onehot_i - p, d entropy / dz = -p (log p + entropy).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, ids_M: Tensor, banned_V: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        exact = hidden_MD.dtype if hidden_MD.dtype == torch.float64 else torch.float32
        logp_M, entropy_M, total_M = (torch.empty(len(ids_M), dtype=exact, device=ids_M.device) for _ in range(3))
        banned = banned_V.nonzero()[:, 0]
        for part in _chunks(len(ids_M), len(weight_VD)):
            z_mV = _logits(hidden_MD[part], weight_VD, banned, temperature, exact)
            top_m = z_mV.amax(1)
            z_mV.sub_(top_m[:, None])
            chosen_m = z_mV.gather(1, ids_M[part, None])[:, 0]
            e_mV = z_mV.exp()
            sum_m = e_mV.sum(1)
            log_m = sum_m.log()
            logp_M[part], total_M[part] = chosen_m - log_m, top_m + log_m
            entropy_M[part] = log_m - torch.linalg.vecdot(e_mV, z_mV) / sum_m
        ctx.save_for_backward(hidden_MD, weight_VD, ids_M, banned, total_M, entropy_M)
        ctx.temperature, ctx.exact = temperature, exact
        ctx.set_materialize_grads(False)
        return logp_M.masked_fill_(banned_V[ids_M], -torch.inf), entropy_M

    @staticmethod
    def backward(ctx: Any, logp_grad_M: Tensor | None, entropy_grad_M: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, ids_M, banned, total_M, entropy_M = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden_MD) if to_hidden else None
        weight_grad = torch.zeros(weight_VD.shape, dtype=ctx.exact, device=weight_VD.device) if to_weight else None
        for part in _chunks(len(ids_M), len(weight_VD)):
            z_mV = _logits(hidden_MD[part], weight_VD, banned, ctx.temperature, ctx.exact)
            z_mV.sub_(total_M[part, None])  # log-probabilities
            scale_m = torch.zeros_like(total_M[part]) if logp_grad_M is None else -logp_grad_M[part]
            if entropy_grad_M is None:
                slope_mV = z_mV.exp_().mul_(scale_m[:, None])
            else:
                p_mV = z_mV.exp()
                slope_mV = z_mV.add_(entropy_M[part, None]).mul_(-entropy_grad_M[part, None]).add_(scale_m[:, None]).mul_(p_mV)
            slope_mV.scatter_add_(1, ids_M[part, None], -scale_m[:, None])
            slope_mV = slope_mV.div_(ctx.temperature).to(hidden_MD.dtype)
            if to_hidden:
                torch.mm(slope_mV, weight_VD.to(slope_mV.dtype), out=hidden_grad[part])
            if to_weight:
                weight_grad.addmm_(slope_mV.t().to(ctx.exact), hidden_MD[part].to(ctx.exact))
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight_VD.dtype), None, None, None


def _chunks(rows: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _logits(hidden_mD: Tensor, weight_VD: Tensor, banned: Tensor, temperature: float, exact: torch.dtype) -> Tensor:
    """Tempered logits (m,V); banned ones are so low that their probability is 0, and finite, so that 0 x log 0 is 0."""
    z_mV = (hidden_mD @ weight_VD.t().to(hidden_mD.dtype)).to(exact)
    if temperature != 1.0:
        z_mV.div_(temperature)
    return z_mV.index_fill_(1, banned, torch.finfo(exact).min / 4)

"""Log-probabilities and entropies of completion tokens, with the temperature and bans of sampling.

Legend: N rows, T completion tokens (padded), M scored tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openvlt.model.load import VLM
from openvlt.model.shared_prefix.forward import completion_hidden
from openvlt.types import Prompts

CHUNK_LOGITS = 1 << 23  # logits in memory at a time: 32 MiB in float32, at most three times


def completion_logp(
    vlm: VLM,
    prompts: Prompts,
    ids_NT: Tensor,
    mask_NT: Tensor,
    group_N: Tensor,
    *,
    temperature: float = 1.0,
    entropy_grad: bool = False,
    slope_NT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token, both (N,T) float32 and 0 where `mask_NT` is 0.

    `group_N` maps each row to its prompt. Gradients flow through the log-probabilities, and through the
    entropy with `entropy_grad`. Only completion positions reach the head, in chunks whose logits are computed
    again in the backward pass, so (N,T,V) never exists.

    `slope_NT` is the gradient of the loss with respect to the log-probabilities, up to a factor, where it is
    known before the pass (supervised losses, ratios that are 1). The head's gradients are then computed in
    the forward: three matrix products instead of four. It is checked; a wrong slope costs time only.
    """
    hidden_MD, rows = completion_hidden(vlm, prompts, ids_NT, mask_NT, group_N), mask_NT.bool()
    slope_M = None if slope_NT is None else slope_NT[rows]
    logp_M, entropy_M = token_logp(
        vlm.core.get_output_embeddings(), hidden_MD, ids_NT[rows], vlm.banned_V(), temperature, slope_M
    )
    zeros_NT = logp_M.new_zeros(ids_NT.shape)
    entropy_M = entropy_M if entropy_grad else entropy_M.detach()
    return zeros_NT.masked_scatter(rows, logp_M), zeros_NT.masked_scatter(rows, entropy_M)


def token_logp(
    head: nn.Module,
    hidden_MD: Tensor,
    ids_M: Tensor,
    banned_V: Tensor,
    temperature: float,
    slope_M: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (M,) of M tokens from the hidden states that predict them.

    `slope_M` is `completion_logp`'s, of the M tokens.
    """
    if type(head) is nn.Linear and head.bias is None:
        slope_M = slope_M if torch.is_grad_enabled() else None
        return _LinearHead.apply(hidden_MD, head.weight, ids_M, banned_V, temperature, slope_M)
    # a head of another kind (with an adapter on it): its own forward, chunk by chunk
    chunk = max(1, CHUNK_LOGITS // len(banned_V))
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
    logp_MV = log_probabilities(head(hidden_MD), banned_V, temperature)
    entropy_M = -(logp_MV.masked_fill(banned_V, 0.0) * logp_MV.exp()).sum(-1)
    return logp_MV.gather(1, ids_M[:, None])[:, 0], entropy_M


def log_probabilities(logits_MV: Tensor, banned_V: Tensor, temperature: float) -> Tensor:
    """Log-softmax (M,V) of tempered logits, in float32 at least, with -inf at banned tokens."""
    logits_MV = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
    return (logits_MV / temperature).masked_fill(banned_V, -torch.inf).log_softmax(-1)


class _LinearHead(torch.autograd.Function):
    """A linear head with log-softmax: logits exist for one chunk of tokens at a time.

    With z = logits / temperature and p = softmax(z): d logp_i / dz = onehot_i - p and d entropy / dz = -p
    (log p + entropy). With `slope_M` the forward computes the gradients too. The backward takes them if the
    gradient it gets is a multiple of that slope; otherwise it computes the logits again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        ids_M: Tensor,
        banned_V: Tensor,
        temperature: float,
        slope_M: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        exact = hidden_MD.dtype if hidden_MD.dtype == torch.float64 else torch.float32
        logp_M, entropy_M, total_M = (
            torch.empty(len(ids_M), dtype=exact, device=ids_M.device) for _ in range(3)
        )
        banned = banned_V.nonzero()[:, 0]
        early = None
        if slope_M is not None:
            early = _HeadGradients(hidden_MD, weight_VD, temperature, ctx.needs_input_grad[:2])
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
            if early is not None and slope_M is not None:
                slope_m = slope_M[part].to(exact)
                e_mV.mul_((-slope_m / sum_m)[:, None])
                early.add(part, e_mV.scatter_add_(1, ids_M[part, None], slope_m[:, None]))
            del z_mV, e_mV  # before the next chunk's are made
        ctx.save_for_backward(hidden_MD, weight_VD, ids_M, banned, total_M, entropy_M, slope_M)
        ctx.temperature, ctx.exact, ctx.early = temperature, exact, early
        ctx.set_materialize_grads(False)
        return logp_M.masked_fill_(banned_V[ids_M], -torch.inf), entropy_M

    @staticmethod
    def backward(
        ctx: Any, logp_grad_M: Tensor | None, entropy_grad_M: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, ids_M, banned, total_M, entropy_M, slope_M = ctx.saved_tensors
        if ctx.early is not None and entropy_grad_M is None:
            factor = _find_factor(logp_grad_M, slope_M)
            if factor is not None:
                early, ctx.early = ctx.early, None
                return *early.scale_by(factor), None, None, None, None
        gradients = _HeadGradients(hidden_MD, weight_VD, ctx.temperature, ctx.needs_input_grad[:2])
        for part in _chunks(len(ids_M), len(weight_VD)):
            z_mV = _logits(hidden_MD[part], weight_VD, banned, ctx.temperature, ctx.exact)
            z_mV.sub_(total_M[part, None])  # log-probabilities
            scale_m = torch.zeros_like(total_M[part]) if logp_grad_M is None else -logp_grad_M[part]
            if entropy_grad_M is None:
                z_mV.exp_().mul_(scale_m[:, None])
            else:
                p_mV = z_mV.exp()
                z_mV.add_(entropy_M[part, None]).mul_(-entropy_grad_M[part, None])
                z_mV.add_(scale_m[:, None]).mul_(p_mV)
                del p_mV
            gradients.add(part, z_mV.scatter_add_(1, ids_M[part, None], -scale_m[:, None]))
            del z_mV  # before the next chunk's is made
        return *gradients.scale_by(1.0), None, None, None, None


class _HeadGradients:
    """Gradients of hidden states and head weight, summed over chunks of the tempered logits' gradients."""

    def __init__(
        self, hidden_MD: Tensor, weight_VD: Tensor, temperature: float, wanted: tuple[bool, bool]
    ) -> None:
        exact = hidden_MD.dtype if hidden_MD.dtype == torch.float64 else torch.float32
        self.rows_MD, self.weight_VD, self.temperature = hidden_MD, weight_VD, temperature
        self.hidden = torch.empty_like(hidden_MD) if wanted[0] else None
        self.weight = (
            torch.zeros(weight_VD.shape, dtype=exact, device=weight_VD.device) if wanted[1] else None
        )

    def add(self, part: slice, slope_mV: Tensor) -> None:
        """Adds one chunk's share; `slope_mV` is its d loss / dz, which is overwritten."""
        slope_mV = slope_mV.div_(self.temperature).to(self.rows_MD.dtype)
        if self.hidden is not None:
            torch.mm(slope_mV, self.weight_VD.to(slope_mV.dtype), out=self.hidden[part])
        if self.weight is not None:
            self.weight.addmm_(slope_mV.t().to(self.weight.dtype), self.rows_MD[part].to(self.weight.dtype))

    def scale_by(self, factor: float) -> tuple[Tensor | None, Tensor | None]:
        """Both gradients times `factor`, in the precision of hidden states and weight."""
        hidden = self.hidden if self.hidden is None or factor == 1.0 else self.hidden.mul_(factor)
        weight = self.weight if self.weight is None or factor == 1.0 else self.weight.mul_(factor)
        return hidden, None if weight is None else weight.to(self.weight_VD.dtype)


def _find_factor(gradient_M: Tensor | None, slope_M: Tensor) -> float | None:
    """The factor in `gradient_M` = factor * `slope_M`; None when there is none."""
    if gradient_M is None:
        return None
    slope_M = slope_M.to(gradient_M)
    norm = torch.dot(slope_M, slope_M).clamp(min=torch.finfo(slope_M.dtype).tiny)
    factor = float(torch.dot(gradient_M, slope_M) / norm)
    largest = float(gradient_M.abs().max())
    factor = 1.0 if abs(factor - 1) < 1e-6 else factor
    return factor if (gradient_M - factor * slope_M).abs().max() <= 1e-6 * largest else None


def _chunks(rows: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _logits(
    hidden_mD: Tensor, weight_VD: Tensor, banned: Tensor, temperature: float, exact: torch.dtype
) -> Tensor:
    """Tempered logits (m,V). Banned ones get probability 0, but stay finite, so that 0 * log 0 is 0."""
    z_mV = (hidden_mD @ weight_VD.t().to(hidden_mD.dtype)).to(exact)
    if temperature != 1.0:
        z_mV.div_(temperature)
    return z_mV.index_fill_(1, banned, torch.finfo(exact).min / 4)

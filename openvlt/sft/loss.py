"""The loss of supervised fine-tuning: negative log-likelihood of the response's tokens."""

from __future__ import annotations

from torch import Tensor


def nll(logp_NT: Tensor, mask_NT: Tensor, tokens: int) -> Tensor:
    """-sum log p / `tokens`, the response tokens of the whole optimiser step.

    Equals the Hugging Face model's own loss when the step is one batch.
    """
    return -(logp_NT * mask_NT).sum() / tokens

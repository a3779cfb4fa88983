"""Estimators of KL(policy || reference) from the log-probabilities of sampled tokens (Schulman, "Approximating KL divergence")."""

from __future__ import annotations

from torch import Tensor


def k3(logp_NT: Tensor, ref_logp_NT: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log ref - log policy: unbiased, never negative (GRPO, arXiv 2402.03300, eq. 4). (N,T)."""
    difference_NT = ref_logp_NT - logp_NT
    return difference_NT.exp() - difference_NT - 1

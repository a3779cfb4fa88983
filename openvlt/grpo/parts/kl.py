"""Estimators of KL(policy || reference) per sampled token: `(logp_NT, ref_logp_NT) -> (N,T)`.

x = log policy - log reference. Values after Schulman, "Approximating KL divergence". As a loss on samples of
the policy itself their mean gradients differ: k1's is 0, k2's is that of KL(policy || reference), k3's that
of KL(reference || policy). Log-probabilities more than 20 apart count as 20 apart in the value of k3, where
exp would overflow (verl's clamp); their gradient is 0.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Estimator = Callable[[Tensor, Tensor], Tensor]


def k1(logp_NT: Tensor, ref_logp_NT: Tensor) -> Tensor:
    """x: unbiased, of either sign, the estimator for a KL term in the reward."""
    return logp_NT - ref_logp_NT


def k2(logp_NT: Tensor, ref_logp_NT: Tensor) -> Tensor:
    """x^2 / 2: biased, never negative."""
    return (logp_NT - ref_logp_NT).square() / 2


def k3(logp_NT: Tensor, ref_logp_NT: Tensor) -> Tensor:
    """exp(-x) + x - 1: unbiased, never negative (GRPO, arXiv 2402.03300, eq. 4)."""
    difference_NT = (ref_logp_NT - logp_NT).clamp(-20, 20)
    return difference_NT.exp() - difference_NT - 1


def k3_plus(logp_NT: Tensor, ref_logp_NT: Tensor) -> Tensor:
    """The value of k3 with the gradient of k2 (verl's `k3+`)."""
    straight_NT = k2(logp_NT, ref_logp_NT)
    return k3(logp_NT, ref_logp_NT).detach() + straight_NT - straight_NT.detach()

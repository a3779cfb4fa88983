"""The estimators of KL: their values, their gradients, and what those are on average."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openvlt.grpo.parts import kl

SLOPES = {
    kl.k1: lambda x: torch.ones_like(x),
    kl.k2: lambda x: x,
    kl.k3: lambda x: 1 - (-x).exp(),
    kl.k3_plus: lambda x: x,
}
VALUES = {
    kl.k1: lambda x: x,
    kl.k2: lambda x: x * x / 2,
    kl.k3: lambda x: (-x).exp() + x - 1,
    kl.k3_plus: lambda x: (-x).exp() + x - 1,
}


@pytest.mark.parametrize("estimator", SLOPES, ids=lambda function: function.__name__)
def test_estimators_and_their_gradients_are_the_formulas(estimator):
    policy, ref = torch.randn(2, 40, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    leaf = policy.clone().requires_grad_()
    value = estimator(leaf, ref)
    torch.testing.assert_close(value.detach(), VALUES[estimator](policy - ref), rtol=1e-10, atol=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    torch.testing.assert_close(slope, SLOPES[estimator](policy - ref), rtol=1e-10, atol=1e-12)


def test_the_mean_gradient_of_each_estimator_is_what_its_docstring_says():
    """Exactly, over all tokens of a small vocabulary: E[grad k1] = 0, E[grad k2] = grad KL(pi, ref), E[grad k3] = grad KL(ref, pi)."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=rng, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(5, generator=rng, dtype=torch.float64).log_softmax(0)
    logp = logits.log_softmax(0)
    forward, reverse = (logp.exp() * (logp - ref)).sum(), (ref.exp() * (ref - logp)).sum()

    def mean_gradient(estimator) -> Tensor:
        return torch.autograd.grad(
            (logp.detach().exp() * estimator(logp, ref)).sum(), logits, retain_graph=True
        )[0]

    assert mean_gradient(kl.k1).abs().max() < 1e-12
    for estimator, true in ((kl.k2, forward), (kl.k3_plus, forward), (kl.k3, reverse)):
        (expected,) = torch.autograd.grad(true, logits, retain_graph=True)
        torch.testing.assert_close(mean_gradient(estimator), expected, rtol=1e-10, atol=1e-12)


def test_far_apart_log_probabilities_stay_finite():
    far = torch.tensor([-500.0], requires_grad=True)
    value = kl.k3(far, torch.zeros(1))
    value.sum().backward()
    assert value.isfinite().all() and far.grad.isfinite().all()

"""Auxiliary losses: each has its own coefficient, its own tokens and so its own denominator.

A coefficient may be a schedule. An auxiliary loss is a mean over the tokens it marks, over the whole
optimiser step and all ranks. Groups that the group filter drops and tokens of weight 0 in the policy's loss
don't change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from openvlt.errors import UserError
from openvlt.grpo.parts.kl import Estimator, k1, k3
from openvlt.grpo.parts.loss_aggregation import LossAggregation
from openvlt.grpo.parts.schedules import check_coefficient
from openvlt.types import GRPOBatch, Origin, Verdict


@dataclass(frozen=True)
class AuxiliaryLoss:
    """The base of all auxiliary losses.

    `needs` names what has to be computed for it: reference, entropy, or one of `grpo.view_passes`.
    `loss_aggregation` None: reduced as the policy's loss is.
    """

    coefficient: float
    loss_aggregation: LossAggregation | None = None
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_coefficient(f"{type(self).__name__}.coefficient", self.coefficient)

    def tokens(self, mask_NT: Tensor) -> Tensor:
        """The tokens (N,T) it is a mean over; a subclass requests the columns it needs by name."""
        return mask_NT

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        """The loss at every token (N,T) of a micro-batch, with gradient."""
        raise NotImplementedError


@dataclass(frozen=True)
class ReferenceKL(AuxiliaryLoss):
    """KL(policy || reference) by `estimator` (k1, k2, k3, k3_plus of `openvlt.grpo.parts.kl`)."""

    estimator: Estimator = k3
    needs: ClassVar[tuple[str, ...]] = ("reference",)

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        assert batch.ref_logp_NT is not None, "`needs` has the reference scored"
        return self.estimator(logp_NT, batch.ref_logp_NT)


@dataclass(frozen=True)
class EntropyBonus(AuxiliaryLoss):
    """Minus the entropy of the predicted distribution, with its true gradient (not that of -log pi)."""

    needs: ClassVar[tuple[str, ...]] = ("entropy",)

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return -entropy_NT


@dataclass(frozen=True)
class SampleNLL(AuxiliaryLoss):
    """-log pi of the policy's own samples: VPPO's "entropy penalty" (`core_algos.py`).

    Its mean gradient is 0 where the samples are exactly the policy's.
    """

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return -logp_NT


@dataclass(frozen=True)
class PerceptionKL(AuxiliaryLoss):
    """-k3(log pi, log pi under an image view): pushes the two apart, so that answers depend on the image.

    PAPO, `papo_utils.py`.
    """

    view: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "needs", (self.view,))

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return -k3(logp_NT, batch.views[self.view])


@dataclass(frozen=True)
class SFTLoss(AuxiliaryLoss):
    """Cross-entropy on injected completions (`rows: injected`) or on correct ones (`rows: correct`)."""

    rows: str = "injected"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows not in ("injected", "correct"):
            raise UserError(f"SFTLoss.rows={self.rows!r}; it is injected (given texts) or correct")

    def tokens(self, mask_NT: Tensor, origin_N: Tensor, verdicts: Sequence[Verdict]) -> Tensor:
        """The tokens of the chosen rows."""
        if self.rows == "injected":
            return mask_NT * (origin_N == Origin.INJECTED)[:, None]
        correct = [verdict is Verdict.CORRECT for verdict in verdicts]
        return mask_NT * mask_NT.new_tensor(correct)[:, None]

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return -logp_NT


@dataclass(frozen=True)
class RewardKL:
    """A KL term in the reward: every token costs coefficient x estimator(old, reference).

    An advantage with one value per completion is computed from the reward minus their sum.
    """

    coefficient: float
    estimator: Estimator = k1

    def __post_init__(self) -> None:
        check_coefficient("reward_kl.coefficient", self.coefficient)

    def penalty(self, old_NT: Tensor, ref_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """The cost of every token: (N,T), 0 outside the completion."""
        return self.coefficient * self.estimator(old_NT, ref_NT) * mask_NT

"""Losses beside the policy's: each has its own coefficient (a number or a schedule), its own tokens and so its own denominator.

An auxiliary loss is a mean over the tokens it marks, over the whole optimiser step and all ranks; what the gate drops or a mask silences
in the policy's loss dilutes it no more than it dilutes the policy's. `aggregate` None: reduced as the policy's loss is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from openvlt.grpo.parts.kl import Estimator, k1, k3
from openvlt.grpo.parts.loss_aggregation import LossAggregation
from openvlt.grpo.parts.schedules import check_coefficient
from openvlt.types import GRPOBatch, Origin, Rollouts, Verdict


@dataclass(frozen=True)
class AuxiliaryLoss:
    """What they share. `needs` names what has to be computed for it: reference, entropy, or a pass of `grpo.view_passes`."""

    coefficient: float
    loss_aggregation: LossAggregation | None = None
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_coefficient(f"{type(self).__name__}.coefficient", self.coefficient)

    def tokens(self, rollouts: Rollouts) -> Tensor:
        """The tokens (N,T) it is a mean over."""
        return rollouts.mask_NT

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        """Its value at every token (N,T) of a micro-batch, with gradient."""
        raise NotImplementedError


@dataclass(frozen=True)
class ReferenceKL(AuxiliaryLoss):
    """KL(policy || reference) by `estimator` (k1, k2, k3, k3_plus of `openvlt.grpo.parts.kl`)."""

    estimator: Estimator = k3
    needs: ClassVar[tuple[str, ...]] = ("reference",)

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return self.estimator(logp_NT, batch.ref_logp_NT)


@dataclass(frozen=True)
class EntropyBonus(AuxiliaryLoss):
    """Minus the entropy of the predicted distribution: the entropy bonus, with its true gradient (not that of -log pi)."""

    needs: ClassVar[tuple[str, ...]] = ("entropy",)

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return -entropy_NT


@dataclass(frozen=True)
class SampleNLL(AuxiliaryLoss):
    """-log pi of the policy's own samples: VPPO's "entropy penalty" (`core_algos.py`). Its mean gradient is 0 on exactly own samples."""

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return -logp_NT


@dataclass(frozen=True)
class PerceptionKL(AuxiliaryLoss):
    """-k3(log pi, log pi under an image view): pushes the two apart, so that answers depend on the image (PAPO, `papo_utils.py`)."""

    view: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "needs", (self.view,))

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return -k3(logp_NT, batch.views[self.view])


@dataclass(frozen=True)
class SFTLoss(AuxiliaryLoss):
    """Cross-entropy on rows with a given text (`injected`) or on correct ones (`correct`): the mean over their own tokens."""

    rows: str = "injected"

    def tokens(self, rollouts: Rollouts) -> Tensor:
        if self.rows == "injected":
            return rollouts.mask_NT * (rollouts.origin_N == Origin.INJECTED)[:, None]
        correct = [verdict is Verdict.CORRECT for verdict in rollouts.verdicts]
        return rollouts.mask_NT * rollouts.mask_NT.new_tensor(correct)[:, None]

    def __call__(self, logp_NT: Tensor, entropy_NT: Tensor, batch: GRPOBatch) -> Tensor:
        return -logp_NT


@dataclass(frozen=True)
class RewardKL:
    """A KL term in the reward: every token costs coefficient x estimator(old, reference); an advantage per row is charged their sum."""

    coefficient: float
    estimator: Estimator = k1

    def __post_init__(self) -> None:
        check_coefficient("reward_kl.coefficient", self.coefficient)

    def penalty(self, old_NT: Tensor, ref_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """(N,T), 0 outside the completion."""
        return self.coefficient * self.estimator(old_NT, ref_NT) * mask_NT

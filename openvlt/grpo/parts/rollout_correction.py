"""Rollout correction: weights where the sampler's probabilities aren't the trainer's.

They differ by kernels and precision. w = pi_old(trainer) / pi_behaviour(sampler), per token or as the product
over the completion; too large weights are cut (`truncate`) or set to 0 (`mask`). Both probabilities are those
before top-p, which isn't corrected for. Whether masked tokens leave the denominator is up to
`grpo.denominator`. Rows without a behaviour log-probability (NaN: given texts) have weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openvlt.errors import UserError
from openvlt.grpo.parts.schedules import Schedule


@dataclass(frozen=True)
class RolloutCorrection:
    """Importance weights per `level` (token | sequence) by `action` (truncate | mask).

    `cap` is the largest weight, `floor` the smallest that `mask` lets through. TRL's vllm_importance_sampling
    modes (its default: sequence, mask, 3.0); truncate at 2.0 is verl's rollout_is.
    """

    level: str = "token"
    action: str = "truncate"
    cap: float = 2.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.level not in ("token", "sequence") or self.action not in ("truncate", "mask"):
            raise UserError(
                f"correction level={self.level!r}, action={self.action!r}; level is token or sequence, "
                "action truncate or mask"
            )
        # a schedule's values are checked when their step comes
        scheduled = isinstance(self.cap, Schedule) or isinstance(self.floor, Schedule)
        if not scheduled and not 0 <= self.floor < self.cap:
            raise UserError(f"correction floor={self.floor}, cap={self.cap}; they are 0 <= floor < cap")

    def __call__(self, old_NT: Tensor, behaviour_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """Weights of the loss: (N,T)."""
        difference_NT = ((old_NT - behaviour_NT) * mask_NT).nan_to_num(0.0)
        if self.level == "sequence":
            difference_NT = difference_NT.sum(1, keepdim=True).expand_as(difference_NT)
        weight_NT = difference_NT.clamp(-20, 20).exp()
        if self.action == "truncate":
            return weight_NT.clamp(max=self.cap)
        return weight_NT * ((weight_NT <= self.cap) & (weight_NT >= self.floor))

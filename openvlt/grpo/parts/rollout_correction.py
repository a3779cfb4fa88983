"""Rollout correction: the sampler's probabilities are not quite the trainer's (another kernel, another precision). Both are those
before top-p: what top-p takes away isn't corrected.

w = pi_old(trainer) / pi_behaviour(sampler), per token or as the product over the completion; too large weights are cut (`truncate`) or
set to 0 (`mask`). Weights only: whether masked tokens leave the denominator is the bundle's `denominator`. Rows without a behaviour
log-probability (NaN: given texts) have weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openvlt.errors import UserError
from openvlt.grpo.parts.schedules import Schedule


@dataclass(frozen=True)
class RolloutCorrection:
    """`level`: token | sequence; `action`: truncate | mask; `cap` the largest weight, `floor` the least that `mask` lets through.

    TRL's vllm_importance_sampling modes (its default: sequence, mask, 3.0); truncate at 2.0 is verl's rollout_is.
    """

    level: str = "token"
    action: str = "truncate"
    cap: float = 2.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.level not in ("token", "sequence") or self.action not in ("truncate", "mask"):
            raise UserError(
                f"correction level={self.level!r}, action={self.action!r}; level is token or sequence, action truncate or mask"
            )
        moving = isinstance(self.cap, Schedule) or isinstance(
            self.floor, Schedule
        )  # its values are checked when they come up
        if not moving and not 0 <= self.floor < self.cap:
            raise UserError(f"correction floor={self.floor}, cap={self.cap}; they are 0 <= floor < cap")

    def __call__(self, old_NT: Tensor, behaviour_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """Weights (N,T)."""
        difference_NT = ((old_NT - behaviour_NT) * mask_NT).nan_to_num(0.0)
        if self.level == "sequence":
            difference_NT = difference_NT.sum(1, keepdim=True).expand_as(difference_NT)
        weight_NT = difference_NT.clamp(-20, 20).exp()
        if self.action == "truncate":
            return weight_NT.clamp(max=self.cap)
        return weight_NT * ((weight_NT <= self.cap) & (weight_NT >= self.floor))

"""How a run's processes hold the model: settings of `conf/strategy/*.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

from openvlt.config.validate import check_positive
from openvlt.errors import UserError

SHARDS = ("auto", "none", "gradients", "weights")
TOWERS = ("auto", "whole", "cut")


@dataclass(frozen=True)
class Strategy:
    """What several processes cut into shards: nothing, gradients and optimiser states, or weights as well.

    `replicas` groups of processes hold the same shards; `tower` says whether the vision tower is cut too
    (`auto`: only where it is trained).
    """

    shard: str = "auto"
    replicas: int = 1
    tower: str = "auto"

    def __post_init__(self) -> None:
        for name, words in (("shard", SHARDS), ("tower", TOWERS)):
            if getattr(self, name) not in words:
                raise UserError(f"strategy.{name}={getattr(self, name)}; choose from {', '.join(words)}")
        check_positive(self, "strategy", "replicas")

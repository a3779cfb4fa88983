"""Extra scoring passes: the policy's own completions scored again while it looks at the problem's images through a view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openvlt.errors import UserError

OUTPUTS = ("logp", "sym_kl")


@dataclass(frozen=True)
class ViewPass:
    """Fills `logp[<name>]` and, if asked for, `stats["sym_kl:<name>"]`: the symmetric KL between the predictions with and without the
    view, ½ KL(p, q) + ½ KL(q, p) over the whole vocabulary, which is never stored. One draw of the view per rollout and problem, the same
    that a plan's completions are generated from.
    """

    view: Callable[..., Any]
    strength: float = 0.5
    outputs: tuple[str, ...] = ("logp",)

    def __post_init__(self) -> None:
        if unknown := set(self.outputs) - set(OUTPUTS):
            raise UserError(f"passes: outputs {sorted(unknown)} unknown; they are {', '.join(OUTPUTS)}")

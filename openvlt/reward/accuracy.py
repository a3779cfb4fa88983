"""Verifiable rewards: terms are callables `(rollouts, services) -> (N,)`, NaN where a term does not apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openvlt.types import Rollouts, Verdict


@dataclass(frozen=True)
class Accuracy:
    """1 for a correct final answer, 0 for everything else (paper, section 3): no partial credit, no credit for format."""

    def __call__(self, rollouts: Rollouts, services: Any = None) -> Tensor:
        return torch.tensor([float(verdict is Verdict.CORRECT) for verdict in rollouts.verdicts])


@dataclass(frozen=True)
class EmptySummary:
    """-1 for a correct answer with nothing between the last `</think>` and `<answer>`, else 0 (released v1.2, `r1v.py`, which weighs it
    by 0.5: a wrong answer stays at 0)."""

    def __call__(self, rollouts: Rollouts, services: Any = None) -> Tensor:
        said = zip(rollouts.completions, rollouts.verdicts, strict=True)
        return torch.tensor(
            [
                -1.0 if verdict is Verdict.CORRECT and _unsummed(completion.text) else 0.0
                for completion, verdict in said
            ]
        )


def _unsummed(text: str) -> bool:
    return (
        "</think>" in text
        and "<answer>" in text
        and not text.rpartition("</think>")[2].partition("<answer>")[0].strip()
    )

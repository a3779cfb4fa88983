"""Reward terms of the paper: `(rollouts, services) -> (N,)`, NaN where a term does not apply."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openvlt.reward.services import Services
from openvlt.types import ScoredRollouts, Verdict


@dataclass(frozen=True)
class Accuracy:
    """1 for a correct final answer, 0 for everything else, also for the right format (paper, section 3)."""

    def __call__(self, rollouts: ScoredRollouts, services: Services) -> Tensor:
        return torch.tensor([float(verdict is Verdict.CORRECT) for verdict in rollouts.verdicts])


@dataclass(frozen=True)
class EmptySummary:
    """-1 for a correct answer with nothing between the last `</think>` and `<answer>`, else 0.

    Released v1.2, `r1v.py`, which weighs it by 0.5: a wrong answer stays at 0.
    """

    def __call__(self, rollouts: ScoredRollouts, services: Services) -> Tensor:
        rows = zip(rollouts.completions, rollouts.verdicts, strict=True)
        return torch.tensor(
            [
                -1.0 if verdict is Verdict.CORRECT and _has_empty_summary(completion.text) else 0.0
                for completion, verdict in rows
            ]
        )


def _has_empty_summary(text: str) -> bool:
    return (
        "</think>" in text
        and "<answer>" in text
        and not text.rpartition("</think>")[2].partition("<answer>")[0].strip()
    )

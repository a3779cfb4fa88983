"""Verifiable rewards: terms are callables `(rollouts, services) -> (N,)`, NaN where a term does not apply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openvlt.types import Completion, Problem, Rollouts, Verdict
from openvlt.verify import verify_batch


def judge(
    problems: Sequence[Problem], completions: Sequence[Completion], *, workers: int = 0, deadline_s: float = 1.0
) -> tuple[Verdict, ...]:
    """The verdict on each completion of the problem beside it. A completion cut off at the token limit has no answer."""
    finished = [row for row, completion in enumerate(completions) if completion.finished]
    items = [
        {
            "gold": problems[row].answer,
            "response": completions[row].text,
            "choices": problems[row].choices,
            "answer_type": problems[row].answer_type,
        }
        for row in finished
    ]
    verdicts = [Verdict.NO_ANSWER] * len(completions)
    for row, verdict in zip(finished, verify_batch(items, workers=workers, deadline_s=deadline_s), strict=True):
        verdicts[row] = verdict
    return tuple(verdicts)


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
        return torch.tensor([-1.0 if verdict is Verdict.CORRECT and _unsummed(completion.text) else 0.0 for completion, verdict in said])


def _unsummed(text: str) -> bool:
    return "</think>" in text and "<answer>" in text and not text.rpartition("</think>")[2].partition("<answer>")[0].strip()

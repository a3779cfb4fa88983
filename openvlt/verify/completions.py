"""Verdicts of completions; the only place that says that a completion cut off has no answer."""

from __future__ import annotations

from collections.abc import Sequence

from openvlt.types import Completion, Problem, Verdict
from openvlt.verify.api import verify_batch


def verify_completions(
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    *,
    workers: int = 0,
    deadline_s: float = 1.0,
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
    for row, verdict in zip(
        finished, verify_batch(items, workers=workers, deadline_s=deadline_s), strict=True
    ):
        verdicts[row] = verdict
    return tuple(verdicts)

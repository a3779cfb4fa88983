"""Verdicts of completions. Only here does a completion that was cut off count as having no answer."""

from __future__ import annotations

from collections.abc import Sequence

from openvlt import distributed
from openvlt.types import Completion, Problem, Verdict
from openvlt.verify.api import verify_batch


def verify_completions(
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    *,
    workers: int = 0,
    deadline_s: float = 1.0,
    extraction: str = "any",
) -> tuple[Verdict, ...]:
    """One verdict per completion, each against the problem at the same position.

    A completion that was cut off at the token limit gets NO_ANSWER. `workers`, `deadline_s` and
    `extraction` are those of `verify_batch`. Every rank calls this and gets the main rank's verdicts, because
    a deadline may pass on one rank and not on another.
    """
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
    found = verify_batch(items, workers=workers, deadline_s=deadline_s, extraction=extraction)
    for row, verdict in zip(finished, found, strict=True):
        verdicts[row] = verdict
    return distributed.broadcast(tuple(verdicts))

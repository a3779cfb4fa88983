"""Verdicts of completions. Only here does a completion that was cut off count as having no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from openvlt import distributed
from openvlt.types import Completion, Problem, Verdict
from openvlt.verify.api import grade_response, verify_batch


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


def explain_completion(
    problem: Problem, completion: Completion, verdict: Verdict, *, extraction: str = "any"
) -> tuple[str | None, list[str]]:
    """The extracted answer (None without one) and the lines that say how `verdict` was reached.

    The verdict is the recorded one: nothing is graded symbolically again, and a response that ran out of time
    isn't read a second time.
    """
    if not completion.finished:
        return None, _explanation_lines(verdict, "extraction: cut off at the token limit")
    if verdict is Verdict.TIMEOUT:
        return None, _explanation_lines(verdict, "deadline: the verifier ran out of time")
    found = grade_response(problem.answer, completion.text, problem.choices, problem.answer_type, extraction)
    if found.pending:
        found = replace(found, why="by sympy in a worker process")
    return found.extracted, replace(found, verdict=verdict).lines()


def _explanation_lines(verdict: Verdict, reason: str) -> list[str]:
    return [f"{name:18}{text}" for name, text in (("verdict", verdict.value), ("decided by", reason))]

"""From scored answers to numbers: counts with intervals, sub-scores, and rates over several samples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openvlt.benchmark.protocol import Answer
from openvlt.benchmark.results.statistics import Z95, clustered_error, majority_vote, pass_at_k, wilson
from openvlt.types import Problem, Verdict

NO_USABLE_ANSWER = (Verdict.UNPARSED, Verdict.NO_ANSWER, Verdict.TIMEOUT)


@dataclass(frozen=True)
class ScoredProblem:
    """One problem with the answers of all its samples. `finished` is False for a response that was cut off.

    It is None where that is unknown.
    """

    problem: Problem
    answers: tuple[Answer, ...]
    finished: tuple[bool | None, ...]

    @property
    def correct(self) -> tuple[bool, ...]:
        """Whether each sample is correct."""
        return tuple(answer.verdict is Verdict.CORRECT for answer in self.answers)

    @property
    def share(self) -> float:
        """The share of correct samples."""
        return sum(self.correct) / len(self.answers)


def summarise_scores(
    scored: Sequence[ScoredProblem], metrics: Callable[..., dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Counts, interval, clustered error, unparsed and truncated rates, sub-scores; pass@k and maj@k.

    `total` counts answers (rows x samples). The interval is Wilson's for one sample. Samples of one row are
    not independent, so with several it is the accuracy +- 1.96 clustered errors.
    """
    samples = len(scored[0].answers)
    verdicts = Counter(answer.verdict for row in scored for answer in row.answers)
    cut = [flag is False for row in scored for flag in row.finished if flag is not None]
    clusters = [row.problem.meta["cluster"] for row in scored]
    error = clustered_error([row.share for row in scored], clusters)
    result = {
        **score_counts(scored, error),
        "clustered_error": error,
        "clusters": len(set(clusters)),
        "rows": len(scored),
        "samples": samples,
        "verdicts": {verdict.value: verdicts[verdict] for verdict in Verdict if verdicts[verdict]},
        "unparsed": sum(verdicts[verdict] for verdict in NO_USABLE_ANSWER) / (samples * len(scored)),
        "truncated": sum(cut) / len(cut) if cut else None,
        "metrics": {} if metrics is None else metrics([(row.problem, row.share) for row in scored]),
        "cells": breakdown(scored),
    }
    return result | (summarise_samples(scored) if samples > 1 else {})


def score_counts(scored: Sequence[ScoredProblem], error: float | None = None) -> dict[str, Any]:
    """`accuracy`, `correct`, `total`, the 95 % `interval` and its `half_width`."""
    samples, correct = len(scored[0].answers), sum(sum(row.correct) for row in scored)
    total = samples * len(scored)
    share = correct / total
    if samples == 1:
        low, high = wilson(correct, total)
    else:
        error = clustered_error([row.share for row in scored], range(len(scored))) if error is None else error
        half = Z95 * (error or 0.0)
        low, high = max(0.0, share - half), min(1.0, share + half)
    return {
        "accuracy": share,
        "correct": correct,
        "total": total,
        "interval": [low, high],
        "half_width": (high - low) / 2,
    }


def breakdown(scored: Sequence[ScoredProblem]) -> dict[str, dict[str, Any]]:
    """Counts per value of every sub-score; a row with several values (skills) counts in each."""
    groups: dict[str, dict[str, list[ScoredProblem]]] = defaultdict(lambda: defaultdict(list))
    for row in scored:
        for group, value in row.problem.meta["cells"].items():
            for name in value if isinstance(value, tuple) else (value,):
                groups[group][name].append(row)
    return {
        group: {name: score_counts(rows) for name, rows in sorted(values.items())}
        for group, values in groups.items()
    }


def summarise_samples(scored: Sequence[ScoredProblem]) -> dict[str, Any]:
    """pass@k for every power of two up to the number of samples, and maj@k over normalised answers."""
    n = len(scored[0].answers)
    ks = sorted({k for power in range(n.bit_length()) if (k := 2**power) <= n} | {n})
    passed = {str(k): sum(pass_at_k(n, sum(row.correct), k) for row in scored) / len(scored) for k in ks}
    voted = 0
    for row in scored:
        extracted = [answer.extracted for answer in row.answers]
        chosen = majority_vote([None if text is None else text.strip().casefold() for text in extracted])
        voted += chosen is not None and row.correct[chosen]
    return {"pass@k": passed, f"maj@{n}": voted / len(scored)}

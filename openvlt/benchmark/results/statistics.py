"""Intervals, standard errors and tests for scores. An unparsed answer counts as a wrong one."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054


def wilson(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), 95 % by default.

    Raises ValueError on impossible counts.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"wilson: {correct} of {n} is no proportion")
    share, spread = correct / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low, high = centre - half, centre + half
    return (0.0 if correct == 0 else low), (1.0 if correct == n else high)


def clustered_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean when rows of one cluster belong together; None for fewer than two clusters.

    Liang & Zeger 1986, times G/(G-1) for G clusters. With every row a cluster of its own it is the usual
    standard error.
    """
    mean = sum(values) / len(values)
    sums: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    if len(sums) < 2:
        return None
    squares = sum(total * total for total in sums.values())
    return math.sqrt(len(sums) / (len(sums) - 1) * squares) / len(values)


def mcnemar(only_one: int, only_other: int) -> float:
    """Exact two-sided p of McNemar's test, from the rows that only one of two runs got right.

    If the runs are equally good, such a row is the throw of a fair coin.
    """
    from scipy.stats import binomtest

    n = only_one + only_other
    return float(binomtest(only_one, n).pvalue) if n else 1.0


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two means over the same rows, with its bootstrap interval and two-sided p."""

    difference: float
    interval: tuple[float, float]
    p: float


def paired_bootstrap(
    one: Sequence[float],
    other: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """`other` minus `one` under resampling of whole clusters: 95 % percentile interval and two-sided p.

    The p comes from the smaller share of resamples on one side of zero.
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    place = [names[cluster] for cluster in clusters]
    total_C, size_C = np.zeros(len(names)), np.zeros(len(names))
    np.add.at(total_C, place, np.asarray(other, float) - np.asarray(one, float))
    np.add.at(size_C, place, 1.0)
    rng, means = np.random.default_rng(seed), []
    for start in range(0, resamples, 500):
        drawn = rng.integers(0, len(names), (min(500, resamples - start), len(names)))
        means.append(total_C[drawn].sum(1) / size_C[drawn].sum(1))
    means_R = np.concatenate(means)
    low, high = np.quantile(means_R, [0.025, 0.975])
    beyond = 1 + min((means_R <= 0).sum(), (means_R >= 0).sum())
    return PairedDifference(
        float(total_C.sum() / size_C.sum()),
        (float(low), float(high)),
        min(1.0, float(2 * beyond / (resamples + 1))),
    )


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased chance that one of k samples is correct: 1 - C(n-c, k) / C(n, k) (arXiv 2107.03374)."""
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass_at_k: n={n}, correct={correct}, k={k} can't be")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def majority_vote(answers: Sequence[Hashable | None]) -> int | None:
    """Index of the first sample with the most frequent answer; None is no vote, the earlier wins a tie."""
    counts = Counter(answer for answer in answers if answer is not None)
    return answers.index(counts.most_common(1)[0][0]) if counts else None

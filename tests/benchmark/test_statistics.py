"""Intervals, errors and tests against published values, scipy and statsmodels, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from openvlt.benchmark.heldout import accuracy, summarise_heldout
from openvlt.benchmark.protocol import Answer
from openvlt.benchmark.results.compare import paired_difference
from openvlt.benchmark.results.statistics import (
    clustered_error,
    majority_vote,
    mcnemar,
    paired_bootstrap,
    pass_at_k,
    wilson,
)
from openvlt.benchmark.results.summary import ScoredProblem
from openvlt.benchmark.results.summary import summarise_scores as benchmark_summary
from openvlt.types import Completion, Problem, Verdict


@pytest.mark.parametrize(
    ("correct", "n", "interval"),
    [
        (81, 263, (0.2553, 0.3662)),  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (15, 20, (0.5313, 0.8881)),
    ],
)
def test_wilson_equals_published_values(correct, n, interval):
    assert wilson(correct, n) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize(("correct", "n"), [(1, 2), (3, 10), (9, 10), (500, 1000), (1, 1000), (7, 7000)])
@pytest.mark.parametrize("z", [1.0, 1.959963984540054, 2.5758])
def test_wilson_solves_its_definition(correct, n, z):
    """The ends are the p with |share - p| = z sqrt(p (1 - p) / n), found by bisection."""
    share = correct / n

    def bisect(inside: float, outside: float) -> float:
        for _ in range(200):
            middle = (inside + outside) / 2
            if abs(share - middle) <= z * math.sqrt(middle * (1 - middle) / n):
                inside = middle
            else:
                outside = middle
        return inside

    assert wilson(correct, n, z) == pytest.approx((bisect(share, 0.0), bisect(share, 1.0)), rel=1e-9)


@pytest.mark.parametrize("n", [1, 5, 1000])
def test_none_and_all_stay_within_zero_and_one(n):
    z2 = 1.959963984540054**2
    assert wilson(0, n)[0] == 0.0 and wilson(0, n)[1] == pytest.approx(z2 / (n + z2))
    assert wilson(n, n)[1] == 1.0 and wilson(n, n)[0] == pytest.approx(n / (n + z2))
    for correct in range(0, n + 1, max(1, n // 7)):
        low, high = wilson(correct, n)
        assert 0 <= low <= correct / n <= high <= 1
        mirrored = wilson(n - correct, n)
        assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 29, 100, 304, 1000, 3040])
def test_wilson_equals_scipys(n):
    for correct in {0, 1, n // 3, n // 2, n - 1, n}:
        theirs = scipy.stats.binomtest(correct, n).proportion_ci(method="wilson")
        assert wilson(correct, n) == pytest.approx((theirs.low, theirs.high), rel=0, abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_counts_that_cannot_be_are_refused(correct, n):
    with pytest.raises(ValueError, match=f"wilson: {correct} of {n} is no proportion"):
        wilson(correct, n)


def test_a_summary_by_hand():
    problems = [Problem(str(index), "?", "1", level=level) for index, level in enumerate([1, 1, 2, None])]
    answers = [
        Completion((1,) * size, "x", end) for size, end in [(2, True), (4, True), (6, True), (8, False)]
    ]
    verdicts = [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, Verdict.NO_ANSWER]
    result = summarise_heldout(problems, answers, verdicts)
    assert (result["accuracy"], result["correct"], result["n"]) == (0.5, 2, 4)
    assert result["interval"] == pytest.approx([0.15004, 0.84996], abs=1e-5)
    assert (result["length"], result["finished"]) == (5.0, 0.75)
    assert result["verdicts"] == {"correct": 2, "wrong": 1, "no_answer": 1}
    assert list(result["levels"]) == ["1", "2"] and result["levels"]["1"] == accuracy([True, False])
    assert result["levels"]["2"]["accuracy"] == 1.0 and result["levels"]["2"]["interval"][1] == 1.0


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(436, 3040, 13.14, 15.63), (348, 1000, 31.91, 37.81), (144, 400, 31.45, 40.82)],
)
def test_wilson_at_the_benchmarks_sizes(correct, n, low, high):
    assert [round(100 * bound, 2) for bound in wilson(correct, n)] == [low, high]


# --- clustered errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_clustered_error_is_statsmodels_sandwich(seed):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 40, 300)
    values = (rng.random(300) < 0.3 + 0.4 * rng.random(40)[clusters]).astype(float)
    n, groups = len(values), len(set(clusters))
    fitted = sm.OLS(values, np.ones(n)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": True}
    )

    assert clustered_error(values.tolist(), clusters.tolist()) == pytest.approx(fitted.bse[0], rel=1e-9)
    assert groups < n


def test_rows_alone_have_the_usual_standard_error_and_copies_add_nothing():
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    usual = np.std(values, ddof=1) / math.sqrt(len(values))
    assert clustered_error(values, range(8)) == pytest.approx(usual)
    assert clustered_error(values * 3, list(range(8)) * 3) == pytest.approx(usual)
    assert clustered_error(values, [0] * 8) is None


# --- paired tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (3, 11), (40, 21), (200, 260)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    table = [[50, b], [c, 70]]
    assert mcnemar(b, c) == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    tails = 2 * sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar(b, c) == pytest.approx(min(1.0, tails), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_paired_bootstrap_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    one = (rng.random(200) < 0.5).astype(float)
    other = np.where(rng.random(200) < 0.2, 1 - one, one)
    mine = paired_bootstrap(one.tolist(), other.tolist(), range(200), seed=seed)
    theirs = scipy.stats.bootstrap(
        (other - one,), np.mean, method="percentile", n_resamples=10_000, random_state=seed
    )
    assert mine.difference == pytest.approx((other - one).mean())
    assert mine.interval == pytest.approx(tuple(theirs.confidence_interval), abs=0.006)


def test_the_bootstrap_draws_whole_clusters():
    """Ten copies of every row are no ten times more evidence."""
    one, other = [0.0] * 20 + [1.0] * 20, [1.0] * 8 + [0.0] * 12 + [1.0] * 18 + [0.0] * 2
    alone = paired_bootstrap(one, other, range(40))
    copied = paired_bootstrap(one * 10, other * 10, list(range(40)) * 10)
    assert copied.interval == pytest.approx(alone.interval, abs=1e-9)
    assert paired_bootstrap(one, one, range(40)).p == 1.0


def test_a_comparison_by_hand():
    result = paired_difference([1, 1, 0, 0, 1], [1, 0, 1, 1, 1], list("abcde"))
    assert (result["only_one_right"], result["only_other_right"], result["mcnemar_p"]) == (1, 2, 1.0)
    assert result["difference"] == pytest.approx(0.2) and result["accuracy"] == [0.6, 0.8]
    assert paired_difference([0.5], [1], ["a"])["mcnemar_p"] is None  # samples: no coin


# --- several samples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "c", "k", "chance"),
    [(4, 1, 2, 0.5), (8, 3, 4, 0.92857), (5, 0, 3, 0.0), (5, 5, 1, 1.0), (6, 2, 1, 1 / 3)],
)
def test_pass_at_k(n, c, k, chance):
    assert pass_at_k(n, c, k) == pytest.approx(chance, abs=1e-5)


def test_the_first_seen_of_the_most_frequent_answers_wins():
    assert majority_vote(["b", "a", "a", "b"]) == 0
    assert majority_vote([None, None, "a", None]) == 2
    assert majority_vote([None, None]) is None


def _rows(marks, clusters=None):
    """Rows of "1" right, "0" wrong, "-" unparsed; samples side by side."""
    verdicts = {"1": Verdict.CORRECT, "0": Verdict.WRONG, "-": Verdict.UNPARSED}
    rows = []
    for index, samples in enumerate(marks):
        cluster = str(index) if clusters is None else clusters[index]
        problem = Problem(
            str(index),
            "?",
            "1",
            meta={"cells": {"half": "first" if index < len(marks) / 2 else "second"}, "cluster": cluster},
        )
        rows.append(
            ScoredProblem(
                problem,
                tuple(Answer(None if mark == "-" else mark, verdicts[mark]) for mark in samples),
                (True,) * len(samples),
            )
        )
    return rows


def test_a_benchmark_summary_by_hand():
    result = benchmark_summary(_rows(["1", "0", "-", "1"]))
    assert (
        result["accuracy"],
        result["correct"],
        result["total"],
        result["unparsed"],
        result["truncated"],
    ) == (0.5, 2, 4, 0.25, 0.0)
    assert result["interval"] == list(wilson(2, 4)) and result["cells"]["half"]["first"]["correct"] == 1
    assert result["verdicts"] == {"correct": 2, "wrong": 1, "unparsed": 1}


def test_several_samples_by_hand():
    result = benchmark_summary(_rows(["1100", "0001", "--1-", "0000"]))
    assert (result["correct"], result["total"], result["rows"], result["samples"]) == (4, 16, 4, 4)
    assert result["pass@k"] == pytest.approx({"1": 0.25, "2": (5 / 6 + 0.5 + 0.5) / 4, "4": 0.75})
    assert (
        result["maj@4"] == 0.5
    )  # "1" was said first in the tie, "0" has most votes, "1" is the only answer, "0"
    error = clustered_error([0.5, 0.25, 0.25, 0.0], range(4))
    assert result["interval"] == pytest.approx([max(0, 0.25 - 1.959964 * error), 0.25 + 1.959964 * error])

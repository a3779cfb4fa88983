"""Wilson's interval against published values and against the definition solved another way; summaries by hand."""

from __future__ import annotations

import math

import pytest

from openvlt.benchmark.evaluate import accuracy, summary
from openvlt.benchmark.statistics import wilson
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


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_counts_that_cannot_be_are_refused(correct, n):
    with pytest.raises(ValueError, match=f"wilson: {correct} of {n} is no proportion"):
        wilson(correct, n)


def test_a_summary_by_hand():
    problems = [Problem(str(index), "?", "1", level=level) for index, level in enumerate([1, 1, 2, None])]
    answers = [Completion((1,) * size, "x", end) for size, end in [(2, True), (4, True), (6, True), (8, False)]]
    verdicts = [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, Verdict.NO_ANSWER]
    result = summary(problems, answers, verdicts)
    assert (result["accuracy"], result["correct"], result["n"]) == (0.5, 2, 4)
    assert result["interval"] == pytest.approx([0.15004, 0.84996], abs=1e-5)
    assert (result["length"], result["finished"]) == (5.0, 0.75)
    assert result["verdicts"] == {"correct": 2, "wrong": 1, "no_answer": 1}
    assert list(result["levels"]) == ["1", "2"] and result["levels"]["1"] == accuracy([True, False])
    assert result["levels"]["2"]["accuracy"] == 1.0 and result["levels"]["2"]["interval"][1] == 1.0

"""Hand-decided verdicts: our own cases by category, and the given ones of the test data."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from openvlt.types import Verdict
from openvlt.verify import explain, extract, verify

OWN = [
    json.loads(line)
    for line in (Path(__file__).parent / "own_cases.jsonl").read_text(encoding="utf-8").splitlines()
]
WRAPPINGS = ("<think>t</think><answer>{}</answer>", "Working it out, the result is \\boxed{{{}}}.")
"""An own case's `answers` are tried in both, its `responses` as they stand."""


def _responses(case: dict, side: str) -> list[str]:
    answers = case.get("answers", {}).get(side, [])
    wrapped = [w.format(a) for a in answers for w in WRAPPINGS if "\n" not in a or "<answer>" in w]
    return wrapped + case.get("responses", {}).get(side, [])


@pytest.mark.parametrize("category", sorted({case["category"] for case in OWN}))
def test_own_cases(category: str) -> None:
    failures = [
        f"{case['gold']!r} <- {response!r}, {side} by hand: {result}"
        for case in OWN
        if case["category"] == category
        for side in ("right", "wrong")
        for response in _responses(case, side)
        for result in [
            explain(case["gold"], response, choices=case.get("choices"), answer_type=case.get("answer_type"))
        ]
        if (result.verdict is Verdict.CORRECT) != (side == "right")
    ]
    assert not failures, "\n".join(failures)


def test_every_category_has_positives_and_negatives_enough(data_dir: Path) -> None:
    given = {
        json.loads(line)["category"]
        for line in (data_dir / "verify_cases.jsonl").read_text("utf-8").splitlines()
    }
    for category in given:
        sides = [
            sum(len(_responses(c, side)) for c in OWN if c["category"] == category)
            for side in ("right", "wrong")
        ]
        assert sum(sides) >= 10 and sides[1] >= 4, (category, sides)


def test_given_cases(data_dir: Path) -> None:
    right: dict[str, list[bool]] = defaultdict(list)
    failures = []
    for row in map(json.loads, (data_dir / "verify_cases.jsonl").read_text(encoding="utf-8").splitlines()):
        result = explain(
            row["gold"], row["response"], choices=row.get("choices"), answer_type=row.get("answer_type")
        )
        right[row["category"]].append((result.verdict is Verdict.CORRECT) == row["expected"])
        if not right[row["category"]][-1]:
            failures.append(f"{row['id']} {row['gold']!r} expected {row['expected']}: {result}")
    everything = [ok for group in right.values() for ok in group]
    assert sum(everything) / len(everything) >= 0.98, "\n".join(failures)
    assert {
        name: sum(group) / len(group) for name, group in right.items() if sum(group) / len(group) < 0.9
    } == {}, "\n".join(failures)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>1</think><answer>7</answer>", "7"),
        (r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("The answer is 12.", "12"),
        ("7", "7"),
        ("<answer>7", None),
        ("", None),
        ("<think>7", None),
        ("I don't know.", None),
        (r"\boxed{\frac{1}{", None),
        ("The answer is 3.5, because 7/2 = 3.5.", "3.5"),
        ("答案是 12。", "12"),
    ],
)
def test_extract(response: str, answer: str | None) -> None:
    assert extract(response) == answer


@pytest.mark.parametrize(
    ("gold", "response", "verdict"),
    [
        ("12", "", Verdict.NO_ANSWER),
        ("12", "I cannot determine the answer.", Verdict.NO_ANSWER),
        ("12", "<answer>13</answer>", Verdict.WRONG),
        ("12", r"<answer>\frac{1}{</answer>", Verdict.UNPARSED),
        ("12", "<answer>12</answer>", Verdict.CORRECT),
        ("12", "<answer>1/0</answer>", Verdict.UNPARSED),
    ],
)
def test_verdicts(gold: str, response: str, verdict: Verdict) -> None:
    assert verify(gold, response) is verdict


def test_a_list_is_ordered_whatever_its_brackets() -> None:
    assert verify("[1, 2]", "<answer>(1, 2)</answer>", answer_type="list") is Verdict.CORRECT
    assert verify("1, 2", "<answer>2, 1</answer>", answer_type="list") is Verdict.WRONG
    assert verify("1, 2", "<answer>2, 1</answer>") is Verdict.CORRECT

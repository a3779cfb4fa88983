"""Hand-decided verdicts: our own cases by category, and the given ones of the test data."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from verify_own_cases import ANSWERS, CHOICE_RESPONSES, CHOICES, RESPONSES

from openvlt.types import Verdict
from openvlt.verify import explain, extract, verify

WRAPPINGS = ("<think>t</think><answer>{}</answer>", "Working it out, the result is \\boxed{{{}}}.")


def _wrong(gold: str, answers: list[str], expected: bool, choices: list[str] | None = None) -> list[str]:
    return [
        f"{gold!r} <- {wrapped!r}: {explain(gold, wrapped, choices=choices)}"
        for answer in answers
        for wrapped in (w.format(answer) for w in WRAPPINGS)
        if "\n" not in answer or "<answer>" in wrapped
        if (verify(gold, wrapped, choices=choices) is Verdict.CORRECT) != expected
    ]


@pytest.mark.parametrize("category", ANSWERS)
def test_answers(category: str) -> None:
    failures = [
        line
        for gold, right, wrong in ANSWERS[category]
        for line in (*_wrong(gold, right, True), *_wrong(gold, wrong, False))
    ]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    ("gold", "choices", "right", "wrong"), CHOICES, ids=[f"{gold}-{choices[0]}" for gold, choices, _, _ in CHOICES]
)
def test_choices(gold: str, choices: list[str], right: list[str], wrong: list[str]) -> None:
    failures = [*_wrong(gold, right, True, choices), *_wrong(gold, wrong, False, choices)]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("category", RESPONSES)
def test_responses(category: str) -> None:
    failures = [
        f"{gold!r} <- {response!r}: {explain(gold, response)}"
        for gold, response, expected in RESPONSES[category]
        if (verify(gold, response) is Verdict.CORRECT) != expected
    ]
    assert not failures, "\n".join(failures)


def test_choices_in_prose() -> None:
    failures = [
        f"{gold!r} <- {response!r}: {explain(gold, response, choices=choices)}"
        for gold, response, choices, expected in CHOICE_RESPONSES
        if (verify(gold, response, choices=choices) is Verdict.CORRECT) != expected
    ]
    assert not failures, "\n".join(failures)


def test_there_are_cases_enough() -> None:
    count = sum(len(right) + len(wrong) for group in ANSWERS.values() for _, right, wrong in group)
    count += sum(len(right) + len(wrong) for _, _, right, wrong in CHOICES) + sum(map(len, RESPONSES.values()))
    assert count >= 400


def test_given_cases(data_dir: Path) -> None:
    right: dict[str, list[bool]] = defaultdict(list)
    failures = []
    for row in map(json.loads, (data_dir / "verify_cases.jsonl").read_text(encoding="utf-8").splitlines()):
        result = explain(row["gold"], row["response"], choices=row.get("choices"), answer_type=row.get("answer_type"))
        right[row["category"]].append((result.verdict is Verdict.CORRECT) == row["expected"])
        if not right[row["category"]][-1]:
            failures.append(f"{row['id']} {row['gold']!r} expected {row['expected']}: {result}")
    everything = [ok for group in right.values() for ok in group]
    assert sum(everything) / len(everything) >= 0.98, "\n".join(failures)
    assert {name: sum(group) / len(group) for name, group in right.items() if sum(group) / len(group) < 0.9} == {}, (
        "\n".join(failures)
    )


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

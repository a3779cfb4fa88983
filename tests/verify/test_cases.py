"""Hand-decided verdicts: our own cases by category, and the given ones of the test data."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from openvlt.errors import UserError
from openvlt.types import Verdict
from openvlt.verify import explain, extract, verify, verify_batch

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


def _count(file: Path) -> tuple[int, int, int]:
    """Of a file of single cases: how many there are, how many are judged right, wrong ones taken for right."""
    cases = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    columns = ("gold", "response", "choices", "answer_type")
    verdicts = verify_batch([{name: case.get(name) for name in columns} for case in cases], deadline_s=5.0)
    correct = [verdict is Verdict.CORRECT for verdict in verdicts]
    agreed = sum(found == case["expected"] for found, case in zip(correct, cases, strict=True))
    return (
        len(cases),
        agreed,
        sum(found and not case["expected"] for found, case in zip(correct, cases, strict=True)),
    )


def test_second_given_cases(data_dir: Path) -> None:
    count, agreed, taken = _count(data_dir / "verify_cases2.jsonl")
    assert count == 662 and agreed >= 0.97 * count and taken <= 0.01 * 384


def test_cases_written_without_a_look_at_the_rules() -> None:
    """Their first run gave 91.7 % and 2 wrong ones taken for right (docs/LOG.md); what failed is mended."""
    count, agreed, taken = _count(Path(__file__).parent / "blind_cases.jsonl")
    assert count == 300 and agreed >= 0.99 * count and taken == 0


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


PROSE_24 = "<think>6 times 4</think>The answer is 24."
EXPLAINED_24 = (
    "<answer>Each of the six rows holds four little squares and none of them is hidden behind the others, "
    "so that there are 24 squares in the whole picture</answer>"
)


@pytest.mark.parametrize(
    ("response", "tag", "box"),
    [
        ("<think>25</think><answer>24</answer>", True, False),
        (r"<think>25</think><answer>\boxed{24}</answer>", True, True),
        (r"<think>25</think>So \boxed{24}.", False, True),
        (r"<answer>24</answer> or \boxed{25}", True, False),
        (PROSE_24, False, False),
        ("24", False, False),
        ("#### 24", False, False),
        ('{"answer": 24}', False, False),
        (EXPLAINED_24, False, False),
        (r"\boxed{25} and the answer is 24", False, False),
        ("<answer>24", False, False),
        (r"\boxed{24", False, False),
        ("<think><answer>24</answer>", False, False),
        (r"<think>\boxed{24}</think>24", False, False),
        ("The answer is not <answer>24</answer>", False, False),
        (r"\boxed{24} is wrong.", False, False),
    ],
)
def test_strict_extraction_pays_for_no_prose(response: str, tag: bool, box: bool) -> None:
    for extraction, right in (("tag", tag), ("box", box)):
        assert (verify("24", response, extraction=extraction) is Verdict.CORRECT) == right, extraction
        assert verify_batch([("24", response)], extraction=extraction) == [
            verify("24", response, extraction=extraction)
        ]
        assert (extract(response, extraction=extraction) == "24") == right


def test_well_formed_tags_and_boxes_mean_the_same_in_every_mode() -> None:
    for case in OWN:
        for side in ("right", "wrong"):
            for answer in case.get("answers", {}).get(side, []):
                for mode, wrapping in zip(("tag", "box"), WRAPPINGS, strict=True):
                    asked = {"choices": case.get("choices"), "answer_type": case.get("answer_type")}
                    response = wrapping.format(answer)
                    strict = explain(case["gold"], response, extraction=mode, **asked)
                    assert (
                        strict.verdict is explain(case["gold"], response, **asked).verdict or "\n" in answer
                    )


def test_an_unknown_extraction_is_refused() -> None:
    for call in (lambda: verify("1", "1", extraction="tags"), lambda: verify_batch([], extraction="tags")):
        with pytest.raises(UserError, match="extraction='tags'; give one of tag, box, any"):
            call()


def test_a_list_is_ordered_whatever_its_brackets() -> None:
    assert verify("[1, 2]", "<answer>(1, 2)</answer>", answer_type="list") is Verdict.CORRECT
    assert verify("1, 2", "<answer>2, 1</answer>", answer_type="list") is Verdict.WRONG
    assert verify("1, 2", "<answer>2, 1</answer>") is Verdict.CORRECT

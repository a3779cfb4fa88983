"""Denied values go, everything else stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvlt.verify import denial_words
from openvlt.verify.denials import drop_denied, lower_case, tidy


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The answer is not 24 but 25.", "The answer is 25."),
        ("24, which is wrong", "which is wrong"),
        ("24 is ruled out, so it is 25.", "it is 25."),
        ("The claim that the answer is 24 is false.", "The claim that the answer is ."),
        ("Someone might say 24. That is wrong.", "That is wrong."),
        ("There are 24 students who do not like math.", "There are 24 students who do not like math."),
        ("The smallest is 9, and 9 is not prime.", "The smallest is 9, and ."),
        ("It is 9, which is not prime.", "It is 9, which is not prime."),
        ("42? No, 24.", "24."),
        ("I changed my answer from 42 to 24.", "it is 24."),
        ("5 more than 24 is 29", "5 more than 24 is 29"),
        ("After simplification we obtain 24.", "After simplification we obtain 24."),
        ("The apple is not red.", "The apple is not red."),
        ("It's not a square but a rhombus.", "It's a rhombus."),
        ("答案不是24而是25", "答案 是25"),
        ("not 3\n12 is wrong.\nso 5", "5"),
    ],
)
def test_denied_values_go(text: str, left: str) -> None:
    assert tidy(drop_denied(text)) == left
    assert drop_denied(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The answer is B, which is wrong.", ""),
        ("Unlike B, option D gives the perimeter.", "option D gives the perimeter."),
        ("It's not A, so it must be B.", "It's , so it must be B."),
        ("The shape in D cannot be made.", "The shape in D ."),
        ("The apple is not red, it is green.", "The apple is , it is green."),
        ("(B), no", "(B), no"),
    ],
)
def test_letters_and_words_are_denied_where_there_are_options(text: str, left: str) -> None:
    assert tidy(drop_denied(text, letters=True, words=True)) == left


def test_the_first_look_misses_no_denial() -> None:
    """`may_deny` ends most searches by single words; it must know all of those that the patterns hold."""
    cases = [
        json.loads(line)
        for line in (Path(__file__).parent / "own_cases.jsonl").read_text("utf-8").splitlines()
    ]
    texts = [text for case in cases for side in case.get("responses", {}).values() for text in side]
    patterns = (denial_words.DENIAL, denial_words.ONLY_DENIES, denial_words.NO, denial_words.REVISES)
    found = [match[0] for text in map(lower_case, texts) for p in patterns for match in p.finditer(text)]
    assert len(found) > 200
    assert [denial for denial in found if not denial_words.may_deny(denial)] == []


@pytest.mark.parametrize(
    "text",
    [
        "the answer is 5 from the table",
        "if x = 3 then y = 4",
        "one of you has 5",
        "they have some of it",
        "but 5",
    ],
)
def test_common_words_alone_deny_nothing(text: str) -> None:
    assert not denial_words.may_deny(text)
    assert drop_denied(text) == text

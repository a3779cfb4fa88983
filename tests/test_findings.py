"""Findings: plain numbers in, sentences out; silent on numbers as they should be."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openvlt.findings import (
    answer_findings,
    distillation_findings,
    rollout_findings,
    training_findings,
)

HEALTHY = {
    "reward": 0.4, "reward_group_std": 0.3, "dropped_groups": 0.2, "finished": 0.9, "length": 40.0, "loss": 0.01, "grad_norm": 0.5,
    "reward_accuracy": 0.4, "verdict_correct": 0.4, "verdict_wrong": 0.4, "verdict_no_answer": 0.15, "verdict_unparsed": 0.05,
    "kl": 0.001, "entropy": 1.0, "ratio_max": 1.2, "length_correct": math.nan, "mismatch_kl": 1e-6,
}  # fmt: skip


def answers(verdicts: dict[str, int], cut: int = 0, texts: Any = None, golds: Any = None) -> list[str]:
    n = sum(verdicts.values())
    texts = [f"answer {row}" for row in range(n)] if texts is None else texts
    return answer_findings(verdicts, cut=cut, texts=texts, golds=[str(row) for row in range(n)] if golds is None else golds)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"verdicts": {"no_answer": 24}, "cut": 24}, ["all 24 answers were cut off at the token limit"]),
        ({"verdicts": {"correct": 4, "no_answer": 6}, "cut": 5}, ["5 of 10 answers were cut off"]),
        ({"verdicts": {"no_answer": 10}, "texts": [""] * 10}, ["all 10 answers are empty", "nothing is correct"]),
        ({"verdicts": {"no_answer": 6, "wrong": 4}, "texts": [" \n"] * 6 + list("abcd")}, ["6 of 10 answers are empty", "nothing is"]),
        ({"verdicts": {"wrong": 8}, "texts": ["3"] * 8}, ["all 8 answers are the same text, though there are 8 different gold"]),
        ({"verdicts": {"wrong": 6, "correct": 2}, "texts": [" 3", "3\n"] * 4}, ["all 8 answers are the same text"]),
        ({"verdicts": {"wrong": 4, "unparsed": 3, "no_answer": 2}}, ["in 5 of 9 finished answers no answer could be read"]),
        ({"verdicts": {"no_answer": 9}, "cut": 2}, ["nothing is correct, and in 7 of 7 finished answers"]),
        ({"verdicts": {"correct": 90, "timeout": 5}}, ["ran out of time at 5 of 95 answers"]),
    ],
)  # fmt: skip
def test_answers_that_show_a_fault(given, words):
    found = answers(**given)
    assert len(found) == len(words) and all(
        word in sentence for word, sentence in zip(words, found, strict=True)
    )
    assert all("; " in sentence and "\n" not in sentence for sentence in found)  # the fix comes last


@pytest.mark.parametrize(
    "given",
    [
        {"verdicts": {"correct": 5, "wrong": 5}},
        {"verdicts": {"wrong": 10}},
        {"verdicts": {"correct": 10}},
        {"verdicts": {"correct": 6, "no_answer": 4}, "cut": 4},
        {"verdicts": {"correct": 1, "no_answer": 9}},
        {"verdicts": {"wrong": 7}, "texts": ["3"] * 7},  # so few can be chance
        {"verdicts": {"correct": 9}, "texts": ["yes"] * 9, "golds": ["yes"] * 9},
        {"verdicts": {"correct": 97, "timeout": 3}},
        {"verdicts": {}},
    ],
)
def test_answers_as_they_should_be(given):
    assert answers(**given) == []


def test_a_distillation_counts_its_unfinished_chains():
    counts = {"problems": 10, "traces": 1, "correct": 1, "unfinished": 9, "solved_problems": 1, "missing": 0}
    assert "9 of 10 answers were cut off" in distillation_findings(counts)[0]
    assert distillation_findings({"correct": 5, "wrong": 4, "unfinished": 1}) == []


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"reward_group_std": 0.0, "reward": 0.0}, "no_gradient", "same reward (mean 0).*too hard, or no answer is read"),
        ({"reward_group_std": 0.0, "reward": 1.0}, "no_gradient", "same reward (mean 1).*too easy"),
        ({"reward_group_std": 0.0, "reward": 0.5}, "no_gradient", "nothing is learned"),
        ({"finished": 0.0, "verdict_no_answer": 1.0}, "none_finished", "raise tokens.response"),
        ({"length": 1.0}, "no_text", "all completions are empty"),
        ({"length": 0.0}, "no_text", "all completions are empty"),
        ({"verdict_no_answer": 0.8, "verdict_unparsed": 0.2, "finished": 0.9}, "nothing_read", "in 100 % of the finished"),
        ({"reward_caption": math.nan}, "unused_terms", "reward term caption applies to no completion"),
        ({"kl": math.inf}, "infinite_values", "kl not finite"),
        ({"kl": math.nan}, "infinite_values", "kl not finite"),
        ({"ratio_max": math.inf}, "infinite_values", "ratio_max not finite"),
        ({"mismatch_kl": math.nan, "entropy": math.nan}, "infinite_values", "mismatch_kl, entropy not finite"),
    ],
)  # fmt: skip
def test_rollouts_that_show_a_fault(changes, rule, words):
    import re

    found = rollout_findings(HEALTHY | changes)
    assert list(found) == [rule] and re.search(words.replace("(", r"\(").replace(")", r"\)"), found[rule])
    assert "\n" not in found[rule]


def test_rollouts_as_they_should_be():
    assert rollout_findings(HEALTHY) == {} and rollout_findings({}) == {}
    assert rollout_findings({"loss": 0.3, "entropy": 0.1, "grad_norm": 2.0}) == {}  # SFT


def test_training_tells_what_holds_in_half_of_its_steps():
    equal = HEALTHY | {"reward_group_std": 0.0, "reward": 0.0}
    assert training_findings([HEALTHY, HEALTHY, equal]) == [] and training_findings([]) == []
    (sentence,) = training_findings([equal, HEALTHY, equal])
    assert sentence.startswith("in 2 of 3 steps: all completions of a problem have the same reward")


def test_findings_need_no_torch():
    code = "import sys, openvlt.findings; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])  # fmt: skip
    assert done.stdout.split() == ["False", "False"], done.stderr

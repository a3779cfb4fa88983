"""What is cut from a verified trace, and which of several is kept, on traces written by hand."""

from __future__ import annotations

import random

import pytest

from openvlt.distill.cut import KEYWORDS, cut_reflections, drop_long, keep_whole
from openvlt.distill.select import keep_every_trace, keep_random, keep_second_longest, keep_shortest

END = "</think><answer>5</answer>"


@pytest.mark.parametrize(
    ("thought", "kept"),
    [
        ("I see 2 and 3. So 5.", "I see 2 and 3. So 5."),  # nothing to cut
        ("So 5. Wait, let me check. 2 + 3 = 5. Yes.", "So 5."),
        ("So 5! Wait, no. Hmm. Wait.", "So 5!"),  # up to the first of several
        ("So 5.\n\nWait, is that right?", "So 5."),
        ("So 5\nWait, is that right?", "So 5"),  # a new line starts a sentence
        ("So 5? But wait, is that right?", "So 5?"),
        ("So 5. Hmm, 2 + 3.", "So 5."),
        ("So 5. Alternatively, count.", "So 5."),
        ("So 5. Let me double-check that.", "So 5."),
        ("So 5. Let me verify.", "So 5."),
        ("So 5. But the question asks for red.", "So 5."),
        ("I can't Wait to see 5. So 5.", "I can't Wait to see 5. So 5."),  # inside a sentence
        ("Please wait. So 5. And wait, no.", "Please wait. So 5. And wait, no."),
        ("So 5. Waiting is over. Waiters are 5.", "So 5. Waiting is over. Waiters are 5."),  # another word
        ("The value is 3.5 Hmm and so on.", "The value is 3.5 Hmm and so on."),
    ],
)
def test_reflections_are_cut_at_the_first_sentence_that_starts_with_one(thought, kept):
    assert cut_reflections(f"<think>{thought}{END}") == f"<think>{kept}{END}"


@pytest.mark.parametrize(
    "start", ["Wait, what?", "\nWait, what?", "\n\nHmm. So 5.", " Wait, what? So 5.", " \n But wait, so 5."]
)
def test_a_trace_that_would_lose_all_its_reasoning_is_dropped(start):
    assert cut_reflections(f"<think>{start}{END}") is None


def test_the_answer_and_everything_after_the_thought_stay():
    rest = "</think>\nWait for it. Hmm.\n<answer>Wait, 5</answer>\n"
    assert cut_reflections(f"  <think>So 5. Wait, no.{rest}") == f"  <think>So 5.{rest}"


@pytest.mark.parametrize("trace", ["So 5. Wait, no. <answer>5</answer>", "", "<think>So 5. Wait, no."])
def test_a_trace_without_a_whole_thought_is_left_as_it_is(trace):
    assert cut_reflections(trace) == trace


def test_every_keyword_cuts_and_ones_own_replace_them():
    for keyword in KEYWORDS:
        assert cut_reflections(f"<think>So 5. {keyword}, no.{END}") == f"<think>So 5.{END}"
    assert cut_reflections(f"<think>So 5. Wait. Nope.{END}", keywords=("Nope",)) == f"<think>So 5. Wait.{END}"


def test_cutting_twice_changes_nothing_more():
    once = cut_reflections(f"<think>I see 2. So 5. Wait, no. Hmm. So 5.{END}")
    assert cut_reflections(once) == once


def test_long_traces_counts_words():
    assert drop_long("a b\nc", max_words=3) == "a b\nc"
    assert drop_long("a b c d", max_words=3) is None
    assert drop_long("w " * 500) is not None and drop_long("w " * 501) is None
    assert keep_whole("Wait. Wait.") == "Wait. Wait."


def test_selection():
    traces, rng = ["ccc", "a", "bb", "dddd"], random.Random(0)
    assert keep_shortest(traces, rng) == ["a"] and keep_shortest(["bb", "aa", "ccc"], rng) == ["bb"]
    assert keep_second_longest(traces, rng) == ["ccc"] and keep_second_longest(["a"], rng) == ["a"]
    assert keep_second_longest(["a", "bb"], rng) == ["a"]
    assert keep_every_trace(traces, rng) == traces
    assert {keep_random(traces, random.Random(seed))[0] for seed in range(40)} == set(traces)
    assert keep_random(traces, random.Random(3)) == keep_random(traces, random.Random(3))

"""The recorded verdict with its reasons, without grading anew what was cut off or timed out."""

from __future__ import annotations

import pytest

from openvlt.types import Completion, Problem, Verdict
from openvlt.verify import completions as completions_module
from openvlt.verify.completions import explain_completion


def explained(
    text: str, verdict: Verdict, gold: str = "1/2", finished: bool = True
) -> tuple[str | None, dict[str, str]]:
    found, lines = explain_completion(Problem("p", "q", gold), Completion((1,), text, finished), verdict)
    return found, {line[:18].strip(): line[18:] for line in lines}


def test_the_reasons_of_a_verdict():
    found, lines = explained("so <answer>0.5</answer>", Verdict.CORRECT)
    assert found == "0.5" and lines["verdict"] == "correct" and lines["extracted"] == "0.5"
    assert {"extracted by", "gold read as", "answer read as", "decided by"} <= lines.keys()


def test_the_verdict_is_the_recorded_one():
    assert explained("<answer>0.5</answer>", Verdict.WRONG)[1]["verdict"] == "wrong"


@pytest.mark.parametrize(
    ("verdict", "finished", "reason"),
    [(Verdict.NO_ANSWER, False, "cut off"), (Verdict.TIMEOUT, True, "ran out of time")],
)
def test_what_was_cut_off_or_timed_out_is_not_read_again(monkeypatch, verdict, finished, reason):
    monkeypatch.setattr(completions_module, "grade_response", lambda *_: pytest.fail("it is read again"))
    found, lines = explained("<answer>0.5</answer>", verdict, finished=finished)
    assert found is None and reason in lines["decided by"]


def test_a_symbolic_answer_is_not_compared_anew():
    _, lines = explained(
        "<answer>$\\sin(x)^2+\\cos(x)^2$</answer>", Verdict.CORRECT, gold="$\\sin^2(x)+1-\\sin^2(x)$"
    )
    assert lines["verdict"] == "correct" and "decided by" in lines

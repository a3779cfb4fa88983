"""Gold answers in tags, boxes, after ####, in a sentence or a solution; and runs in which none can be met."""

from __future__ import annotations

import pytest

from openvlt.data.rows.golds import check_golds, read_gold
from openvlt.errors import UserError
from openvlt.types import Problem

PICTURE = (
    "In the picture, a large brown bear stands on a rock next to a river. The bear seems to look for fish, as "
    "several fish can be seen in the water, so it might catch one of them soon. Its cub stands behind it."
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer> 3 </answer>", "3"),
        ("<think>So.</think><answer>3</answer>", "3"),
        ("<ANSWER>\n yes\n</ANSWER>", "yes"),
        ("<think>So <answer>2</answer>?</think><answer>3</answer>", "3"),
        ("<answer>$\\boxed{5}$</answer>", "5"),
        ("<answer>The answer is 3.</answer>", "3"),
        ("<|begin_of_box|>3<|end_of_box|>", "3"),
        ("<think>Two and one.</think> 3", "3"),
        ("<think></think>\n\nThe answer is **7**.", "7"),
        ("$\\boxed{3}$", "3"),
        ("So the area is \\boxed{\\frac{3}{4}} cm.", "\\frac{3}{4}"),
        ("2 + 1 = 3\n#### 3", "3"),
        ("Half of 2,468.\n#### 1,234\n", "1,234"),
        ("The answer is 3.", "3"),
        ("Answer: 42", "42"),
        ("**Final Answer**: 12 cm", "12 cm"),
        ("答案：C", "C"),
        ("First 2. " * 20 + "Therefore, the number of households exceeding it is: 80×(1-75%)=20.", "20"),
        ("We look at the whole graph of both functions. " * 5 + "It lies above, so 1 < x < 6.", "1 < x < 6"),
        *((text, text) for text in (
            "3", "a red car", "The red car is parked to the left of the tree.", "x = 3", "(A)", "B. blue", "[1, 2]",
            "no answer", "3 apples", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "#### Title\nfoo", "#3", "a<b",
        )),
    ],
)  # fmt: skip
def test_the_gold_is_read_as_a_response_is(text, expected):
    assert read_gold(text) == expected
    assert read_gold(expected) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<answer></answer>", "<answer> is empty or never closed"),
        ("<answer>3", "<answer> is empty or never closed"),
        ("<think>3", "<think> is never closed"),
        ("<think>3</think> ", "empty after its thoughts"),
        ("So \\boxed{", "boxed is empty or never closed"),
        (PICTURE, r"a text of \d+ letters without a final answer; write the answer alone"),
        ("The man wears a red shirt, and the others do too. " * 5, "without a final answer"),
    ],
)
def test_a_gold_without_an_answer_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_gold(text)


def test_a_run_in_which_no_gold_can_be_met_does_not_start(capsys):
    hopeless = [Problem(f"q{number}", "Q?", "N/A") for number in range(3)]
    with pytest.raises(
        UserError, match=r"rows: no response can be right: .*first 3 answers .*\(row 'q0': 'N/A'\)"
    ):
        check_golds(hopeless, "rows")
    check_golds([*hopeless, Problem("q", "Q?", "3")], "rows")
    assert "rows: 3 of 4 answers count as no answer (row 'q0': 'N/A')" in capsys.readouterr().out
    check_golds([Problem("q", "Q?", answer) for answer in ("a red car",)], "rows")
    assert capsys.readouterr().out == ""

"""The rules of each benchmark on answers one can judge by eye, and the judges' side with a judge of our own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from openvlt.benchmark.prompts import InterleavedStyle, ProjectPrompt, PromptTemplate, fill_template
from openvlt.benchmark.protocol import Case, score_openvlt
from openvlt.benchmark.scorers import openvlthinker
from openvlt.benchmark.scorers.number_words import number_of_words
from openvlt.benchmark.tasks import emma, hallusionbench, mathverse, mathvista, mmmu_pro
from openvlt.types import Problem, Verdict


@dataclass
class Stub:
    """A judge that says what the test wants and remembers what it was asked."""

    replies: list[str]
    name: str = "stub"
    asked: list[str] = field(default_factory=list)

    def ask(self, prompts):
        self.asked += prompts
        return [self.replies.pop(0) for _ in prompts]


def verdicts(answers):
    return [answer.verdict.value for answer in answers]


# --- EMMA -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response, extracted",
    [
        ("b", "B"),
        ("C: because", "C"),
        ("D. because", "D"),
        ("3.5", "3.5"),
        ("so \\boxed{A} and \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\text{ red }}", "red"),
        ("\\boxed{A", ""),
        ("The answer is 12 cm. Done", "12 cm"),
        ("Answer: dog\nyes", "dog"),
        ("no idea", ""),
    ],
)
def test_emma_extraction(response, extracted):
    assert emma.extract_emma(response) == extracted


@pytest.mark.parametrize(
    "answer, gold, equal",
    [
        ("three", "3", True),
        ("0.333", "1/3", True),
        ("Cat", "cat ", True),
        ("2x", "x+x", False),
        ("dog", "cat", False),
        ("", "3", False),
    ],
)
def test_emma_equality(answer, gold, equal):
    assert emma.same_emma_answer(answer, gold) is equal


@pytest.mark.parametrize(
    "text, number",
    [
        ("two", 2), ("there are twenty one dots", 21), ("two hundred forty-five", 245), ("one million two hundred thousand", 1200000),
        ("three thousand five", 3005), ("one point five", 1.5), ("12", 12), ("none", None), ("thousand million", None), ("", None),
    ],
)  # fmt: skip
def test_number_words(text, number):
    assert number_of_words(text) == number


# --- MMMU-Pro -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response, letter",
    [
        ("I think… Answer: C", "C"),
        ("Answer: A or B, so (B)", "B"),
        ("(A) no, (C) yes", "C"),
        ("it is B of course", "B"),
        ("B.", "B"),
        ("The one that we want here is surely the green one", "C"),
        ("nothing", None),
        ("", None),
    ],
)
def test_mmmu_pro_parsing_is_never_random(response, letter):
    assert mmmu_pro.parse_choice(response, ["red", "blue", "green", "white"]) == letter


# --- HallusionBench -------------------------------------------------------------------------------------------------------


def figure(category, figure_id, question_id, set_id="0"):
    row = {
        "category": category,
        "subcategory": "s",
        "set_id": set_id,
        "figure_id": figure_id,
        "question_id": question_id,
    }
    return hallusionbench.read_hallusionbench(
        {**row, "question": "Is it?", "gt_answer": "1", "gt_answer_details": "It is."}, "image"
    )


def test_yes_or_no_and_nothing_else():
    problem = figure("VD", "0", "0")
    said = ["Yes, it is.", "No.", "Yes and no.", "I nod; noise", "YES"]
    assert verdicts(hallusionbench.hallusionbench_rules([Case(problem, text) for text in said])) == [
        "correct",
        "wrong",
        "unparsed",
        "unparsed",
        "correct",
    ]


def test_the_judges_three_words():
    problem, judge = figure("VD", "0", "0"), Stub(["Incorrect.", "correct", "unclear"])
    prompt = "Q:{question} R:{reference} A:{answer}"
    answers = hallusionbench.score_hallusionbench([Case(problem, "{question}")] * 3, judge, prompt=prompt)
    assert (
        verdicts(answers) == ["wrong", "correct", "unparsed"]
        and judge.asked[0] == "Q:Is it? R:It is. A:{question}"
    )


def test_three_accuracies_by_hand():
    """Two figures with two questions each: one question wrong at one figure. VS rows without a figure count for no figure."""
    rows = [
        (figure("VD", "0", "0"), 1),
        (figure("VD", "0", "1"), 1),
        (figure("VD", "1", "0"), 1),
        (figure("VD", "1", "1"), 0),
    ]
    found = hallusionbench.hallusionbench_metrics(rows)
    assert (found["aAcc"], found["fAcc"], found["qAcc"]) == (0.75, 0.5, 0.5)
    assert found["leaderboard"] == pytest.approx(1.75 / 3)
    assert hallusionbench.hallusionbench_metrics([*rows, (figure("VS", "0", "0"), 0)])["fAcc"] == 0.5


# --- MathVerse, MathVista -------------------------------------------------------------------------------------------------


def verse(version="Vision Only"):
    row = {
        "sample_index": "1",
        "problem_index": "7",
        "question": "Q?\nChoices:\nA:1\nB:2",
        "answer": "B",
        "question_type": "multi-choice",
    }
    return mathverse.read_mathverse(
        {**row, "problem_version": version, "metadata": {"subject": "G", "subfield": "A"}}, "testmini"
    )


def test_two_steps_of_the_mathverse_judge():
    judge = Stub(["Extracted Answer: B", "C", "Judgement: 1", "maybe"])
    answers = mathverse.score_mathverse(
        [Case(verse(), "so B")] * 2, judge, extract_prompt="E", score_prompt="{question}|{gt}|{extraction}"
    )
    assert (
        verdicts(answers) == ["correct", "unparsed"]
        and judge.asked[2].endswith("|B|B")
        and "so B" in judge.asked[0]
    )


def test_mathverse_overall_is_the_mean_of_five_versions():
    rows = [
        (verse(version), right) for version, right in zip(mathverse.VERSIONS, (1, 1, 0, 0, 1), strict=True)
    ]
    assert (
        mathverse.mathverse_metrics(rows) == {"overall": 0.6} and mathverse.mathverse_metrics(rows[:4]) == {}
    )
    assert verse().choices == ("1", "2")


def test_the_mathvista_judge_is_asked_only_where_it_must():
    problem = Problem("1", "Q?", "4", meta={"kind": "integer", "precision": None})
    judge = Stub(["4"])
    cases = [
        Case(problem, "4"),
        Case(problem, "it is four"),
        Case(problem, "?", {"extraction": "4.0"}),
        Case(problem, ""),
    ]
    assert verdicts(mathvista.score_mathvista(cases, judge, prompt="P")) == [
        "correct",
        "correct",
        "correct",
        "unparsed",
    ]
    assert judge.asked == ["P\n\nQ?\n\nit is four\n\nExtracted answer: "]


@pytest.mark.parametrize(
    "extraction, problem, verdict",
    [
        (
            "",
            Problem("1", "?", "No", choices=("Yes", "No"), meta={"kind": "choice", "precision": None}),
            "correct",
        ),  # nearer than "Yes"
        (
            "",
            Problem("1", "?", "Yes", choices=("Yes", "No"), meta={"kind": "choice", "precision": None}),
            "unparsed",
        ),
        (5, Problem("1", "?", "5", meta={"kind": "integer", "precision": None}), "correct"),
        (1.26, Problem("1", "?", "1.3", meta={"kind": "float", "precision": 1}), "correct"),
        ([1, 2], Problem("1", "?", "[1, 2]", meta={"kind": "list", "precision": None}), "correct"),
        ("", Problem("1", "?", "5", meta={"kind": "integer", "precision": None}), "unparsed"),
    ],
)
def test_a_recorded_extraction_is_scored_as_it_is(extraction, problem, verdict):
    assert verdicts(
        mathvista.score_mathvista([Case(problem, "5, Yes, 1.3", {"extraction": extraction})])
    ) == [verdict]


# --- OpenVLThinker --------------------------------------------------------------------------------------------------------


def test_only_the_tag_counts():
    problem = Problem("1", "Q?", "blue", choices=("red", "blue"))
    said = [
        "<answer>b</answer>",
        "B",
        "<answer>A</answer> no: <answer> B </answer>",
        "<answer>blue</answer>",
        "<answer>B",
    ]
    assert verdicts(openvlthinker.score_openvlthinker([Case(problem, text) for text in said])) == [
        "correct",
        "unparsed",
        "correct",
        "wrong",
        "unparsed",
    ]


def test_qwens_way_takes_any_of_two():
    score = {"extract": openvlthinker.extract_boxed_or_announced}
    problem = Problem("1", "Q?", "12")
    said = ["\\boxed{\\frac{24}{2}} Answer: 12", "\\boxed{12}", "Answer: 13", "12"]
    assert verdicts(openvlthinker.score_openvlthinker([Case(problem, text) for text in said], **score)) == [
        "correct",
        "correct",
        "wrong",
        "unparsed",
    ]


@pytest.mark.parametrize(
    "gold, answer, equal",
    [
        ("12", "12.0", True),
        ("12", "12 cm", True),
        ("0.5", "\\frac{1}{2}", True),
        ("1/2", "2/4", False),  # fractions only as written
        ("4", "8/2", False),  # an integer only as an integer
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("(1, 2)", "(1,2)", True),
        ("(1,2)", "[1,2]", False),
        ("1,234", "1234", True),
        ("50\\%", "50", True),
        ("x+y", "y+x", True),
        ("apple", "pear", False),
    ],
)
def test_mathruler(gold, answer, equal):
    assert openvlthinker.grade_mathruler(gold, answer) is equal


def test_the_papers_judge():
    judge = Stub(["Judgement: Yes", "Judgement: No", "No"])
    cases = [Case(verse(), "<answer>2</answer>"), Case(verse(), "<answer>A</answer>"), Case(verse(), "2")]
    answers = openvlthinker.score_openvlthinker(
        cases, judge, letters=False, prompt="{instruction}|{groundtruth}|{prediction}"
    )
    assert verdicts(answers) == ["correct", "wrong", "unparsed"] and judge.asked[2].endswith(
        "|B|['Failed to extract.']"
    )


# --- prompts --------------------------------------------------------------------------------------------------------------


def test_prompts_are_filled_once_and_keep_other_braces():
    assert fill_template("{a} \\boxed{} {b} {c}", a="{b}", b="x") == "{b} \\boxed{} x {c}"
    ask = PromptTemplate("{question}\n{options}", open="{question}", option="{letter}. {text}")
    assert (
        ask(Problem("1", "Q {options}", "A", choices=("{letter}", "y"))).question
        == "Q {options}\nA. {letter}\nB. y"
    )
    assert ask(Problem("1", "Q", "3")).question == "Q"


def test_images_stand_at_their_marks():
    ask = PromptTemplate("{question}\n{options}", marks=r"<image_(\d)>")
    problem = ask(Problem("1", "See <image_2>.", "A", images=("one", "two"), choices=("<image_1>", "no")))
    assert problem.images == ("two", "one")
    parts = InterleavedStyle(marks=r"<image_(\d)>").messages(problem)[0]["content"]
    assert [part.get("text", part["type"]) for part in parts] == [
        "See ",
        "image",
        ".\n(A) ",
        "image",
        "\n(B) no",
    ]
    plain = ask(Problem("1", "No mark.", "A", images=("one",)))
    assert [
        part["type"] for part in InterleavedStyle(marks=r"<image_(\d)>").messages(plain)[0]["content"]
    ] == ["image", "text"]


def test_our_own_prompt_has_images_at_their_marks_too():
    parts = ProjectPrompt()(Problem("1", "See <image 2>.", "A", ("one", "two"), ("<image 1>", "no")))
    assert (parts.question, parts.choices, parts.images) == (
        "See <image>.",
        ("<image>", "no"),
        ("two", "one"),
    )
    unclear = Problem("1", "See <image 3>.", "A", images=("one", "two"))
    assert ProjectPrompt()(unclear) == unclear


def test_our_own_verifier_gives_a_cut_off_answer_nothing():
    problem = Problem("1", "Q", "12")
    cases = [
        Case(problem, "<answer>12</answer>", finished=True),
        Case(problem, "<answer>12</answer>", finished=False),
        Case(problem, ""),
    ]
    assert [answer.verdict for answer in score_openvlt(cases)] == [
        Verdict.CORRECT,
        Verdict.NO_ANSWER,
        Verdict.NO_ANSWER,
    ]

"""Rewards: verdicts on finished and unfinished answers, terms that may not apply, weights that must fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from openvlt.errors import UserError
from openvlt.reward.accuracy import Accuracy, EmptySummary
from openvlt.reward.reward import Reward, weighted_sum
from openvlt.reward.services import Services
from openvlt.reward.terms import AnnotationsCovered, ThoughtMatchesImage
from openvlt.serving.protocol import ChatRequest, Reply
from openvlt.types import Completion, Problem, Prompts, Rollouts, ScoredRollouts, Verdict
from openvlt.verify.completions import verify_completions
from tests.helpers.configs import compose

NAN = float("nan")


def said(text: str, finished: bool = True) -> Completion:
    return Completion((1, 2), text, finished)


def rollouts(
    texts: list[str], answers: tuple[str, ...] = ("5",), finished: list[bool] | None = None
) -> Rollouts:
    """Rows of as many problems as there are answers, equally many each."""
    count = len(texts) // len(answers)
    ids = torch.ones(len(texts), 2).long()
    blank = torch.ones(len(answers), 1).long()
    return Rollouts(
        problems=tuple(Problem(str(index), "?", answer) for index, answer in enumerate(answers)),
        completions=tuple(
            said(text, end) for text, end in zip(texts, finished or [True] * len(texts), strict=True)
        ),
        prompts=Prompts(blank, blank, blank, torch.zeros(len(answers)).long()),
        ids_NT=ids,
        mask_NT=ids,
        group_N=torch.arange(len(answers)).repeat_interleave(count),
        origin_N=torch.zeros(len(texts)).long(),
        view=("clean",) * len(texts),
        policy_version=0,
    )


def test_prose_is_paid_only_where_the_prompt_asks_for_no_form():
    texts = ["<answer>5</answer>", r"\boxed{5}", "The answer is 5."]
    for extraction, paid in {"tag": [1, 0, 0], "box": [0, 1, 0], "any": [1, 1, 1]}.items():
        reward = Reward({"accuracy": Accuracy()}, {"accuracy": 1.0}, extraction=extraction)
        assert reward(rollouts(texts)).reward_N.tolist() == paid
    with pytest.raises(UserError, match="reward: extraction='prose'; give one of tag, box, any"):
        Reward({"accuracy": Accuracy()}, {"accuracy": 1.0}, extraction="prose")


@pytest.mark.parametrize(
    ("instruction", "form"),
    [
        ("", "any"),
        ("Answer briefly.", "any"),
        ("Give it inside <answer> and </answer>.", "tag"),
        (r"Put it in \boxed{}, please.", "box"),
    ],
)
def test_the_form_of_a_paid_answer_is_what_the_prompt_asks_for(instruction, form):
    config = compose(f"prompt.instruction='{instruction}'")
    assert config.reward.extraction == form


def test_only_a_finished_answer_can_be_right():
    problem = Problem("p", "How many?", "5")
    right, wrong, none = (
        "<think>2+3</think><answer>5</answer>",
        "<answer>6</answer>",
        "<think>I cannot tell.</think>",
    )
    asked = [said(right), said(right, finished=False), said(wrong), said(none), said(wrong, finished=False)]
    verdicts = verify_completions([problem] * 5, asked)
    assert verdicts[:3] == (Verdict.CORRECT, Verdict.NO_ANSWER, Verdict.WRONG)
    assert verdicts[3] is not Verdict.CORRECT and verdicts[4] is Verdict.NO_ANSWER
    assert verify_completions([], []) == ()


def test_each_completion_is_judged_against_its_own_problem():
    problems = [
        Problem("a", "?", "5"),
        Problem("b", "?", "(B)", choices=("3", "7")),
        Problem("c", "?", "yes"),
    ]
    texts = ["<answer>5</answer>", "<answer>B</answer>", "<answer>yes</answer>"]
    assert verify_completions(problems, [said(text) for text in texts]) == (Verdict.CORRECT,) * 3
    assert Verdict.CORRECT not in verify_completions(
        problems, [said(text) for text in (texts[2], texts[0], texts[1])]
    )
    by_text = verify_completions(problems[1:2] * 2, [said("<answer>7</answer>"), said("<answer>3</answer>")])
    assert by_text == (Verdict.CORRECT, Verdict.WRONG)


def test_accuracy_is_one_for_correct_and_zero_for_all_else():
    every = rollouts(["x"] * 5).with_verdicts(tuple(Verdict))
    value = Accuracy()(every, Services())
    assert value.tolist() == [float(verdict is Verdict.CORRECT) for verdict in Verdict]
    assert value.sum() == 1


@pytest.mark.parametrize(
    ("text", "penalty"),
    [
        ("<think>a</think><answer>5</answer>", -1),
        ("<think>a</think> \n\t <answer>5</answer>", -1),
        ("<think>a</think>So five.<answer>5</answer>", 0),
        ("<think>a</think>\nSo\nfive.\n<answer>5</answer>", 0),
        ("<think>a</think>So five.</think><answer>5</answer>", -1),  # the last mark counts, as in r1v.py
        ("<answer>5</answer>", 0),  # no thought, nothing to summarise
        ("<think>a</think>5", 0),
        ("", 0),
    ],
)
def test_an_empty_summary_costs_a_right_answer_one(text: str, penalty: float):
    right = rollouts([text]).with_verdicts((Verdict.CORRECT,))
    assert EmptySummary()(right, Services()).tolist() == [penalty]
    others = rollouts([text] * 2).with_verdicts((Verdict.WRONG, Verdict.NO_ANSWER))
    assert EmptySummary()(others, Services()).tolist() == [0, 0]


def test_weighted_sum_on_paper():
    terms = {"a": torch.tensor([1.0, 0.0, 1.0]), "b": torch.tensor([-1.0, -1.0, 0.0])}
    assert weighted_sum(terms, {"a": 1.0, "b": 0.5}).tolist() == [0.5, -0.5, 1.0]
    assert weighted_sum(terms, {"a": 0.0, "b": 2.0}).tolist() == [-2.0, -2.0, 0.0]


def test_a_term_that_does_not_apply_is_left_out_of_the_row():
    terms = {"a": torch.tensor([1.0, NAN, NAN]), "b": torch.tensor([NAN, 2.0, NAN])}
    total = weighted_sum(terms, {"a": 3.0, "b": 0.5}).tolist()
    assert total[:2] == [3.0, 1.0] and math.isnan(total[2])  # nothing applies: no number is made up
    assert math.isnan(terms["a"][1]) and math.isnan(terms["b"][0])  # the caller's columns are untouched


def test_reward_fills_verdicts_terms_and_their_sum():
    texts = ["<think>a</think>ok<answer>5</answer>", "<think>a</think><answer>5</answer>"] * 2
    before = rollouts(texts, ("5", "6"), [True, True, True, False])
    reward = Reward({"accuracy": Accuracy(), "summary": EmptySummary()}, {"accuracy": 1.0, "summary": 0.5})
    after = reward(before)
    assert after.verdicts == (Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER)
    assert after.rewards["accuracy"].tolist() == [1, 1, 0, 0] and after.rewards["summary"].tolist() == [
        0,
        -1,
        0,
        0,
    ]
    assert after.reward_N.tolist() == [1.0, 0.5, 0.0, 0.0]  # the released code's three values
    assert not isinstance(before, ScoredRollouts)  # what was generated stays as it is
    assert after.completions == before.completions and after.keep_N.all()


def test_a_term_sees_the_verdicts_and_the_services():
    seen = []

    def term(judged: ScoredRollouts, services) -> torch.Tensor:
        seen.append((judged.verdicts, services))
        return torch.zeros(1)

    Reward({"mine": term}, {"mine": 1.0})(rollouts(["<answer>5</answer>"]), "services")
    assert seen == [((Verdict.CORRECT,), "services")]


GOOD = [
    torch.tensor([1.0, 0.5]), torch.tensor([1, 0]), torch.tensor([True, False]), torch.tensor([1.0, NAN], dtype=torch.float64),
    torch.tensor([1.0, 0.0], dtype=torch.bfloat16), torch.ones(2, requires_grad=True), np.array([1.0, 0.0]), np.array([True, False]),
    np.array([1, 2], dtype=np.uint8), [1, 0.5], [True, False], (1.0, NAN), [np.float32(1), np.int64(0)], [torch.tensor(1.0), 0],
    [np.bool_(True), 0],
]  # fmt: skip


@pytest.mark.parametrize("value", GOOD, ids=repr)
def test_a_term_may_return_numbers_of_any_kind(value):
    terms = {"mine": lambda rollouts, services: value, "other": lambda rollouts, services: torch.zeros(2)}
    column_N = Reward(terms, {"mine": 1.0, "other": 1.0})(rollouts(["a", "b"])).rewards["mine"]
    expected = [float(number) for number in value]
    assert column_N.dtype == torch.float32 and not column_N.requires_grad
    assert torch.equal(column_N.nan_to_num(-9), torch.tensor(expected).nan_to_num(-9))


BAD = [
    (torch.zeros(1), "returned a tensor of shape (1,), not one number for each of 2 completions: (2,)"),
    (torch.zeros(3), "shape (3,)"), (torch.zeros(2, 1), "shape (2, 1)"), (torch.tensor(1.0), "shape ()"),
    ([1.0], "shape (1,)"), ([], "shape (0,)"), (np.zeros((2, 2)), "shape (2, 2)"),
    (None, "returned nothing (None), not one number"), (1.0, "returned 1.0, not one number"), (True, "returned True"),
    ("good", "returned 'good'"), ({"a": 1, "b": 2}, "returned a dict"), ((x for x in (1, 2)), "returned a generator"),
    ([1.0, None], "returned nothing (None) at place 1"), (["1", "0"], "returned '1' at place 0"), ([[1], [0]], "a list at place 0"),
    ([1, 1j], "a complex at place 1"), (np.array(["1", "0"]), "returned a ndarray"), (np.array([None, 1]), "returned a ndarray"),
    (torch.tensor([1j, 0]), "returned a Tensor"), ([torch.zeros(2), 1], "a Tensor at place 0"),
    ([1.0, math.inf], "returned inf at place 1 of 2; give a finite number"), (torch.tensor([-math.inf, 0]), "returned -inf at place 0"),
    (torch.tensor([0, 1e7]), "returned 1e+07 at place 1 of 2; give a finite number of at most 1e+06, or NaN where it doesn't apply"),
    ([1e300, 0], "returned 1e+300"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_a_term_that_breaks_its_contract_is_named(value, words):
    terms = {"accuracy": Accuracy(), "mine": lambda rollouts, services: value}
    with pytest.raises(UserError) as error:
        Reward(terms, {"accuracy": 1.0, "mine": 1.0})(rollouts(["a", "b"]))
    assert f"reward.terms.mine {words}" in str(error.value) or words in str(error.value)
    assert str(error.value).startswith("reward.terms.mine returned ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"combine": lambda rewards, weights: torch.zeros(3)}, r"reward.combine returned a tensor of shape \(3,\)"),
        ({"combine": lambda rewards, weights: [math.inf, 0]}, "reward.combine returned inf"),
        ({"combine": lambda rewards, weights: None}, r"reward.combine returned nothing \(None\)"),
        ({"multiplier": lambda problem: NAN}, "reward.multiplier returned nan at place 0"),
        ({"multiplier": lambda problem: "high"}, "reward.multiplier returned 'high' at place 0"),
    ],
)  # fmt: skip
def test_the_other_functions_of_a_reward_have_one_too(changes, words):
    with pytest.raises(UserError, match=words):
        Reward({"accuracy": Accuracy()}, {"accuracy": 1.0}, **changes)(rollouts(["a", "b"]))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (["yes"], "grpo.judge returned 1 texts for 2 that it was asked"),
        (None, r"grpo.judge returned nothing \(None\), not a list of 2 texts"),
        ("yes", "grpo.judge returned 'yes', not a list"),
        (["yes", None], r"grpo.judge returned nothing \(None\) at place 1 of 2, not a text"),
        ([True, False], "grpo.judge returned True at place 0"),
    ],
)
def test_a_judge_that_breaks_its_contract_is_named(reply, words):
    with pytest.raises(UserError, match=words):
        Services(judge=lambda texts: reply).ask(["a", "b"])


@pytest.mark.parametrize(
    "value", [None, [0.5], [0.5, NAN], [0.5, math.inf], "close", torch.zeros(2, 2)], ids=repr
)
def test_an_encoder_that_breaks_its_contract_is_named(value):
    with pytest.raises(UserError, match="grpo.encoder returned"):
        Services(encoder=lambda images, texts: value).embed(["x", "y"], ["a", "b"])


def test_weights_and_terms_must_be_the_same_names():
    with pytest.raises(
        UserError, match=r"reward weights name \['acuracy'\], terms are \['accuracy'\]; give every term"
    ):
        Reward({"accuracy": Accuracy()}, {"acuracy": 1.0})
    with pytest.raises(UserError, match="exactly one weight"):
        Reward({"accuracy": Accuracy()}, {})
    with pytest.raises(UserError, match="reward.terms is empty"):
        Reward({}, {})


def test_a_term_that_crashes_is_not_a_zero():
    def broken(judged: ScoredRollouts, services) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Reward({"broken": broken}, {"broken": 1.0})(rollouts(["a"]))


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("yes", 1), ("No", 0), (" YES.", 1), ("No, it does not.", 0), ("**Yes**, clearly", 1), ("yes\nno", 1), ('"no"', 0),
        *[(other, None) for other in ("yesterday", "nothing", "none", "not really", "Well, yes", "", "y", "yes2", "1")],
    ],
)  # fmt: skip
def test_a_judge_says_yes_or_no_as_a_word(reply: str, value: float | None):
    asked = rollouts(["<think>two bars</think>5"])
    asked = asked.with_(problems=(Problem("p", "?", "5", meta={"annotations": ("there are two bars",)}),))
    if value is not None:
        assert AnnotationsCovered()(asked, Services(judge=lambda texts: [reply] * len(texts))).tolist() == [
            value
        ]
        return
    with pytest.raises(UserError, match="the judge was asked for yes or no and said"):
        AnnotationsCovered()(asked, Services(judge=lambda texts: [reply] * len(texts)))


def test_a_judge_is_asked_for_its_likeliest_reply():
    """Drawn replies would make a reward that is another one every time."""
    asks: list[ChatRequest] = []

    class Judge:
        def ask(self, more: list[ChatRequest]) -> list[Reply]:
            asks.extend(more)
            return [Reply("yes") for _ in more]

    assert Services(judge=Judge()).ask(["a", "b", "a"]) == ["yes"] * 3
    assert [ask.options["temperature"] for ask in asks] == [0, 0]


def test_an_encoder_is_any_callable_of_images_and_texts():
    """Each image of a problem with the completion's chain of thought: twice the similarity, 0 to 1, then the mean."""
    pictures = tuple(Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 20))
    asked = rollouts(["<think>red</think>5", "no marks"]).with_(problems=(Problem("p", "?", "5", pictures),))
    calls = []

    def encoder(images, texts):
        calls.append(([image.getpixel((0, 0))[0] for image in images], list(texts)))
        return torch.tensor([0.1, 0.9, -0.5, 0.25])

    services = Services(encoder=encoder)
    assert ThoughtMatchesImage()(asked, services).tolist() == pytest.approx(
        [(0.2 + 1.0) / 2, (0.0 + 0.5) / 2]
    )
    assert calls == [([10, 20, 10, 20], ["red", "red", "no marks", "no marks"])]
    with pytest.raises(UserError, match="there is no encoder; give grpo.encoder=<callable>"):
        Services().embed([], [])
    blind = ThoughtMatchesImage()(rollouts(["x"]), services)
    assert blind.isnan().all() and len(calls) == 1  # without images nothing is compared

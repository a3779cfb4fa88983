"""Distillation: asked once, kept on disk, resumed after a kill; and a text reasoner that never sees the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from openvlt.data.render import PromptStyle, question_text
from openvlt.data.table import read_traces
from openvlt.distill.cut import nothing, reflections
from openvlt.distill.pipeline import Distillation
from openvlt.distill.select import everything, shortest
from openvlt.distill.teacher import CaptionTeacher, GoldTeacher, PolicyTeacher, Proposal
from openvlt.types import Completion, Problem, UserError

PROBLEMS = [Problem(f"p{number}", f"What is {number} + 1?", str(number + 1)) for number in range(5)]


class Fake:
    """Answers by script (`says[id]`), counts what it was asked, and dies when asked for `dies`."""

    def __init__(self, says: dict[str, list[str]] | None = None, dies: str | None = None) -> None:
        self.says, self.dies, self.asked = says or {}, dies, []

    def propose(self, vlm, problems, samples, seed) -> list[list[Proposal]]:
        if any(problem.id == self.dies for problem in problems):
            raise KeyboardInterrupt
        self.asked.append([problem.id for problem in problems])
        return [[Proposal(text, "a caption") for text in self.says.get(p.id, [right(p)])] for p in problems]


def right(problem: Problem, thought: str = "So.") -> str:
    return f"<think>{thought}</think><answer>{problem.answer}</answer>"


def distil(teacher, folder: Path, problems=PROBLEMS, **changes) -> dict:
    settings = Distillation(teacher=teacher, cut=nothing, select=shortest, samples=2, batch=2)
    return replace(settings, **changes).run(None, problems, folder=folder, seed=1)


def ids(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / "traces.jsonl").read_text().splitlines()]


def test_right_answers_are_kept_cut_and_selected(tmp_path):
    p0, p1, p2, p3, p4 = PROBLEMS
    teacher = Fake(
        {
            "p0": [right(p0, "A long way to it."), right(p0, "Short."), "<think>No.</think><answer>77</answer>"],
            "p1": ["<think>So.</think><answer>77</answer>", "<think>I cannot tell.</think>"],
            "p2": [right(p2, "So. Wait, no."), right(p2, "So. Wait, yes.")],  # equal after the cut
            "p3": [right(p3, "Wait, so.")],  # nothing is left after the cut
            "p4": [],
        }
    )
    counts = distil(teacher, tmp_path, cut=reflections, select=everything)
    traces = read_traces(tmp_path / "traces.jsonl")
    assert [(trace.problem.id, trace.response) for trace in traces] == [
        ("p0", right(p0, "A long way to it.")),
        ("p0", right(p0, "Short.")),
        ("p2", right(p2, "So.")),
    ]
    assert traces[0].problem.question == p0.question and traces[0].problem.answer == p0.answer
    assert (counts["problems"], counts["traces"], counts["solved_problems"], counts["dropped_by_cut"]) == (5, 3, 3, 1)
    assert (counts["correct"], counts["wrong"]) == (5, 2) and counts["mean_words"] == pytest.approx((5 + 1 + 1) / 3)
    proposals = {row["id"]: row["proposals"] for row in map(json.loads, (tmp_path / "proposals.jsonl").read_text().splitlines())}
    assert len(proposals["p0"]) == 3 and proposals["p0"][0]["caption"] == "a caption" and proposals["p4"] == []


def test_a_finished_batch_is_never_asked_for_again(tmp_path):
    teacher = Fake()
    first = distil(teacher, tmp_path)
    assert teacher.asked == [["p0", "p1"], ["p2", "p3"], ["p4"]]
    again = Fake()
    assert distil(again, tmp_path) == first and again.asked == []


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        distil(Fake(dies="p3"), tmp_path / "cut")
    assert not (tmp_path / "cut" / "traces.jsonl").exists()
    teacher = Fake()
    counts = distil(teacher, tmp_path / "cut")
    assert teacher.asked == [["p2", "p3"], ["p4"]]
    assert counts == distil(Fake(), tmp_path / "whole")
    assert (tmp_path / "cut" / "traces.jsonl").read_bytes() == (tmp_path / "whole" / "traces.jsonl").read_bytes()
    assert (tmp_path / "cut" / "proposals.jsonl").read_bytes() == (tmp_path / "whole" / "proposals.jsonl").read_bytes()


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_half_written_last_line_is_asked_for_again(tmp_path, left):
    expected = distil(Fake(), tmp_path)
    whole = (tmp_path / "proposals.jsonl").read_text()
    last = whole.splitlines(keepends=True)[-1]
    (tmp_path / "proposals.jsonl").write_text(whole[: -len(last)] + last[:left])
    teacher = Fake()
    assert distil(teacher, tmp_path) == expected and teacher.asked == [["p4"]]
    assert (tmp_path / "proposals.jsonl").read_text() == whole


def test_a_kill_inside_a_character_is_survived(tmp_path):
    says = {"p4": [right(PROBLEMS[4], "数学")]}
    expected = distil(Fake(says), tmp_path)
    whole = (tmp_path / "proposals.jsonl").read_bytes()
    (tmp_path / "proposals.jsonl").write_bytes(whole[: whole.index("学".encode()) + 1])
    teacher = Fake(says)
    assert distil(teacher, tmp_path) == expected and teacher.asked == [["p4"]]
    assert (tmp_path / "proposals.jsonl").read_bytes() == whole


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0b\x0c\x1c\x1d\x1e\u2029", "\r\n", "数学 👩‍👧 \x00"])
def test_whatever_a_model_says_is_read_back(tmp_path, odd):
    """Line separators other than a new line are ordinary characters of an answer."""
    says = {"p0": [right(PROBLEMS[0], f"So{odd}on.")]}
    first = distil(Fake(says), tmp_path)
    again = Fake(says)
    assert distil(again, tmp_path) == first and again.asked == []
    assert read_traces(tmp_path / "traces.jsonl")[0].response == says["p0"][0]


def test_pictures_are_saved_beside_the_traces(tmp_path):
    problem = replace(PROBLEMS[0], images=(Image.new("RGB", (8, 6), "red"),))
    distil(Fake(), tmp_path, [problem])
    (trace,) = read_traces(tmp_path / "traces.jsonl")
    with Image.open(trace.problem.images[0]) as image:
        assert image.size == (8, 6) and image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_nothing_kept_and_repeated_ids_are_clear_sentences(tmp_path):
    wrong = {problem.id: ["<think>So.</think><answer>77</answer>"] for problem in PROBLEMS}
    with pytest.raises(UserError, match="distillation kept no trace .*'wrong': 5.* look at proposals.jsonl"):
        distil(Fake(wrong), tmp_path)
    with pytest.raises(UserError, match="id 'p0' occurs twice"):
        distil(Fake(), tmp_path / "other", [PROBLEMS[0], PROBLEMS[0]])


class Recorder:
    """A generator that gives one caption per problem and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown = []

    def generate(self, vlm, problems, prompts, sampling, seed) -> list[Completion]:
        self.shown.append((list(problems), prompts, sampling))
        return [Completion((1,), f" caption of {p.id} \n", True) for p in problems for _ in range(sampling.n)]


def test_the_reasoner_sees_caption_and_question_and_nothing_else(vlm, mixed):
    secret = [replace(problem, answer="SECRET", choices=("one", "other")) for problem in mixed]
    generator, heard = Recorder(), []

    def reasoner(*told, **more) -> str:
        assert not more
        heard.append(told)
        return f"{told[0]}|{told[2].random()}"

    teacher = CaptionTeacher(generator, PromptStyle(), reasoner, "Describe the image.", max_new_tokens=9)
    groups = teacher.propose(vlm, secret, 3, seed=1)
    assert [len(group) for group in groups] == [3] * 4 and len(heard) == 12
    for index, told in enumerate(heard):
        problem = secret[index // 3]
        assert told[:2] == (f"caption of {problem.id}", question_text(problem)) and len(told) == 3
        assert "SECRET" not in repr(told)
    ((asked, prompts, sampling),) = generator.shown
    assert [p.question for p in asked] == ["Describe the image."] * 4 and sampling.greedy and sampling.n == 1
    text = vlm.tokenizer.batch_decode(prompts.ids_PL)
    assert all("Describe the image." in each and "SECRET" not in each and "red" not in each for each in text)
    assert prompts.images_P.tolist() == [1, 0, 2, 1]
    assert all(item.caption == f"caption of {p.id}" for p, group in zip(secret, groups, strict=True) for item in group)
    assert len({item.response for group in groups for item in group}) == 12  # chains of a caption differ
    assert teacher.propose(vlm, secret[2:3], 3, seed=1) == groups[2:3]  # a chain doesn't depend on its batch
    assert teacher.propose(vlm, secret[2:3], 3, seed=2) != groups[2:3]


def test_the_policy_proposes_finished_answers_only(vlm, mixed):
    class Half:
        def generate(self, vlm, problems, prompts, sampling, seed) -> list[Completion]:
            assert (sampling.n, sampling.temperature, sampling.top_p, sampling.greedy) == (2, 0.7, 0.9, False)
            return [Completion((1,), f"{p.id}{k}", p.id != "two" and k == 0) for p in problems for k in range(2)]

    teacher = PolicyTeacher(Half(), PromptStyle(), temperature=0.7, top_p=0.9)
    assert teacher.propose(vlm, mixed, 2, seed=0) == [[Proposal("one0")], [Proposal("none0")], [], [Proposal("wide0")]]


def test_the_gold_teacher_gives_what_verification_accepts(tmp_path):
    counts = distil(GoldTeacher(), tmp_path)
    assert counts["correct"] == counts["traces"] == 5 and ids(tmp_path) == [problem.id for problem in PROBLEMS]

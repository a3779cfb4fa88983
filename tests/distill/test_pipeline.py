"""Distillation: asked once, kept on disk, resumed after a kill; and a text reasoner that never sees the picture."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from PIL import Image

from openvlt.data.rows.schema import read_traces
from openvlt.distill.cut import cut_reflections, keep_whole
from openvlt.distill.pipeline import run_distillation
from openvlt.distill.run import LEDGERS
from openvlt.distill.select import keep_every_trace, keep_shortest
from openvlt.distill.settings import Distillation
from openvlt.distill.writers.scripted import GoldAnswers, ScriptedWriter
from openvlt.errors import UserError
from openvlt.serving.protocol import Reply
from openvlt.storage.locks import lock_folder
from openvlt.types import Problem

PROBLEMS = [Problem(f"p{number}", f"What is {number} + 1?", str(number + 1)) for number in range(5)]


def right(problem: Problem, thought: str = "So.") -> str:
    return f"<think>{thought}</think><answer>{problem.answer}</answer>"


@dataclass
class Fake:
    """Answers by script (`says[id]`), notes what it was asked, and dies when asked for `dies`."""

    says: dict[str, list[str]] = field(default_factory=dict)
    dies: str | None = None
    name: str = "fake"
    asked: list[tuple[str, int]] = field(default_factory=list)
    local: bool = False
    random: bool = True

    def signature(self, vlm) -> str:
        return self.name

    def write(self, vlm, questions, samples, seed, usage):
        for question in questions:
            for sample in question.missing:
                if question.problem.id == self.dies:
                    raise KeyboardInterrupt
                self.asked.append((question.problem.id, sample))
                texts = self.says.get(question.problem.id, [right(question.problem)] * samples)
                reply = (
                    Reply(texts[sample], output_tokens=3)
                    if sample < len(texts)
                    else Reply("", error="no answer")
                )
                usage.count(reply)
                yield question, sample, reply


def distil(reason, folder: Path, problems: Sequence[Problem] = PROBLEMS, **changes) -> dict:
    settings = Distillation(
        **{"reason": reason, "cut": keep_whole, "select": keep_shortest, "samples": 2, **changes}
    )
    return run_distillation(settings, None, problems, folder=folder, seed=1)


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_bytes().decode().split("\n") if line]


def ids(folder: Path) -> list[str]:
    return [row["id"] for row in rows(folder / "traces.jsonl")]


def test_right_answers_are_kept_cut_and_selected(tmp_path):
    p0, p1, p2, p3, p4 = PROBLEMS
    writer = Fake(
        {
            "p0": [
                right(p0, "A long way to it."),
                right(p0, "Short."),
                "<think>No.</think><answer>77</answer>",
            ],
            "p1": ["<think>So.</think><answer>77</answer>", "<think>I cannot tell.</think>"],
            "p2": [right(p2, "So. Wait, no."), right(p2, "So. Wait, yes.")],  # equal after the cut
            "p3": [right(p3, "Wait, so.")],  # nothing is left after the cut
            "p4": [],
        }
    )
    counts = distil(writer, tmp_path, cut=cut_reflections, select=keep_every_trace, samples=3)
    traces = read_traces(tmp_path / "traces.jsonl")
    assert [(trace.problem.id, trace.response) for trace in traces] == [
        ("p0", right(p0, "A long way to it.")),
        ("p0", right(p0, "Short.")),
        ("p2", right(p2, "So.")),
    ]
    assert traces[0].problem.question == p0.question and traces[0].problem.answer == p0.answer
    assert (counts["problems"], counts["traces"], counts["solved_problems"], counts["dropped_by_cut"]) == (
        5,
        3,
        3,
        1,
    )
    assert (counts["correct"], counts["wrong"], counts["no_answer"], counts["missing"]) == (5, 2, 1, 7)
    assert counts["mean_words"] == pytest.approx((5 + 1 + 1) / 3)
    assert [row["sample"] for row in rows(tmp_path / "reason.jsonl") if row["id"] == "p0"] == [0, 1, 2]
    assert {row["kept"] for row in rows(tmp_path / "cut.jsonl") if row["id"] == "p3"} == {None}


def test_what_was_answered_is_never_asked_for_again(tmp_path):
    writer = Fake()
    first = distil(writer, tmp_path)
    assert writer.asked == [(f"p{number}", sample) for number in range(5) for sample in range(2)]
    again = Fake()
    assert distil(again, tmp_path) == first and again.asked == []


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        distil(Fake(dies="p3"), tmp_path / "cut")
    assert not (tmp_path / "cut" / "traces.jsonl").exists()
    writer = Fake()
    counts = distil(writer, tmp_path / "cut")
    assert writer.asked == [("p3", 0), ("p3", 1), ("p4", 0), ("p4", 1)]
    assert counts == distil(Fake(), tmp_path / "whole")
    for name in ("traces", *LEDGERS):
        assert (tmp_path / "cut" / f"{name}.jsonl").read_bytes() == (
            tmp_path / "whole" / f"{name}.jsonl"
        ).read_bytes()


def test_a_request_that_failed_is_asked_again_and_only_that(tmp_path):
    counts = distil(Fake({"p2": [right(PROBLEMS[2])], "p4": []}), tmp_path)
    assert counts["missing"] == 3 and ids(tmp_path) == ["p0", "p1", "p2", "p3"]
    writer = Fake()
    assert distil(writer, tmp_path)["missing"] == 0 and writer.asked == [("p2", 1), ("p4", 0), ("p4", 1)]


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, 0),
        ({"cut": cut_reflections}, 0),
        ({"select": keep_every_trace}, 0),
        ({"samples": 3}, 5),
        ({"reason": Fake(name="other")}, 10),
    ],
    ids=["nothing", "cut", "select", "samples", "reasoner"],
)
def test_other_settings_cost_only_the_calls_that_they_change(tmp_path, change, asked):
    distil(Fake({"p0": [right(PROBLEMS[0], "So. Wait, no.")] * 3}), tmp_path)
    writer = change.get("reason", Fake())
    distil(writer, tmp_path, **{name: value for name, value in change.items() if name != "reason"})
    assert len(writer.asked) == asked
    assert ("Wait" in rows(tmp_path / "traces.jsonl")[0]["response"]) == (change.keys() <= {"select"})


def test_a_folder_has_one_distillation_at_a_time(tmp_path):
    with (
        lock_folder(tmp_path),
        pytest.raises(
            UserError, match="another process is distilling in .*; wait for its end, or start a new run"
        ),
    ):
        distil(Fake(), tmp_path)
    assert distil(Fake(), tmp_path)["traces"] == 5


def test_other_captions_are_other_questions(tmp_path):
    reasoner = Fake()
    settings = {"caption": Fake({p.id: ["one"] for p in PROBLEMS}), "samples": 1}
    distil(reasoner, tmp_path, **settings)
    distil(reasoner, tmp_path, **settings)
    assert len(reasoner.asked) == 5 == len(settings["caption"].asked)
    distil(
        reasoner,
        tmp_path,
        caption=Fake({p.id: ["one" if p.id != "p3" else "two"] for p in PROBLEMS}, name="better"),
        samples=1,
    )
    assert reasoner.asked[5:] == [("p3", 0)]  # the same words ask for nothing new


def test_a_problem_without_a_caption_is_left_for_the_next_time(tmp_path):
    captions = {p.id: ["seen"] for p in PROBLEMS}
    reasoner = Fake()
    counts = distil(reasoner, tmp_path, caption=Fake(captions | {"p1": []}), samples=1)
    assert counts["missing"] == 1 and ids(tmp_path) == ["p0", "p2", "p3", "p4"]
    assert distil(reasoner, tmp_path, caption=Fake(captions), samples=1)["missing"] == 0 and reasoner.asked[
        -1
    ] == ("p1", 0)


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_half_written_last_line_is_asked_for_again(tmp_path, left):
    says = {"p4": [right(PROBLEMS[4], "数学")] * 2}
    expected = distil(Fake(says), tmp_path)
    whole = (tmp_path / "reason.jsonl").read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    (tmp_path / "reason.jsonl").write_bytes(
        whole[: -len(last)] + (last[:left] if left > 1 else last[: last.index("学".encode()) + 1])
    )
    writer = Fake(says)
    assert distil(writer, tmp_path) == expected and writer.asked == [("p4", 1)]
    assert (tmp_path / "reason.jsonl").read_bytes() == whole


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0b\x0c\x1c\x1d\x1e\u2029", "\r\n", "数学 👩‍👧 \x00"])
def test_whatever_a_model_says_is_read_back(tmp_path, odd):
    """Line separators other than a new line are ordinary characters of an answer."""
    says = {"p0": [right(PROBLEMS[0], f"So{odd}on.")] * 2}
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
    with pytest.raises(UserError, match="distillation kept no trace .*'wrong': 5.* look at .*reason.jsonl"):
        distil(Fake(wrong), tmp_path, samples=1)
    with pytest.raises(UserError, match="id 'p0' occurs twice"):
        distil(Fake(), tmp_path / "other", [PROBLEMS[0], PROBLEMS[0]])


def test_memory_does_not_grow_with_the_problems(tmp_path):
    """Streamed: what a problem leaves in memory is its place in the ledgers, whatever its chains hold."""

    class Many(Sequence):
        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, number: int) -> Problem:
            if number >= self.size:
                raise IndexError(number)
            return Problem(f"p{number}", "What is 1 + 1?", "2")

    long = f"<think>{'word' * 2000} So.</think><answer>2</answer>"
    writer = ScriptedWriter(lambda caption, question, rng: long)
    peaks = []
    for size in (150, 400):
        tracemalloc.start()
        distil(
            writer,
            tmp_path / str(size),
            Many(size),
            caption=Fake({f"p{n}": ["seen"] for n in range(size)}),
            samples=1,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 250 * 2500  # 250 problems more, with 8 KB each in four files


def test_gold_is_what_verification_accepts(tmp_path):
    counts = distil(GoldAnswers(), tmp_path, samples=1)
    assert counts["correct"] == counts["traces"] == 5 and ids(tmp_path) == [
        problem.id for problem in PROBLEMS
    ]

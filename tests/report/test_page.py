"""The page: everything on it, nothing from outside, all text escaped."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from openvlt.errors import UserError
from openvlt.report.__main__ import draw_reports
from openvlt.report.page import write_page
from openvlt.report.records import read_stage
from openvlt.report.transcripts import Pictures, answer_transcripts, right_and_wrong, sample_transcripts
from tests.helpers.run_folders import answer, evaluation, lines, result

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Collects text, tags and sources; every tag must be closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.sources, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def check(page) -> Checker:
    checker = Checker()
    checker.feed(page.read_text())
    assert not checker.open
    return checker


def test_the_page_holds_the_run_and_asks_nothing_of_the_network(write_run, three):
    traces = {"stage": "traces1", "kind": "distill", "start": "base", "seconds": 2.0, "evaluation": None}
    traces["distillation"] = {"problems": 4, "correct": 6, "wrong": 2, "mean_words": 17.25}
    rows = [answer("q1", "correct"), answer("q2", "timeout")]
    files = {
        "manifest.json": json.dumps({"commit": "abc123", "versions": {"torch": "2.13.0"}, "diff": "-a\n+b"}),
        "overrides": "- +experiment=x\n- seed=3\n",
        "config.yaml": "sft: {epochs: 2, optimizer: {lr: 0.001}}\niteration: {stages: {sft1: {amount: 77}}}\n",
        "02-sft1/metrics.csv": "step,loss\n1,2.0\n2,1.5\n",
        "02-sft1/rows.jsonl": lines(rows),
    }
    page = check(write_page(write_run([three[0], traces, *three[1:]], files=files)))
    for expected in (
        "study",
        "Base 20.0 % → GRPO 1 50.0 % (+30.0 points) on 100 questions.",
        "+experiment=x seed=3",
        "abc123",
        "torch 2.13.0",
        "-a +b",
        "40.0 % (95 % interval 10.0–90.0, n = 100), +20.0 points against Base",
        "correct 6 (75.0 %)",
        "mean words17.25",
        "amount77sft.epochs2sft.optimizer.lr0.001",
        "said of q2",
        "✗ timeout",
    ):
        assert expected in page.text, expected
    assert "script" not in page.tags and "link" not in page.tags
    assert page.tags.count("img") == 2  # iterations and one stage's curves
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)


def test_text_is_escaped(write_run, three):
    evil = "<script>alert('x')</script> & <img src=http://evil.example/a.png>"
    row = answer("q1", "wrong", question=evil, response=evil, gold=evil)
    results = [three[0], result("sft1", "sft", evaluation(40), start=evil)]
    files = {
        "manifest.json": json.dumps({"command": evil}),
        "01-sft1/rows.jsonl": lines([row]),
        "config.yaml": f"# {evil}",
    }
    folder = write_run(results, files=files)
    page = check(write_page(folder))
    assert "script" not in page.tags and not any("evil.example" in source for source in page.sources)
    assert page.text.count("<script>alert('x')</script>") >= 5  # question, gold, response, command, config
    assert "<script" not in (folder / "report.html").read_text()


def test_an_unfinished_run_has_a_page(write_run, three):
    row = {
        "step": 0,
        "problem": "p",
        "question": "q",
        "gold": "1",
        "response": "early words",
        "tokens": 3,
        "finished": False,
    }
    row |= {"verdict": "wrong", "reward": 0.0, "advantage": -0.5, "kept": True}
    files = {
        "02-grpo1/metrics.csv": "step,reward,length\n1,0.25,9\n2,0.5,8\n3,0.",
        "02-grpo1/rollouts.jsonl": lines([row]) + '{"step": 1, "half',
    }
    folder = write_run(three[:2], files=files)
    (folder / "results.json").unlink()
    page = check(write_page(folder))
    for expected in (
        "has not finished",
        "steps so far2",
        "early words",
        "reward 0, advantage -0.50",
        "3 tokens, cut off",
    ):
        assert expected in page.text, expected


def test_a_run_with_nothing_but_a_folder_has_a_page(tmp_path):
    (tmp_path / "00-base").mkdir()
    assert "No stage has been evaluated yet." in check(write_page(tmp_path)).text


def test_right_and_wrong_rows_of_many_verdicts_with_pictures_first():
    kinds = ("correct", "correct", "wrong", "wrong", "wrong", "no_answer", "timeout")
    rows = [answer(str(number), verdict) for number, verdict in enumerate(kinds)]
    picked = right_and_wrong(rows, lambda row: row["id"] in "14", 3)
    assert [row["id"] for row in picked] == ["1", "0", "4", "5", "6"]


def test_pictures_come_from_the_row_or_from_the_problem_s_trace(write_run, three):
    folder = write_run(
        [*three[:2], result("traces1", "distill", None)],
        files={
            "01-sft1/rows.jsonl": lines(
                [answer("a", "correct"), answer("b", "wrong", images=["own.png"]), answer("c", "wrong")]
            ),
            "02-traces1/traces.jsonl": lines(
                [{"id": "a", "question": "q", "answer": "5", "response": "r", "images": ["t.png"]}]
            ),
        },
    )
    Image.new("RGB", (2, 2), "red").save(folder / "02-traces1" / "t.png")
    stages = [read_stage(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    found = {
        answer.response[-1]: answer.pictures for answer in answer_transcripts(stages[1], Pictures(stages))
    }
    assert found["a"][0].uri.startswith("data:image/png;base64,") and found["a"][0].small
    assert found["b"][0].missing == "own.png can't be read"
    assert found["c"] == ()


def test_rollouts_are_shown_from_the_first_and_the_last_step(tmp_path):
    import pyarrow
    from pyarrow import parquet

    row = {
        "problem": "p",
        "question": "q",
        "gold": "1",
        "tokens": 3,
        "finished": True,
        "reward": 1.0,
        "advantage": 0.5,
    }
    rows = [
        row | {"step": step, "response": f"{step}{v[0]}", "verdict": v}
        for step in (0, 5, 9)
        for v in ("wrong", "correct")
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rollouts.parquet")
    shown = sample_transcripts(read_stage(tmp_path), Pictures([]))
    assert [one.response for one in shown] == ["0c", "0w", "9c", "9w"]
    (tmp_path / "rollouts.parquet").write_bytes(b"broken")
    with pytest.raises(UserError, match="rollouts.parquet can't be read"):
        sample_transcripts(read_stage(tmp_path), Pictures([]))


def test_command_line(write_run, three, tmp_path, capsys):
    folders = [str(write_run(three[:2], name=name)) for name in ("a", "b")]
    assert draw_reports(folders[:1]) == 0
    assert "| SFT 1" in capsys.readouterr().out and (tmp_path / "a" / "report.html").is_file()
    assert draw_reports(folders) == 0
    assert "mean %" in (tmp_path / "seeds.md").read_text() and (tmp_path / "seeds.png").is_file()
    capsys.readouterr()
    assert draw_reports([str(tmp_path / "absent")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no such folder; give a run folder" in said

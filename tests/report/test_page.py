"""The page: one file that asks nothing of the network, with everything a run left, whatever its kind and state."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import platform
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from openvlt.errors import UserError
from openvlt.report.__main__ import draw_reports
from openvlt.report.collect.curves import add_tokens, add_update, column_sentences, thin_columns
from openvlt.report.collect.rollouts import thin_steps
from openvlt.report.collect.runs import read_run
from openvlt.report.page.build import embed_json
from openvlt.report.write import write_report
from tests.helpers.report_runs import EVIL, completion, write_big_run
from tests.helpers.run_folders import lines

RUNNING = {"state": "running", "pid": os.getpid(), "host": platform.node()}


class Parts(HTMLParser):
    """The scripts, styles and data of a page, as a browser finds them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.blocks, self.codes, self.tags, self.policy = {}, {"script": [], "style": []}, [], ""
        self.current = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]
        self.current = (tag, attrs.get("id"))

    def handle_endtag(self, tag):
        self.current = None

    def handle_data(self, data):
        if self.current is None:
            return
        tag, name = self.current
        if tag == "script" and name:
            self.blocks[name] = json.loads(data)
        elif tag in self.codes:
            self.codes[tag].append(data)


def parts_of(folder: Path, **more) -> Parts:
    return Parts(write_report(folder, **more).read_text())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_big_run(tmp_path / "runs", rows=70)


def test_the_policy_names_every_script_and_style_and_nothing_is_requested(run):
    parts = parts_of(run)
    for kind in ("script", "style"):
        hashes = [
            f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
            for code in parts.codes[kind]
        ]
        allowed = next(rule for rule in parts.policy.split("; ") if rule.startswith(f"{kind}-src"))
        assert len(hashes) >= 2 and allowed.split()[1:] == hashes
    assert parts.policy.startswith("default-src 'none'")
    assert not any({"src", "href"} & attrs.keys() for _, attrs in parts.tags)
    assert "unsafe" not in parts.policy


def test_no_text_of_a_model_ends_the_data_block(run):
    parts = parts_of(run)
    texts = [row["text"] for row in parts.blocks["data"]["rollouts"][0]["rows"]]
    assert EVIL in texts  # read back as it was, though it holds </script>
    assert [tag for tag, _ in parts.tags].count("script") == 4 and "img" not in [tag for tag, _ in parts.tags]
    assert json.loads(embed_json({"a": EVIL})) == {"a": EVIL} and not set("<>&") & set(embed_json(EVIL))


def test_a_reward_that_is_no_number_is_null(run):
    """No reward term applied to a completion: the run goes on, and so does its page."""
    rows = [completion(0, "easy0", 0, reward=math.nan, advantage=math.nan), completion(0, "easy0", 1)]
    (run / "02-grpo1" / "rollouts.jsonl").write_text(lines(rows))
    shown = parts_of(run).blocks["data"]["rollouts"][0]["rows"]
    assert [(row["reward"], row["advantage"]) for row in shown] == [(None, None), (0.0, -0.6)]
    assert json.loads(embed_json({"a": [1.5, -math.inf, {"b": (math.nan, "nan")}]})) == {
        "a": [1.5, None, {"b": [None, "nan"]}]
    }


def test_the_head_of_a_finished_run(run):
    head = parts_of(run).blocks["data"]["head"]
    assert head["state"] == "finished" and head["error"] is None and head["progress"] is None
    assert head["headline"] == "GRPO 1: 50.0 % (95 % interval 10.0 to 90.0, n 100), +30.0 points against Base"
    assert head["changes"] == ["+experiment=iter1", "seed=3"]  # places aren't settings
    assert head["command"] == "python train.py +experiment=iter1 seed=3" and head["continue"] == ""
    assert ["versions.torch", "2.13.0"] in head["facts"]


def test_the_head_of_a_running_run_says_how_far_it_is(tmp_path):
    head = parts_of(write_big_run(tmp_path, rows=5, state=RUNNING)).blocks["data"]["head"]
    # 12 of 40 steps at 4 seconds each
    assert head["progress"] == {
        "stage": "GRPO 1",
        "place": 3,
        "of": 3,
        "step": 12,
        "steps": 40,
        "left_s": 112.0,
    }


def test_the_head_of_a_failed_run_has_the_error_and_what_goes_on(tmp_path):
    state = {"state": "failed", "error": "loss is nan", "kind": "ValueError", "lines": ["a", "b"]}
    folder = write_big_run(tmp_path, rows=5, state=state)
    head = parts_of(folder).blocks["data"]["head"]
    assert head["error"] == {
        "sentence": "loss is nan",
        "kind": "ValueError",
        "lines": ["a", "b"],
        "stage": "GRPO 1",
        "step": 12,
    }
    assert head["continue"] == f"python train.py resume={folder}"


def test_a_run_whose_process_is_gone_has_stopped(tmp_path):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)  # now nobody has its number
    head = parts_of(write_big_run(tmp_path, rows=5, state=RUNNING | {"pid": child})).blocks["data"]["head"]
    assert head["state"] == "stopped" and "ended without a word" in head["error"]["sentence"]


def test_every_evaluated_row_is_on_the_page_with_its_answer_in_every_stage(run):
    answers = parts_of(run).blocks["data"]["answers"]
    assert [stage["name"] for stage in answers["stages"]] == ["base", "sft1", "grpo1"] and len(
        answers["rows"]
    ) == 70
    row = answers["rows"][4]
    assert {name: said[0]["right"] for name, said in row["answers"].items()} == {
        "base": False,
        "sft1": False,
        "grpo1": True,
    }
    assert row["answers"]["base"][0]["why"][1].split() == ["decided", "by", "numbers:", "read"]
    assert answers["rows"][0]["pictures"] and not answers["rows"][65]["pictures"]


def test_rollouts_are_whole_groups_numbered_as_in_the_metrics(run):
    (stage,) = parts_of(run).blocks["data"]["rollouts"]
    assert (stage["stage"], stage["groups"], stage["kept"], stage["every"], stage["steps"]) == (
        "grpo1",
        32,
        2,
        1,
        12,
    )
    group = [row for row in stage["rows"] if row["step"] == 12 and row["problem"] == "q7"]
    assert [row["reward"] for row in group] == [1, 0, 0, 0] and group[0]["terms"] == {
        "accuracy": 1,
        "overlong": None,
    }


def test_long_rollouts_keep_evenly_spread_steps_with_the_first_and_the_last():
    rows = [completion(step, "easy0", 0, response="x" * 100) for step in range(10)]
    kept, every = thin_steps(rows, budget=400)
    assert every == 3 and [row["step"] for row in kept] == [0, 3, 6, 9]
    assert thin_steps(rows, budget=1000) == (rows, 1)


def test_pictures_over_the_budget_lie_beside_the_page(run):
    Image.effect_noise((300, 300), 50).save(run / "00-base" / "images" / "one.png")
    inside = parts_of(run).blocks
    assert (
        all(item["src"].startswith("data:image/") for item in inside["pictures"]["items"])
        and not inside["data"]["outside"]
    )
    outside = parts_of(run, budget=1000).blocks
    sources = [item["src"] for item in outside["pictures"]["items"]]
    beside = [source for source in sources if source.startswith("report_files/")]
    assert (
        beside
        and outside["data"]["outside"] == len(beside)
        and all((run / source).stat().st_size for source in beside)
    )


def test_a_picture_that_is_gone_says_so(run):
    (run / "00-base" / "images" / "one.png").unlink()
    (run / "01-sft1" / "images" / "one.png").write_text("no picture")
    items = parts_of(run).blocks["pictures"]["items"]
    assert "1 pictures, smallest 40 × 30" in parts_of(run).blocks["data"]["cost"]["pictures"]
    assert {item.get("missing") for item in items} >= {
        "one.png isn't there any more",
        "one.png can't be read",
    }


def test_curves_have_the_tokens_and_the_seconds_of_updates(run):
    (stage,) = parts_of(run).blocks["data"]["curves"]
    assert stage["weights"] == {"accuracy": 1.0, "overlong": 0.5} and stage["checkpoint_every"] == 4
    assert stage["columns"]["length_other"][:3] == [14, None, 14]
    # one rollout of 2 s at 100 tokens a second, used for two steps; then another
    columns = {
        "generate_s": [2, 2, 3],
        "reward_s": [1, 1, 1],
        "tokens_per_s": [100, 100, 100],
        "elapsed_s": [4, 5, 10],
    }
    assert add_tokens(columns)["tokens"] == [200, 200, 500]
    assert add_update(columns)["update_s"] == [1, 1, 1]
    assert thin_columns({"a": [float(n) for n in range(10)]}, 4) == {"a": [0, 3, 6, 9]}
    assert thin_columns({"a": [float("nan"), float("inf")]}, 4) == {"a": [None, "inf"]}


def test_columns_have_the_sentences_of_the_documentation():
    """Told apart: change docs/metrics.md and openvlt/report/page/columns.json together."""
    told = {}
    for line in (Path(__file__).parents[2] / "docs" / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0] not in ("column", "---"):
            told |= dict.fromkeys(cells[0].replace("`", "").split(", "), cells[1].replace("`", ""))
    assert column_sentences() == told and len(told) > 25


def test_an_evaluation_s_page(tmp_path, run):
    folder = tmp_path / "runs" / "evaluate" / "1"
    folder.mkdir(parents=True)
    block = json.loads((run / "00-base" / "results.json").read_text())["evaluation"]
    (folder / "results.json").write_text(json.dumps({"model": "m", **block}))
    (folder / "manifest.json").write_text(json.dumps({"command": ["evaluate.py"]}))
    (folder / "rows.jsonl").write_text((run / "00-base" / "rows.jsonl").read_text())
    data = parts_of(folder).blocks["data"]
    assert data["head"]["kind"] == "evaluate" and data["head"]["headline"].startswith(
        "evaluation 20.0 % (95 %"
    )
    assert len(data["answers"]["rows"]) == 70 and not data["rollouts"] and not data["curves"]


def test_a_benchmark_s_page_has_all_samples_of_a_row(tmp_path):
    import pyarrow
    from pyarrow import parquet

    shared = {
        "question": "q",
        "gold": "A",
        "choices": ["x", "y"],
        "cells": '{"subject": "algebra"}',
        "images": [],
    }
    rows = [
        shared
        | {
            "id": "1",
            "sample": n,
            "response": f"said {n}",
            "extracted": "A",
            "verdict": "correct",
            "right": n == 0,
        }
        for n in (0, 1)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    block = {
        "benchmark": "mathvision",
        "accuracy": 0.5,
        "interval": [0.1, 0.9],
        "total": 2,
        "truncated": 0.25,
        "findings": ["x; y"],
    }
    (tmp_path / "results.json").write_text(json.dumps(block))
    data = parts_of(tmp_path).blocks["data"]
    (row,) = data["answers"]["rows"]
    assert row["source"] == "algebra" and [said["right"] for said in row["answers"]["mathvision"]] == [
        True,
        False,
    ]
    assert data["findings"] == [
        {"rule": "mathvision", "sentence": "mathvision: x", "advice": "y", "link": "#answers"}
    ]


def test_a_distillation_s_page_has_traces_and_problems_without_one(tmp_path):
    import pyarrow
    from pyarrow import parquet

    trace = {"id": "a", "question": "q", "answer": "5", "response": "so 5", "images": []}
    problems = [
        {"id": name, "question": "q", "answer": "5", "samples": 4, "right": right, "images": []}
        for name, right in (("a", 2), ("b", 0))
    ]
    (tmp_path / "traces.jsonl").write_text(lines([trace]))
    parquet.write_table(pyarrow.Table.from_pylist(problems), tmp_path / "problems.parquet")
    (tmp_path / "results.json").write_text(
        json.dumps({"problems": 2, "traces": 1, "skipped_rows": {"row 9": "no answer"}})
    )
    data = parts_of(tmp_path).blocks["data"]
    assert data["head"]["headline"] == "1 traces from 2 problems"
    assert [row["answers"]["traces"][0]["text"] for row in data["answers"]["rows"]] == [
        "so 5",
        "no trace was kept (0 of 4 chains were correct)",
    ]
    assert data["cost"]["skipped"] == [["row 9", "no answer"]]


def test_a_run_with_nothing_but_a_config_has_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    data = parts_of(tmp_path).blocks["data"]
    assert (
        data["head"]["state"] == "stopped" and data["head"]["headline"] == "Nothing has been evaluated yet."
    )


def test_what_is_no_run_is_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is not valid YAML"):
        read_run(tmp_path)
    assert draw_reports([str(tmp_path / "absent")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no such folder; give a run folder" in said


def test_command_line(write_run, three, tmp_path, capsys):
    folders = [str(write_run(three[:2], name=name)) for name in ("a", "b")]
    assert draw_reports(folders[:1]) == 0
    assert "| SFT 1" in capsys.readouterr().out and (tmp_path / "a" / "report.html").is_file()
    assert draw_reports(folders) == 0
    assert "mean %" in (tmp_path / "seeds.md").read_text() and (tmp_path / "seeds.png").is_file()


def test_the_curve_library_is_the_published_one():
    assets = Path(__file__).parents[2] / "openvlt" / "report" / "assets"
    for name, digest in re.findall(r"\| (\S+) \| ([0-9a-f]{64}) \|", (assets / "README.md").read_text()):
        assert hashlib.sha256((assets / name).read_bytes()).hexdigest() == digest

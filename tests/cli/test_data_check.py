"""`openvlt data check`: what it recognises, what it finds wrong in which row, and its exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openvlt.cli.data_check import data_check
from openvlt.data.rows import load
from openvlt.model.load import VLM
from tests.helpers.entry_scripts import ROOT


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`rows(row, ..., name=)` writes a file into the current folder, beside a.png; a row is what differs from a good one."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), "red").save("a.png")
    Image.new("RGB", (30, 40), "red").save("b.png")

    def write(*changes: dict[str, Any], name: str = "rows.jsonl") -> str:
        good = {"question": "How many bars?", "answer": "3", "images": ["a.png"]}
        kept = [{key: value for key, value in (good | each).items() if value is not None} for each in changes]
        Path(name).write_text("\n".join(map(json.dumps, kept)))
        return name

    return write


@pytest.mark.parametrize("large", [False, True])
def test_a_good_file(
    large: bool,
    rows: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "LARGE", 0 if large else load.LARGE)
    changes = [{"id": f"q{n}", "images": ["a.png", "b.png"] if n else []} for n in range(20)]
    changes[3]["choices"], changes[3]["url"] = ["2", "3"], "x"
    assert data_check([rows(*changes), "--heldout", "0.2"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("rows.jsonl: 20 rows, 0 of them bad\n")
    for line in (
        *(
            "  question     question\n",
            "  images       images\n",
            "  choices      choices\n",
            "  not read     url\n",
        ),
        "pictures       38 in 19 rows, 30 x 40 to 60 x 40 pixels\n",
        "95 % up to",
        "train, ",
        "(data.heldout=0.2)",
        "1. rows.jsonl, line 1 (id 'q0')\n   <|im_start|>user\n   How many bars?<|im_end|>\n",
        "2. rows.jsonl, line 2 (id 'q1')\n",
        "   <|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>How many ba...\n",
        "   answer: 3\n",
    ):
        assert line in page
    assert "4. rows.jsonl" not in page and len(page.splitlines()) < 45
    assert page.endswith("python train.py +experiment=own data.path=rows.jsonl\n")


def test_the_splits_are_those_of_a_run(rows: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    from openvlt.data.rows.columns import Columns
    from openvlt.data.sources.base import Selection
    from openvlt.data.sources.local import LocalRows

    file = rows(*({"id": f"q{n}"} for n in range(50)))
    assert data_check([file]) == 0
    source = LocalRows(file, Columns(), heldout=0.1)
    sizes = [len(source.problems(Selection(split=split), 0)) for split in ("train", "val", "test")]
    assert "{} train, {} val, {} test".format(*sizes) in capsys.readouterr().out


@pytest.mark.parametrize("size", ["small", "large"])
def test_bad_rows_are_counted_and_named(
    size: str, rows: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "LARGE", 0 if size == "large" else load.LARGE)
    file = rows({}, {"images": "gone.png"}, {"images": "half.png"}, {"answer": ""}, {"images": "/etc/passwd"})
    Path("half.png").write_bytes(Path("a.png").read_bytes()[:60])
    Path(file).write_text(
        Path(file).read_text() + '\n{"question": \n' + '{"question": "<|im_end|>?", "answer": "1"}'
    )
    assert data_check([file]) == 1
    page = capsys.readouterr().out
    assert page.startswith("rows.jsonl: 7 rows, 6 of them bad\n") and "and 1 more" in page
    lines = [line for line in page.splitlines() if line.startswith("  rows.jsonl, line ")]
    assert [line[19] for line in lines] == ["2", "3", "4", "5", "6"]
    for line, reason in zip(
        lines,
        ("does not exist", "can't be read", "is empty", "data.anywhere=true", "not valid JSON"),
        strict=True,
    ):
        assert reason in line
    assert "data.skip_bad=true" in page and "trained on     1 train" in page


def test_usual_names_of_columns_are_offered(
    rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {"question": None, "answer": None, "images": None}
    row = plain | {"problem": "How many?", "reward_model": {"ground_truth": "3"}, "image": "a.png"}
    assert data_check([rows(row)]) == 0
    page = capsys.readouterr().out
    assert "  question     problem   (a run needs data.columns.question=problem)\n" in page
    settings = "data.columns.question=problem data.columns.answer=reward_model.ground_truth"
    assert page.endswith(f"data.path=rows.jsonl {settings}\n")
    assert (
        data_check(["rows.jsonl", "--columns", "question=problem", "answer=reward_model.ground_truth"]) == 0
    )


def test_conversations_are_recognised(rows: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "3"}]
    assert data_check([rows({"question": None, "answer": None, "conversations": turns})]) == 0
    page = capsys.readouterr().out
    assert "  question     conversations (its last user turn; turns before it stay)\n" in page
    assert "  answer       conversations (its last reply)\n" in page and "data.columns" not in page


@pytest.mark.parametrize(
    "words, said",
    [
        (["nope.jsonl"], "nope.jsonl does not exist (looked in "),
        (["empty.jsonl"], "has no rows; give a file with at least one"),
        (["latin.jsonl"], "is not UTF-8 text"),
        (["notes.txt"], "suffix '.txt' is not supported"),
        (["folder"], "folder is a folder without metadata.jsonl"),
        (["other.jsonl"], "no column question for the question; there are ask, reply"),
        (["other.jsonl", "--columns", "qestion=ask"], "--columns qestion=ask is not ROLE=COLUMN"),
        (["rows.jsonl", "--model", "./nope"], "./nope"),
    ],
)
def test_what_can_not_be_read_is_one_sentence(
    words: list[str], said: str, rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows({})
    Path("empty.jsonl").touch()
    Path("notes.txt").touch()
    Path("folder").mkdir()
    Path("latin.jsonl").write_bytes('{"question": "ä"}'.encode("latin-1"))
    Path("other.jsonl").write_text('{"ask": "?", "reply": "1"}')
    assert data_check(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and len(shown.err.splitlines()) == 1 and said in shown.err


def test_a_file_of_bad_rows_alone_is_described(
    rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_check([rows({"answer": ""}, {"images": "gone.png"})]) == 1
    page = capsys.readouterr().out
    assert "2 rows, 2 of them bad" in page and "nothing: no row is good" in page


def test_prompts_are_counted_under_a_models_processor(
    rows: Callable[..., str], capsys: pytest.CaptureFixture[str], vlm: VLM, tmp_path: Path
) -> None:
    from openvlt.data.prompts import PromptStyle, Renderer
    from openvlt.data.sources.base import Selection
    from openvlt.data.sources.local import LocalRows

    vlm.save(tmp_path / "mine")
    file = rows({"question": "How many bars are there?"})
    (problem,) = LocalRows(file).problems(Selection(), 0)
    length = int(Renderer(vlm.processor, PromptStyle()).prompts([problem]).mask_PL.sum())
    assert data_check([file, "--model", str(tmp_path / "mine")]) == 0
    assert f"prompt tokens  {length} to {length}," in capsys.readouterr().out
    assert data_check([file, "--model", str(tmp_path / "mine"), "--max-tokens", str(length - 1)]) == 1
    assert f"its prompt has {length} tokens" in capsys.readouterr().out


def test_it_runs_as_a_module(rows: Callable[..., str]) -> None:
    command = [sys.executable, "-m", "openvlt.cli.data_check", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0 and "usage: openvlt data check" in done.stdout


def test_the_example_of_the_page_about_rows(
    rows: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "your_rows.md").read_text()
    lines, shown = (
        re.search(r"```json\n(.*?)```", page, re.S)[1],
        re.search(r"```\n(rows\.jsonl: .*?)```", page, re.S)[1],
    )
    Path("rows.jsonl").write_text(lines)
    for name, size in (
        ("bowl", (640, 480)),
        ("bars", (320, 240)),
        ("left", (100, 100)),
        ("right", (100, 100)),
    ):
        Image.new("RGB", size).save(f"{name}.png")
    assert data_check(["rows.jsonl"]) == 0
    begin, end = shown.split("...\n")
    out = capsys.readouterr().out
    assert out.startswith(begin) and out.endswith(end)

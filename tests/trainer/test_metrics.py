"""metrics.csv and rollouts.jsonl: whole rows only, whatever moment a run was killed at, whatever the model said."""

from __future__ import annotations

import math

import pytest
import torch

from openvlt.grpo.collect import transcripts as transcripts_module
from openvlt.grpo.collect.transcripts import Transcripts
from openvlt.trainer.metrics import read_metrics
from openvlt.types import Completion, Problem, Prompts, Rollouts, ScoredRollouts, Verdict


def test_metrics_come_back_as_numbers(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss,length_correct\n1,0.5,nan\n2,1e-05,12.25\n")
    rows = read_metrics(file)
    assert rows[1] == {"step": 2.0, "loss": 1e-5, "length_correct": 12.25}
    assert math.isnan(rows[0]["length_correct"]) and len(rows) == 2


def test_a_row_cut_anywhere_is_left_out(tmp_path):
    """A kill can leave any part of the last line: also one that ends in a comma or inside a number."""
    file, text = tmp_path / "metrics.csv", "step,loss,reward\n1,0.5,0.25\n2,0.25,1.5e-05\n"
    start = text.index("2,")
    for end in range(start, len(text)):
        file.write_text(text[:end])
        assert [row["step"] for row in read_metrics(file)] == [1.0], repr(text[start:end])
    file.write_text(text)
    assert [row["step"] for row in read_metrics(file)] == [1.0, 2.0]


def rollouts(text: str) -> ScoredRollouts:
    ids = torch.ones(2, 1).long()
    prompts = Prompts(ids[:1], ids[:1], ids[:1], torch.zeros(1).long())
    generated = Rollouts(
        problems=(Problem("p", "What?", "1"),),
        completions=(Completion((1,), text, True), Completion((1,), "1", True)),
        prompts=prompts,
        ids_NT=ids,
        mask_NT=ids,
        group_N=torch.zeros(2).long(),
        origin_N=torch.zeros(2).long(),
        view=("clean", "clean"),
        policy_version=0,
    )
    scored = generated.with_verdicts((Verdict.WRONG, Verdict.CORRECT))
    return scored.with_(reward_N=torch.tensor([0.0, 1.0]), adv_NT=torch.tensor([[-0.5], [0.5]]))


@pytest.mark.parametrize(
    "text", ["plain", "two\nlines\r\n", "a\u2028b", "a\x85b\x0b\x0c\x1c\x1d\x1e\u2029", 'quote " \\ \x00']
)
def test_transcripts_keep_whatever_was_said(tmp_path, text):
    """A model may say any character, line separators too; a restart reads the lines back."""
    from pyarrow import parquet

    transcripts = Transcripts(tmp_path, 1)
    transcripts.add(rollouts(text), 0)
    transcripts.add(rollouts("later"), 1)
    restarted = Transcripts(tmp_path, 1)
    restarted.drop_after(1)
    restarted.add(rollouts("again"), 1)
    restarted.close()
    rows = parquet.read_table(tmp_path / "rollouts.parquet").to_pylist()
    assert [(row["step"], row["response"]) for row in rows] == [(0, text), (0, "1"), (1, "again"), (1, "1")]
    assert rows[1].items() >= {
        "step": 0, "problem": "p", "question": "What?", "gold": "1", "response": "1", "tokens": 1, "finished": True,
        "verdict": "correct", "reward": 1.0, "advantage": 0.5, "kept": True,
    }.items()  # fmt: skip


def test_transcripts_of_a_run_that_goes_on_after_its_end_are_whole(tmp_path):
    """A kill after the last step: the lines are a table by now, and the last checkpoint may be some steps old."""
    from pyarrow import parquet

    for beginning, steps in ((0, (0, 1, 2)), (2, (2, 3))):
        transcripts = Transcripts(tmp_path, 1)
        transcripts.drop_after(beginning)
        for step in steps:
            transcripts.add(rollouts(f"{step}"), step)
        transcripts.close()
    rows = parquet.read_table(transcripts.table).to_pylist()
    assert (
        [row["step"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
        and rows[0]["images"] == []
        and not transcripts.lines.exists()
    )


def test_a_kill_while_transcripts_are_cut_loses_none(tmp_path, monkeypatch):
    transcripts = Transcripts(tmp_path, 1)
    transcripts.add(rollouts("said"), 0)
    whole = transcripts.lines.read_bytes()
    monkeypatch.setattr(transcripts_module, "append_lines", lambda file, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        transcripts.drop_after(1)
    assert transcripts.lines.read_bytes() == whole


def test_transcripts_survive_a_kill_inside_a_character(tmp_path):
    transcripts = Transcripts(tmp_path, 1)
    transcripts.add(rollouts("数学"), 0)
    whole = transcripts.lines.read_bytes()
    transcripts.add(rollouts("数学"), 1)
    cut = transcripts.lines.read_bytes()[
        : len(whole) + whole.index("学".encode()) + 1
    ]  # one of three bytes of a character
    transcripts.lines.write_bytes(cut)
    restarted = Transcripts(tmp_path, 1)
    restarted.drop_after(1)
    assert transcripts.lines.read_bytes() == whole

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


def many_groups(outcomes: list[str]) -> ScoredRollouts:
    """Groups of two: "w" both wrong, "m" mixed, "r" both right."""
    verdicts = [
        Verdict.CORRECT if outcome == "r" or (outcome == "m" and place) else Verdict.WRONG
        for outcome in outcomes
        for place in (0, 1)
    ]
    groups = len(outcomes)
    ids = torch.ones(2 * groups, 1).long()
    prompts = Prompts(ids[:groups], ids[:groups], ids[:groups], torch.zeros(groups).long())
    generated = Rollouts(
        problems=tuple(Problem(f"p{number}", "What?", "1") for number in range(groups)),
        completions=tuple(Completion((1,), "<answer>2</answer>", True) for _ in range(2 * groups)),
        prompts=prompts,
        ids_NT=ids,
        mask_NT=ids,
        group_N=torch.arange(groups).repeat_interleave(2),
        origin_N=torch.zeros(2 * groups).long(),
        view=("clean",) * (2 * groups),
        policy_version=0,
    )
    return generated.with_verdicts(verdicts).with_(
        reward_N=torch.zeros(2 * groups), rewards={"a": torch.tensor([1.0, math.nan] * groups)}
    )


def test_the_lot_draws_groups_with_a_mixed_one_and_a_restart_draws_the_same(tmp_path):
    outcomes = ["w"] * 9 + ["m"] + ["w"] * 6
    rows_of = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        transcripts = Transcripts(tmp_path / name, 2, seed=5)
        for step in range(20):
            transcripts.add(many_groups(outcomes), step)
        rows_of.append(transcripts_module.read_lines(transcripts.lines))
    assert rows_of[0] == rows_of[1]
    of_step = [{row["problem"] for row in rows_of[0] if row["step"] == step} for step in range(20)]
    assert all(len(names) == 2 and "p9" in names for names in of_step)
    assert len(set().union(*of_step)) > 6  # not the same ones each time
    assert all(row["groups"] == 16 for row in rows_of[0])


def test_transcripts_say_the_terms_and_how_a_verdict_was_reached(tmp_path):
    Transcripts(tmp_path, 1).add(many_groups(["w"]), 3)
    first, second = transcripts_module.read_lines(tmp_path / "rollouts.jsonl")
    assert (first["reward_a"], second["reward_a"]) == (1.0, None)
    assert first["extracted"] == "2" and first["origin"] == "policy"
    assert first["explanation"][0].split() == ["verdict", "wrong"]
    assert any(line.startswith("decided by") for line in first["explanation"])

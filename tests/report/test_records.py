"""Reading: columns, half-written files, names, and the two means."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from openvlt.errors import UserError
from openvlt.report.records import (
    StageRecord,
    load_run,
    mean,
    mean_ends,
    read_columns,
    running_mean,
    write_report_file,
)


def test_running_mean_is_of_the_last_values_and_skips_nan():
    assert running_mean([1, 2, 3, 7], 2) == [1, 1.5, 2.5, 5]
    shown = running_mean([math.nan, 4, math.nan, math.nan], 2)
    assert math.isnan(shown[0]) and shown[1:3] == [4, 4] and math.isnan(shown[3])
    with pytest.raises(ValueError, match="window is 0"):
        running_mean([1.0], 0)


def test_ends_are_means_of_a_third_and_of_one_value_at_least():
    assert mean_ends([*[1.0, 3.0], *[9.0] * 3, *[5.0, 7.0]]) == (2.0, 6.0)
    assert mean_ends([1.0, 2.0, 4.0]) == (1.0, 4.0)
    assert mean_ends([math.nan, 2.0]) == (2.0, 2.0)
    assert mean_ends([]) is None
    assert math.isnan(mean([]))


def test_columns_leave_out_a_half_written_line_and_read_gaps_as_nan(tmp_path: Path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss,kl\r\n1,0.5,\r\n2,nan,0.1\r\n3,0.2")
    columns = read_columns(file)
    assert columns["step"] == [1, 2]
    assert columns["loss"][0] == 0.5 and math.isnan(columns["loss"][1])
    assert math.isnan(columns["kl"][0]) and columns["kl"][1] == 0.1
    file.write_text("step,loss\n1,x\n")
    with pytest.raises(UserError, match="line 2: loss is 'x'"):
        read_columns(file)


@pytest.mark.parametrize(
    ("name", "label", "kind", "number", "control"),
    [
        ("base", "Base", "base", None, False),
        ("sft1", "SFT 1", "sft", 1, False),
        ("traces2", "Traces 2", "distill", 2, False),
        ("control-sft2", "Control SFT 2", "sft", 2, True),
        ("control_traces3", "Control Traces 3", "distill", 3, True),
        ("grpo3-hard", "grpo3-hard", "", None, False),
    ],
)
def test_stage_names_say_what_they_are(name: str, label: str, kind: str, number: int | None, control: bool):
    stage = StageRecord(name)
    assert (stage.label, stage.kind, stage.number, stage.control) == (label, kind, number, control)


def test_a_stage_that_has_only_begun_is_part_of_the_run(write_run, three):
    run = load_run(write_run(three, files={"10-sft2/metrics.csv": "step,loss\n1,2.0\n"}))
    assert [stage.name for stage in run.stages] == ["base", "sft1", "grpo1", "sft2"]
    assert [stage.done for stage in run.stages] == [True, True, True, False]
    assert run.stages[-1].metrics == {"step": [1.0], "loss": [2.0]}
    assert not run.finished


def test_what_is_no_run_is_one_sentence(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder; give a run folder"):
        load_run(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no stages"):
        load_run(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="results.json is not valid JSON"):
        load_run(tmp_path)


def test_writing_leaves_the_new_file_alone_and_no_other(tmp_path: Path):
    file = write_report_file(tmp_path / "page.html", b"old")
    assert write_report_file(file, b"new").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(UserError, match="cannot write"):
        write_report_file(tmp_path / "absent" / "page.html", b"")

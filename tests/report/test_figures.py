"""Where points stand, which panels there are, and that files are pictures."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from PIL import Image

from openvlt.errors import UserError
from openvlt.report.figures import (
    curves_figure,
    iterations_figure,
    mean_window,
    panel_rows,
    panels,
    scored_points,
    seeds_figure,
)
from openvlt.report.records import stages_of
from tests.helpers.run_folders import evaluation, result


def test_points_are_the_results_in_percent(three):
    main, control = scored_points(stages_of({"stages": three}))
    assert [(point.x, point.accuracy) for point in main] == [(0, 20), (1, 40), (2, 50)]
    assert (main[0].low, main[0].high) == (13.3, 28.9) and not control


def test_the_control_stands_at_the_sft_of_its_iteration(three):
    second = [
        result("traces2", "distill", None),
        result("sft2", "sft", evaluation(55)),
        result("grpo2", "grpo", evaluation(60)),
    ]
    others = [result("control-sft2", "sft", evaluation(41)), result("control-more", "sft", evaluation(43))]
    main, control = scored_points(stages_of({"stages": [*three, *second, *others]}))
    assert [point.stage.name for point in main] == ["base", "sft1", "grpo1", "sft2", "grpo2"]
    assert [(point.x, point.accuracy, point.kind) for point in control] == [
        (3, 41, "control"),
        (5, 43, "control"),
    ]


def test_panels_are_the_columns_that_hold_values():
    some = [1.0, 2.0]
    grpo = {
        "step": some,
        "loss": some,
        "reward": some,
        "length": some,
        "entropy": some,
        "kl": [math.nan, math.nan],
    }
    assert [panel.column for panel in panels(grpo)] == ["reward", "length", "entropy"]
    assert [panel.column for panel in panels({"step": some, "loss": some})] == ["loss"]
    assert panels({"step": some}) == []


@pytest.mark.parametrize(
    ("count", "rows"), [(1, [1]), (3, [3]), (4, [2, 2]), (5, [3, 2]), (6, [3, 3]), (7, [3, 3, 1])]
)
def test_no_panel_of_a_row_is_empty(count: int, rows: list[int]):
    assert [len(row) for row in panel_rows(list(range(count)))] == rows


def test_the_window_is_a_tenth_of_the_steps():
    assert [mean_window(steps) for steps in (1, 30, 80, 81)] == [3, 3, 8, 9]


def test_figures_are_written(write_run, three):
    control = result("control-sft1", "sft", evaluation(30))
    metrics = "step,loss,grad_norm\n1,2.0,1.0\n2,1.0,nan\n"
    folder = write_run([*three, control], files={"01-sft1/metrics.csv": metrics})
    assert iterations_figure(folder) == folder / "iterations.png"
    assert curves_figure(folder / "01-sft1") == folder / "01-sft1" / "curves.png"
    for file in (folder / "iterations.png", folder / "01-sft1" / "curves.png"):
        with Image.open(file) as image:
            assert image.format == "PNG" and image.width > 700
    assert not list(folder.rglob("*.tmp"))


def test_without_numbers_there_is_no_figure(write_run):
    folder = write_run([result("base", "base", None)], files={"00-base/metrics.csv": "step,loss\n"})
    assert iterations_figure(folder) is None and curves_figure(folder / "00-base") is None
    with pytest.raises(UserError, match="no stage of .* is evaluated yet"):
        seeds_figure([folder], folder / "seeds.png")


def test_seeds_figure_is_written_and_pyplot_is_left_alone(write_run, three, tmp_path: Path):
    before = "matplotlib.pyplot" in sys.modules
    folders = [write_run(three, name="a"), write_run(three[:2], name="b")]
    assert seeds_figure(folders, tmp_path / "seeds.png").is_file()
    assert ("matplotlib.pyplot" in sys.modules) == before

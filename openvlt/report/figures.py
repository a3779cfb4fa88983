"""The figures of a run: accuracy over the stages, the curves of one stage, and several seeds together.

All of it is read from the run folder and written into it. A training process may call this at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from openvlt.errors import UserError
from openvlt.report.draw import (
    BLUE,
    GREY,
    INK,
    LIGHT_BLUE,
    PALE,
    add_kinds_legend,
    marker_style,
    new_figure,
    save_figure,
    set_titles,
    strip_axes,
)
from openvlt.report.records import (
    RunRecord,
    StageRecord,
    finite_values,
    load_run,
    mean,
    read_stage,
    running_mean,
)
from openvlt.report.table import stages_by_name


@dataclass(frozen=True)
class Point:
    """One stage in the figure: its place on the x axis, and accuracy and interval in percent."""

    x: int
    stage: StageRecord
    accuracy: float
    low: float
    high: float

    @property
    def kind(self) -> str:
        """The kind of stage as `marker_style` takes it."""
        return "control" if self.stage.control else self.stage.kind


# --- accuracy over the stages -------------------------------------------------------------------------------


def iterations_figure(run_folder: str | Path) -> Path | None:
    """Writes RUN/iterations.png: accuracy per stage with its interval, as in the paper's Figure 4.

    None when no stage is evaluated.
    """
    run = load_run(run_folder)
    main, control = scored_points(run.stages)
    if not main and not control:
        return None
    figure, axes = _new_accuracy_axes(main, control)
    _draw_branches(axes, main, control)
    marks = f"{_describe_questions(main + control)}; bars are 95 % Wilson intervals"
    set_titles(axes, f"{run.name}: accuracy after each stage", marks)
    add_kinds_legend(figure, axes, {point.kind for point in [*main, *control]})
    return save_figure(figure, run.folder / "iterations.png")


def scored_points(stages: Iterable[StageRecord]) -> tuple[list[Point], list[Point]]:
    """The evaluated stages of the main branch, at 0, 1, ..., and the control's, at the SFT of its cycle."""
    scored = [stage for stage in stages if stage.evaluation]
    main = [_make_point(x, stage) for x, stage in enumerate(stage for stage in scored if not stage.control)]
    control: list[Point] = []
    for stage in (stage for stage in scored if stage.control):
        same = [
            point.x for point in main if (point.stage.kind, point.stage.number) == (stage.kind, stage.number)
        ]
        taken = {point.x for point in control}
        free = [x for x in same if x not in taken] or [
            1 + max([point.x for point in main + control], default=-1)
        ]
        control.append(_make_point(free[0], stage))
    return main, sorted(control, key=lambda point: point.x)


def _make_point(x: int, stage: StageRecord) -> Point:
    low, high = stage.evaluation["interval"]
    return Point(x, stage, 100 * stage.evaluation["accuracy"], 100 * low, 100 * high)


def _new_accuracy_axes(main: Sequence[Point], control: Sequence[Point]) -> tuple[Figure, Axes]:
    everything = [*main, *control]
    ticks = {point.x: point.stage.label for point in [*control, *main]}
    figure = new_figure(max(6.4, min(11.0, 1.6 + 0.85 * len(ticks))), 4.3)
    axes = figure.add_subplot()
    strip_axes(axes)
    axes.set_xticks(list(ticks), list(ticks.values()), rotation=0 if len(ticks) <= 9 else 35)
    axes.set_xlim(min(ticks) - 0.6, max(ticks) + 0.6)
    low, high = min(point.low for point in everything), max(point.high for point in everything)
    room = 0.16 * max(high - low, 5.0)
    bottom, top = (low - room if low > room else -2.0), min(108.0, high + room)
    steps = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(bottom, top)
    axes.set_yticks([tick for tick in steps if max(0.0, bottom) <= tick <= min(100.0, top)])
    axes.set_ylim(bottom, top)
    axes.set_ylabel("accuracy (%)")
    _shade_cycles(axes, main)
    return figure, axes


def _shade_cycles(axes: Axes, main: Sequence[Point]) -> None:
    """Shades every other cycle."""
    numbers = sorted({point.stage.number for point in main if point.stage.number})
    for number in numbers[::2] if len(numbers) > 1 else ():
        places = [point.x for point in main if point.stage.number == number]
        axes.axvspan(min(places) - 0.5, max(places) + 0.5, color="#f5f5f5", zorder=0, linewidth=0)


def _draw_branches(axes: Axes, main: Sequence[Point], control: Sequence[Point]) -> None:
    """Draws both branches. The dashed control starts at the last SFT before it, which both branches share."""
    shared = [point for point in main if control and point.kind == "sft" and point.x < control[0].x][-1:]
    for branch, style in ((main, "-"), ([*shared, *control], (0, (4, 3)))):
        x, y = [_x_position(point) for point in branch], [point.accuracy for point in branch]
        axes.plot(x, y, linestyle=style, color=GREY, linewidth=1.2, zorder=2)
    for points, others in ((main, control), (control, main)):
        rival = {point.x: point.accuracy for point in others}
        for before, point, after in zip([None, *points], points, [*points[1:], None], strict=False):
            _draw_marker(axes, point)
            upper = point.accuracy >= rival.get(point.x, 101.0 if point.stage.control else -1.0)
            _write_value(axes, point, upper, _sideways_offset(axes, before, point, after) if upper else 0)


def _x_position(point: Point) -> float:
    """The x coordinate; the control is a little to the right, so that its bar doesn't hide under another."""
    return point.x + 0.12 if point.stage.control else point.x


def _draw_marker(axes: Axes, point: Point) -> None:
    marker, fill, _ = marker_style(point.kind)
    bar = [[max(0.0, point.accuracy - point.low)], [max(0.0, point.high - point.accuracy)]]
    face = "white" if point.kind == "control" else fill
    style = {
        "marker": marker,
        "markersize": 7,
        "markerfacecolor": face,
        "markeredgecolor": fill,
        "markeredgewidth": 1.4,
    }
    style |= {"color": fill, "capsize": 3, "elinewidth": 1.2, "linestyle": "none", "zorder": 4}
    axes.errorbar(_x_position(point), point.accuracy, bar, **style)


def _write_value(axes: Axes, point: Point, upper: bool, sideways: float) -> None:
    """Writes the accuracy above the bar, or under it where the other branch is higher."""
    place, colour = (_x_position(point), point.high if upper else point.low), marker_style(point.kind)[1]
    style = {"ha": "center", "va": "bottom" if upper else "top", "fontsize": 9, "color": colour, "zorder": 5}
    offset = (sideways, 4 if upper else -4)
    text = axes.annotate(f"{point.accuracy:.1f}", place, offset, textcoords="offset points", **style)
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _sideways_offset(axes: Axes, before: Point | None, point: Point, after: Point | None) -> float:
    """How many points a number moves away from a line that is steep to its right, or to its left."""
    low, high = axes.get_ylim()
    steep = 0.25 * (high - low)
    rises = after is not None and after.accuracy - point.accuracy > steep
    falls = before is not None and before.accuracy - point.accuracy > steep
    return 10.0 * (int(falls) - int(rises))


def _describe_questions(points: Sequence[Point]) -> str:
    amounts = {point.stage.evaluation["n"] for point in points}
    span = f"{min(amounts):,}" if len(amounts) == 1 else f"{min(amounts):,} to {max(amounts):,}"
    return f"{span} questions per stage"


# --- several seeds ------------------------------------------------------------------------------------------


def seeds_figure(run_folders: Sequence[str | Path], file: str | Path) -> Path:
    """Writes the runs' mean per stage with lowest and highest, and each run faintly.

    Raises UserError when no stage is evaluated.
    """
    runs = [load_run(folder) for folder in run_folders]
    found = [[stage for stage in column if stage] for column in stages_by_name(runs)]
    if not found:
        names = ", ".join(map(str, run_folders))
        raise UserError(f"no stage of {names} is evaluated yet; let a run reach its first evaluation")
    main, control = scored_points([column[0] for column in found])
    scores = {column[0].name: [100 * stage.evaluation["accuracy"] for stage in column] for column in found}
    main, control = (
        [_mean_with_span(point, scores[point.stage.name]) for point in branch] for branch in (main, control)
    )
    figure, axes = _new_accuracy_axes(main, control)
    for branch, style in ((main, "-"), (control, "--")):
        _draw_runs(axes, branch, runs, style)
    _draw_branches(axes, main, control)
    marks = f"mean of {len(runs)} runs; bars span lowest to highest, faint lines are single runs"
    set_titles(axes, f"{runs[0].name}: accuracy after each stage", marks)
    add_kinds_legend(figure, axes, {point.kind for point in [*main, *control]})
    return save_figure(figure, Path(file))


def _mean_with_span(point: Point, scores: Sequence[float]) -> Point:
    return Point(point.x, point.stage, mean(scores), min(scores), max(scores))


def _draw_runs(axes: Axes, branch: Sequence[Point], runs: Sequence[RunRecord], style: str) -> None:
    """Draws every run's own line, faintly."""
    for run in runs:
        own = {stage.name: 100 * stage.evaluation["accuracy"] for stage in run.stages if stage.evaluation}
        there = [point for point in branch if point.stage.name in own]
        x, y = map(_x_position, there), [own[point.stage.name] for point in there]
        axes.plot(list(x), y, color=PALE, linewidth=0.8, linestyle=style, zorder=1)


# --- curves of one stage ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One column of metrics.csv and how it is drawn; `share` turns it into percent."""

    column: str
    title: str
    unit: str
    share: bool = False


_PANELS = (
    Panel("loss", "Loss", "nats per token"),
    Panel("reward", "Sampled reward", "mean per completion"),
    Panel("length", "Completion length", "tokens"),
    Panel("dropped_groups", "Dropped groups", "% of groups", share=True),
    Panel("kl", "KL to the reference", "nats per token"),
    Panel("entropy", "Entropy", "nats per token"),
    Panel("grad_norm", "Gradient norm", "before clipping"),
)


def curves_figure(stage_folder: str | Path) -> Path | None:
    """Writes STAGE/curves.png: one panel for each known column of metrics.csv. None without any values."""
    stage = read_stage(stage_folder)
    columns = stage.metrics
    known = panels(columns)
    if not known:
        return None
    steps = columns.get("step") or list(range(1, 1 + len(next(iter(columns.values())))))
    window = mean_window(len(steps))
    rows = panel_rows(known)
    figure = new_figure(9.0 if len(known) > 1 else 5.0, 0.75 + 2.25 * len(rows))
    grid = figure.add_gridspec(len(rows), 1)
    for number, row in enumerate(rows):
        cells = grid[number].subgridspec(1, len(row))
        for place, panel in enumerate(row):
            _draw_panel(figure.add_subplot(cells[place]), panel, steps, columns[panel.column], window)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return save_figure(figure, Path(stage_folder) / "curves.png")


def panels(columns: Mapping[str, Sequence[float]]) -> list[Panel]:
    """The panels that have values. With a reward there is no loss: GRPO's loss doesn't show progress."""
    known = [panel for panel in _PANELS if finite_values(columns.get(panel.column, ()))]
    return [panel for panel in known if panel.column != "loss" or "reward" not in columns]


def mean_window(steps: int) -> int:
    """Steps in the running mean: a tenth of all, at least three."""
    return max(3, math.ceil(steps / 10))


def panel_rows(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    """Panels in rows of up to three, as even as can be: 4 are 2 + 2, 5 are 3 + 2."""
    count = math.ceil(len(panels) / 3)
    width = math.ceil(len(panels) / count)
    return [panels[start : start + width] for start in range(0, len(panels), width)]


def _draw_panel(
    axes: Axes, panel: Panel, steps: Sequence[float], values: Sequence[float], window: int
) -> None:
    shown = [100 * value for value in values] if panel.share else values
    strip_axes(axes)
    dots = {"marker": ".", "markersize": 3} if len(steps) <= 60 else {}
    axes.plot(steps, shown, color=LIGHT_BLUE, linewidth=0.8, label="each step", **dots)
    if len(steps) > window:
        smooth = running_mean(shown, window)
        axes.plot(steps, smooth, color=BLUE, linewidth=1.8, label=f"mean of the last {window} steps")
    axes.set_title(panel.title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel("optimiser step", fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.margins(x=0.02)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.locator_params(axis="y", nbins=5)

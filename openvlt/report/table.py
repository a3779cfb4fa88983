"""The results table of a run, and of several runs, for the terminal, Markdown and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.report.records import RunRecord, StageRecord, load_run, mean, mean_ends, stages_of
from openvlt.storage.markdown import format_percent, markdown_table

EMPTY_CELL = "–"
CONTROL_TITLE = "control: no RL"


@dataclass(frozen=True)
class TextTable:
    """A table of text: the rows of the main branch, those of the control, and a line below."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    control: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    def to_markdown(self) -> str:
        """The table in Markdown: padded columns, the first left-aligned, the others right-aligned."""
        apart = (CONTROL_TITLE, *("" for _ in self.header[1:]))
        rows = [*self.rows, *([apart] if self.control else ()), *self.control]
        table = markdown_table(self.header, rows, aligned=True)
        return f"{table}\n\n{self.note}" if self.note else table


def results_table(results: Mapping[str, Any], folder: Path | None = None) -> str:
    """The table of a run's results.json, in Markdown; with `folder` also the reward in its metrics."""
    return stages_table(stages_of(results, folder)).to_markdown()


def stages_table(stages: Sequence[StageRecord]) -> TextTable:
    """One row for each stage that trains or is evaluated; the note has the time of the others.

    `L1 %` is the accuracy on problems of level 1, `tokens` the mean length of an evaluated response, `sampled
    reward` the mean over the first third of GRPO's steps and over the last. Empty columns are left out.
    """
    shown = [stage for stage in stages if stage.kind != "distill" or stage.evaluation]
    levels = sorted(
        {level for stage in shown for level in _levels_of(stage)}, key=lambda level: (len(level), level)
    )
    columns: dict[str, Callable[[StageRecord], str]] = {
        "accuracy %": _accuracy_cell,
        "95 % interval": _interval_cell,
        "n": lambda stage: _evaluation_cell(stage, "n", "{}"),
        **{f"L{level} %": _level_cell(level) for level in levels},
        "tokens": lambda stage: _evaluation_cell(stage, "length", "{:.1f}"),
        "sampled reward": _reward_cell,
        "seconds": _seconds_cell,
    }
    used = {
        title: cell for title, cell in columns.items() if any(cell(stage) != EMPTY_CELL for stage in shown)
    }
    rows: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for stage in shown:
        rows[stage.control].append((stage.short_label, *(cell(stage) for cell in used.values())))
    return TextTable(("stage", *used), tuple(rows[False]), tuple(rows[True]), _describe_time(stages))


def _evaluation_cell(stage: StageRecord, key: str, form: str) -> str:
    return form.format(stage.evaluation[key]) if stage.evaluation else EMPTY_CELL


def _accuracy_cell(stage: StageRecord) -> str:
    return format_percent(stage.evaluation["accuracy"]) if stage.evaluation else EMPTY_CELL


def _interval_cell(stage: StageRecord) -> str:
    return "–".join(map(format_percent, stage.evaluation["interval"])) if stage.evaluation else EMPTY_CELL


def _levels_of(stage: StageRecord) -> Mapping[str, Any]:
    return stage.evaluation.get("levels", {}) if stage.evaluation else {}


def _level_cell(level: str) -> Callable[[StageRecord], str]:
    return lambda stage: (
        format_percent(_levels_of(stage)[level]["accuracy"]) if level in _levels_of(stage) else EMPTY_CELL
    )


def _reward_cell(stage: StageRecord) -> str:
    both = mean_ends(stage.metrics.get("reward", ()))
    return _format_change(*both) if both else EMPTY_CELL


def _format_change(first: float, last: float) -> str:
    return f"{first:.2f} -> {last:.2f}"


def _seconds_cell(stage: StageRecord) -> str:
    return f"{stage.result.get('seconds', 0.0):.0f}" if stage.done else "unfinished"


def _describe_time(stages: Sequence[StageRecord]) -> str:
    seconds = sum(stage.result.get("seconds", 0.0) for stage in stages)
    traces = sum(stage.result.get("seconds", 0.0) for stage in stages if stage.kind == "distill")
    distillation = f", of which {traces:.0f} s distillation" if traces else ""
    return f"Total {seconds:.0f} s{distillation}."


# --- several runs -------------------------------------------------------------------------------------------


def seeds_table(run_folders: Sequence[str | Path]) -> str:
    """The table of several runs, in Markdown: per stage the mean accuracy, its range, and each run's."""
    return runs_table([load_run(folder) for folder in run_folders]).to_markdown()


def runs_table(runs: Sequence[RunRecord]) -> TextTable:
    """Per stage the accuracy over several runs, and the mean sampled reward.

    A run that has not evaluated a stage is left out of that stage's row.
    """
    rewarded = any("reward" in stage.metrics for run in runs for stage in run.stages)
    header = (
        "stage",
        "runs",
        "mean %",
        "range %",
        *run_titles(runs),
        *(["sampled reward"] if rewarded else ()),
    )
    rows: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for column in stages_by_name(runs):
        there = [stage for stage in column if stage]
        shares = [stage.evaluation["accuracy"] for stage in there]
        spread = (
            str(len(there)),
            format_percent(mean(shares)),
            f"{format_percent(min(shares))}–{format_percent(max(shares))}",
        )
        cells = [_accuracy_cell(stage) if stage else EMPTY_CELL for stage in column]
        extra = [_mean_reward_cell(there)] if rewarded else []
        rows[there[0].control].append((there[0].short_label, *spread, *cells, *extra))
    return TextTable(header, tuple(rows[False]), tuple(rows[True]))


def _mean_reward_cell(stages: Sequence[StageRecord]) -> str:
    both = [pair for stage in stages if (pair := mean_ends(stage.metrics.get("reward", ())))]
    return _format_change(*map(mean, zip(*both, strict=True))) if both else EMPTY_CELL


def run_titles(runs: Sequence[RunRecord]) -> list[str]:
    """`seed 1`, ... where every run has another seed, else the names of their folders."""
    seeds = [run.seed for run in runs]
    if None not in seeds and len({*map(str, seeds)}) == len(runs):
        return [f"seed {seed}" for seed in seeds]
    return [run.folder.resolve().name for run in runs]


def stages_by_name(runs: Sequence[RunRecord]) -> list[list[StageRecord | None]]:
    """For every stage that some run has evaluated, each run's record of it, or None; in the stages' order."""
    named = [{stage.name: stage for stage in run.stages if stage.evaluation} for run in runs]
    names = dict.fromkeys(name for stages in named for name in stages)
    return [[stages.get(name) for stages in named] for name in names]

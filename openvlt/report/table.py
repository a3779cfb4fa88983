"""A run's numbers as a table that reads the same in a terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.report.records import RunRecord, StageRecord, ends, load_run, mean, stages_of
from openvlt.storage.markdown import format_percent, markdown_table

EMPTY_CELL = "–"
CONTROL_TITLE = "control: no RL"


@dataclass(frozen=True)
class TextTable:
    """Cells as text: `header`, the rows of the main branch, those of the control, and a line below."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    control: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown: padded columns, the first left-aligned, the others right-aligned."""
        apart = (CONTROL_TITLE, *("" for _ in self.header[1:]))
        rows = [*self.rows, *([apart] if self.control else ()), *self.control]
        table = markdown_table(self.header, rows, aligned=True)
        return f"{table}\n\n{self.note}" if self.note else table


def results_table(results: Mapping[str, Any], folder: Path | None = None) -> str:
    """The table of a run's results.json, in Markdown; with the run's `folder` also the reward its metrics tell of."""
    return stages_table(stages_of(results, folder)).markdown()


def stages_table(stages: Sequence[StageRecord]) -> TextTable:
    """One row for each stage that trains or is evaluated; the time of the others is in the note. No empty columns.

    `L1 %` is the accuracy on questions of level 1, `tokens` the mean length of an evaluated answer, `sampled reward`
    the mean of the first third of GRPO's steps and of the last.
    """
    shown = [stage for stage in stages if stage.kind != "distill" or stage.evaluation]
    levels = sorted(
        {level for stage in shown for level in _levels(stage)}, key=lambda level: (len(level), level)
    )
    columns: dict[str, Callable[[StageRecord], str]] = {
        "accuracy %": _accuracy,
        "95 % interval": _interval,
        "n": lambda stage: _from(stage, "n", "{}"),
        **{f"L{level} %": _level_cell(level) for level in levels},
        "tokens": lambda stage: _from(stage, "length", "{:.1f}"),
        "sampled reward": _reward,
        "seconds": _seconds,
    }
    used = {
        title: cell for title, cell in columns.items() if any(cell(stage) != EMPTY_CELL for stage in shown)
    }
    rows: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for stage in shown:
        rows[stage.control].append((stage.short_label, *(cell(stage) for cell in used.values())))
    return TextTable(("stage", *used), tuple(rows[False]), tuple(rows[True]), _time(stages))


def _from(stage: StageRecord, key: str, form: str) -> str:
    return form.format(stage.evaluation[key]) if stage.evaluation else EMPTY_CELL


def _accuracy(stage: StageRecord) -> str:
    return format_percent(stage.evaluation["accuracy"]) if stage.evaluation else EMPTY_CELL


def _interval(stage: StageRecord) -> str:
    return "–".join(map(format_percent, stage.evaluation["interval"])) if stage.evaluation else EMPTY_CELL


def _levels(stage: StageRecord) -> Mapping[str, Any]:
    return stage.evaluation.get("levels", {}) if stage.evaluation else {}


def _level_cell(level: str) -> Callable[[StageRecord], str]:
    return lambda stage: (
        format_percent(_levels(stage)[level]["accuracy"]) if level in _levels(stage) else EMPTY_CELL
    )


def _reward(stage: StageRecord) -> str:
    both = ends(stage.metrics.get("reward", ()))
    return _arrow(*both) if both else EMPTY_CELL


def _arrow(first: float, last: float) -> str:
    return f"{first:.2f} -> {last:.2f}"


def _seconds(stage: StageRecord) -> str:
    return f"{stage.result.get('seconds', 0.0):.0f}" if stage.done else "unfinished"


def _time(stages: Sequence[StageRecord]) -> str:
    seconds = sum(stage.result.get("seconds", 0.0) for stage in stages)
    traces = sum(stage.result.get("seconds", 0.0) for stage in stages if stage.kind == "distill")
    return (
        f"Total {seconds:.0f} s, of which {traces:.0f} s distillation."
        if traces
        else f"Total {seconds:.0f} s."
    )


# --- several runs -----------------------------------------------------------------------------------------------------


def seeds_table(run_folders: Sequence[str | Path]) -> str:
    """Accuracy per stage over several runs: mean, lowest to highest, each run's; and the mean sampled reward."""
    return runs_table([load_run(folder) for folder in run_folders]).markdown()


def runs_table(runs: Sequence[RunRecord]) -> TextTable:
    """See `seeds_table`. A run that has not evaluated a stage doesn't count in its row."""
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
    for column in by_stage(runs):
        there = [stage for stage in column if stage]
        shares = [stage.evaluation["accuracy"] for stage in there]
        spread = (
            str(len(there)),
            format_percent(mean(shares)),
            f"{format_percent(min(shares))}–{format_percent(max(shares))}",
        )
        cells = [_accuracy(stage) if stage else EMPTY_CELL for stage in column]
        extra = [_mean_reward(there)] if rewarded else []
        rows[there[0].control].append((there[0].short_label, *spread, *cells, *extra))
    return TextTable(header, tuple(rows[False]), tuple(rows[True]))


def _mean_reward(stages: Sequence[StageRecord]) -> str:
    both = [pair for stage in stages if (pair := ends(stage.metrics.get("reward", ())))]
    return _arrow(*map(mean, zip(*both, strict=True))) if both else EMPTY_CELL


def run_titles(runs: Sequence[RunRecord]) -> list[str]:
    """`seed 1`, ... where seeds tell the runs apart, else their folders' names."""
    seeds = [run.seed for run in runs]
    if None not in seeds and len({*map(str, seeds)}) == len(runs):
        return [f"seed {seed}" for seed in seeds]
    return [run.folder.resolve().name for run in runs]


def by_stage(runs: Sequence[RunRecord]) -> list[list[StageRecord | None]]:
    """For every stage that some run has evaluated, what each run has for it (None: nothing), in the stages' order."""
    named = [{stage.name: stage for stage in run.stages if stage.evaluation} for run in runs]
    names = dict.fromkeys(name for stages in named for name in stages)
    return [[stages.get(name) for stages in named] for name in names]

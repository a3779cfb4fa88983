"""What a run records: one call here reaches all its trackers, and none of them can end the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from openvlt.errors import first_line
from openvlt.trackers.base import TableRow, Tracker

HIDDEN_COLUMNS = ("images", "kept", "groups", "explanation")  # of rollouts.jsonl: for the run's own page
SCORES = ("accuracy", "low", "high", "n")


class Recorder:
    """Passes what a run says to its trackers, by name; without trackers nothing happens.

    `step` counts the optimiser steps of the stages that are over. Trackers that are `behind` lack a part of
    the run, and are given what is over too. Every `rollouts_every` steps there is a table of rollouts
    (0: never). `forget` is called with the name of a tracker that failed.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker] | None = None,
        *,
        behind: Collection[str] = (),
        rollouts_every: int = 0,
        forget: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.trackers = dict(trackers or {})
        self.behind, self.rollouts_every, self.forget = frozenset(behind), rollouts_every, forget
        self.step = 0
        self.summary: dict[str, float] = {}

    def begin_stage(self, name: str) -> StageRecorder:
        """The part of a stage, whose steps follow those of the stages before."""
        return StageRecorder(self, name)

    def each(self, call: Callable[[Tracker], None], *, only_behind: bool = False) -> None:
        """Calls something of every tracker. One that fails is told of once, and left out from then on."""
        for name, tracker in list(self.trackers.items()):
            if only_behind and name not in self.behind:
                continue
            try:
                call(tracker)
            # a client may raise anything; what it shows stands in the run's files too
            except Exception as error:
                del self.trackers[name]
                self.forget(name)
                print(
                    f"warning: {name} follows this run no more ({describe_cause(error)}); the run goes on, "
                    "and its files hold everything",
                    flush=True,
                )

    def log_file(self, file: Path) -> None:
        """Gives the trackers a file of the run, such as its page."""
        self.each(lambda tracker: tracker.log_file(file))

    def finish(self, *, done: bool) -> None:
        """Closes every tracker; `done` says whether the run came to its end."""
        self.each(lambda tracker: tracker.finish(self.summary, done))


class StageRecorder:
    """Records one stage: names become `<stage>/<name>`, its steps those of the whole run."""

    def __init__(self, recorder: Recorder | None = None, name: str = "") -> None:
        self.recorder, self.name = recorder or Recorder(), name
        self.first, self._due = self.recorder.step, 0

    def log_metrics(self, values: Mapping[str, float], step: int, *, only_behind: bool = False) -> None:
        """Values of one optimiser step of the stage; those that are NaN don't apply, and are left out."""
        known = {f"{self.name}/{key}": float(value) for key, value in values.items() if not math.isnan(value)}
        if known:
            self.recorder.each(
                lambda tracker: tracker.log_metrics(known, self.first + step), only_behind=only_behind
            )

    def log_rollouts(self, rows: Sequence[Mapping[str, Any]], step: int, folder: Path) -> None:
        """A table of rows of rollouts.jsonl, where one is due; they name pictures in `folder`."""
        every = self.recorder.rollouts_every
        if not rows or not every or step < self._due:
            return
        self._due = (step // every + 1) * every
        table = [_make_row(row, folder) for row in _fill_pictures(rows)]
        self.recorder.each(
            lambda tracker: tracker.log_table(f"{self.name}/rollouts", table, self.first + step)
        )

    def replay(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Gives trackers that are behind the rows of metrics.csv that the stage has already."""
        if self.recorder.behind:
            for row in rows:
                values = {name: value for name, value in row.items() if name != "step"}
                self.log_metrics(values, int(row["step"]), only_behind=True)

    def end(self, result: Mapping[str, Any], *, only_behind: bool = False) -> None:
        """A stage's record: counts, and its held-out scores with intervals, as numbers and as a table."""
        steps = (result.get("training") or {}).get("steps", 0)
        self.recorder.step = self.first + steps
        counts = {k: v for k, v in (result.get("distillation") or {}).items() if isinstance(v, (int, float))}
        self.log_metrics(counts, steps, only_behind=only_behind)
        if evaluation := result.get("evaluation"):
            scores = {f"heldout_{name}": value for name, value in find_scores(evaluation).items()}
            self.log_metrics(scores, steps, only_behind=only_behind)
            parts = {
                "all": evaluation,
                **{f"level {level}": part for level, part in evaluation["levels"].items()},
            }
            table = [{"questions": name, **find_scores(part)} for name, part in parts.items()]
            self.recorder.each(
                lambda tracker: tracker.log_table(f"{self.name}/heldout", table, self.recorder.step),
                only_behind=only_behind,
            )


def find_scores(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The accuracy of an evaluation, its 95 % interval, and the number of questions."""
    low, high = evaluation["interval"]
    return dict(zip(SCORES, (evaluation["accuracy"], low, high, evaluation["n"]), strict=True))


def collect_scores(stages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The scores of every evaluated stage as `<stage>/<score>`, and as `final/<score>` the last one's.

    A control stage's is never the last.
    """
    found = {result["stage"]: find_scores(result["evaluation"]) for result in stages if result["evaluation"]}
    main = [scores for name, scores in found.items() if not name.startswith("control")]
    found |= {"final": main[-1]} if main else {}
    return {f"{name}/{key}": value for name, scores in found.items() for key, value in scores.items()}


def describe_cause(error: BaseException) -> str:
    """An error of a client's on one line: its kind and its first words."""
    return f"{type(error).__name__}: {first_line(str(error))}"


def _fill_pictures(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows, each with as many places for pictures as the row with the most."""
    most = max(len(row["images"]) for row in rows)
    return [{**row, "images": [*row["images"], *[None] * (most - len(row["images"]))]} for row in rows]


def _make_row(row: Mapping[str, Any], folder: Path) -> TableRow:
    """A row of rollouts.jsonl as a table shows it: pictures in columns of their own, after the question."""
    paths = [None if name is None else folder / name for name in row["images"]]
    pictures = {f"picture{number}" if number > 1 else "picture": path for number, path in enumerate(paths, 1)}
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if name not in HIDDEN_COLUMNS:
            shown[name] = value
        if name == "question":
            shown |= pictures
    return shown

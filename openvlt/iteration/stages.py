"""The stages of a study. Each takes a checkpoint and writes a checkpoint, or traces, into its own folder.

`conf/iteration/*.yaml` lists them.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from openvlt import distributed
from openvlt.config.validate import check_positive, check_values
from openvlt.data.rows.schema import read_traces
from openvlt.data.sources.base import Selection
from openvlt.distill.pipeline import run_distillation, write_released_traces
from openvlt.distill.settings import Distillation
from openvlt.errors import UserError
from openvlt.findings import distillation_findings, training_findings
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.train import train_grpo
from openvlt.iteration.context import StageContext
from openvlt.iteration.difficulty import DifficultyFilter
from openvlt.runs.saved_model import save_model
from openvlt.sft.module import SFT
from openvlt.storage.atomic import read_json_file
from openvlt.trainer.metrics import read_metrics
from openvlt.types import Trace


def override_fields(settings: Any, changes: Mapping[str, Any], where: str) -> Any:
    """A copy of a settings object with some fields changed.

    Raises UserError for an unknown field, or a value that a field can't have; `where` is the stage's name.
    """
    known = {entry.name for entry in fields(settings)}
    if unknown := set(changes) - known:
        raise UserError(
            f"{where}: settings name {sorted(unknown)}; {type(settings).__name__} has {sorted(known)}"
        )
    check_values(f"iteration.stages.{where}.settings", changes, inspect.signature(type(settings)))
    for name, value in changes.items():
        if isinstance(value, Mapping) and not isinstance(getattr(settings, name), Mapping):
            raise UserError(
                f"{where}: settings name parts of {name} ({', '.join(value)}); "
                "a stage changes whole fields, with a _target_"
            )
    try:
        return replace(settings, **changes)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def shrink_batches(settings: SFT | GRPO, there: int, where: str) -> Any:
    """A copy with batches of at most what is there; says so where that is less than was set."""
    if isinstance(settings, SFT):
        sizes = {name: min(getattr(settings, name), there) for name in ("batch_size", "micro_batch")}
        smaller = there < settings.batch_size
    else:
        rollout = min(settings.prompts_per_rollout, there)
        whole = rollout % settings.prompts_per_update == 0
        sizes = {
            "prompts_per_rollout": rollout,
            "prompts_per_update": settings.prompts_per_update if whole else rollout,
        }
        smaller = there < settings.prompts_per_rollout
    if smaller:
        print(f"{where}: batches of {there}, which is all there is", flush=True)
    return replace(settings, **sizes) if smaller else settings


@dataclass(frozen=True)
class EvaluateBase:
    """Measures the base model's accuracy: the first row of the results table."""

    kind: ClassVar[str] = "base"

    def run(self, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
        return {"evaluation": context.evaluate(context.load("base"), folder)}


@dataclass(frozen=True)
class DistillStage:
    """Writes SFT traces: `distillation` with the model of stage `teacher`, on the problems of `select`."""

    teacher: str
    distillation: Distillation
    select: Selection
    kind: ClassVar[str] = "distill"

    def run(self, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
        problems = context.source.problems(self.select, seed)
        teacher = context.load(self.teacher)
        counts = run_distillation(self.distillation, teacher, problems, folder=folder, seed=seed)
        return {
            "start": self.teacher,
            "distillation": counts,
            "findings": distillation_findings(counts),
            "skipped_rows": getattr(context.source, "skipped", {}),
        }


@dataclass(frozen=True)
class ReleasedTraces:
    """Takes traces that others wrote: the rows of `select`, whose answers stand in a whole response."""

    select: Selection
    kind: ClassVar[str] = "distill"

    def run(self, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
        problems = context.source.problems(self.select, seed)
        counts = write_released_traces(problems, folder)
        return {"distillation": counts, "skipped_rows": getattr(context.source, "skipped", {})}


@dataclass(frozen=True)
class SFTStage:
    """Fine-tunes the model of stage `start` on the traces of earlier stages.

    `settings` change fields of `sft` for this stage. `amount` caps the traces (the first ones in the seed's
    order), so that a control run can train on exactly as many. With `shrink_batches`, batches are at most as
    large as the data. `freeze` replaces `model.freeze` for this stage.
    """

    traces: tuple[str, ...]
    start: str = "base"
    amount: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    shrink_batches: bool = False
    freeze: tuple[str, ...] | None = None
    kind: ClassVar[str] = "sft"

    def __post_init__(self) -> None:
        if self.amount is not None and self.amount < 1:
            raise UserError(
                f"amount={self.amount} keeps no traces; give a positive number, or null for all of them"
            )

    def run(self, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
        sft = override_fields(context.sft, self.settings, name)
        context = context.with_frozen(self.freeze)
        vlm = context.load_to_train(self.start, sft.fit)
        traces = self._read_traces(context)
        if self.shrink_batches:
            sft = shrink_batches(sft, len(traces), name)
        sft.train(vlm, traces, folder=folder, seed=seed, title=name, recorder=context.recorder)
        save_model(vlm, folder)
        training = {"steps": sft.steps(len(traces)), "traces": len(traces), "epochs": sft.epochs}
        training["findings"] = _training_findings(folder)
        return {"start": self.start, "training": training, "evaluation": context.evaluate(vlm, folder)}

    def _read_traces(self, context: StageContext) -> Sequence[Trace]:
        rows = [trace for stage in self.traces for trace in _read_stage_traces(context.folder(stage))]
        return rows[: self.amount]


def _read_stage_traces(folder: Path) -> list[Trace]:
    """The traces of a finished stage. Raises UserError when there are more or fewer than it wrote."""
    file, traces = folder / "traces.jsonl", read_traces(folder / "traces.jsonl")
    wrote = read_json_file(folder / "results.json")["distillation"]["traces"]
    if len(traces) != wrote:
        raise UserError(
            f"{file} holds {len(traces)} traces, but {wrote} were written; put the file back, "
            "or start a new run"
        )
    return traces


@dataclass(frozen=True)
class GRPOStage:
    """Trains the model of stage `start` by GRPO on the problems of `select`.

    With a `difficulty_filter`, only on those it keeps. `settings` change fields of `grpo` for this stage, and
    `shrink_batches` and `freeze` are as in `SFTStage`. `episodes` take the place of `grpo.steps`: so many
    times all problems, without those that no longer fill a rollout batch.
    """

    start: str
    select: Selection
    difficulty_filter: DifficultyFilter | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    shrink_batches: bool = False
    freeze: tuple[str, ...] | None = None
    episodes: int | None = None
    kind: ClassVar[str] = "grpo"

    def __post_init__(self) -> None:
        if self.episodes is not None:
            check_positive(self, "stage", "episodes")
            if "steps" in self.settings:
                raise UserError(
                    f"a GRPO stage has episodes={self.episodes} and settings.steps={self.settings['steps']}; "
                    "give one of them"
                )

    def count_steps(self, grpo: GRPO, problems: int) -> int:
        """The stage's optimiser steps on so many problems."""
        if self.episodes is None:
            return grpo.steps
        return self.episodes * max(1, problems // grpo.prompts_per_rollout) * grpo.updates

    def run(self, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
        grpo = override_fields(context.grpo, self.settings, name)
        context = context.with_frozen(self.freeze)
        vlm, reference = context.load_to_train(self.start, grpo.fit), None
        if grpo.needs_reference and context.adapter is None:
            reference = context.load_reference(self.start, grpo.fit)
        problems = context.source.problems(self.select, seed)
        if self.difficulty_filter is not None:
            problems = self.difficulty_filter(vlm, problems, seed)
        if self.shrink_batches:
            grpo = shrink_batches(grpo, len(problems), name)
        grpo = replace(grpo, steps=self.count_steps(grpo, len(problems)))
        place = {"folder": folder, "seed": seed, "title": name}
        train_grpo(grpo, vlm, problems, reference=reference, recorder=context.recorder, **place)
        save_model(vlm, folder)
        training = {"steps": grpo.steps, "problems": len(problems), "group_size": grpo.group_size}
        training["findings"] = _training_findings(folder)
        return {"start": self.start, "training": training, "evaluation": context.evaluate(vlm, folder)}


def _training_findings(folder: Path) -> list[str]:
    """What the metrics of all steps say, those before a restart included."""
    file = folder / "metrics.csv"
    there = distributed.is_main() and file.is_file()
    return distributed.broadcast(training_findings(read_metrics(file)) if there else [])


Stage = EvaluateBase | DistillStage | ReleasedTraces | SFTStage | GRPOStage


def run_stage(stage: Stage, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Runs a stage and returns its record: kind, start, evaluation, training, distillation and seconds."""
    started = time.perf_counter()
    record = {
        "stage": name,
        "kind": stage.kind,
        "start": None,
        "evaluation": None,
        "training": None,
        "distillation": None,
    }
    return {
        **record,
        **stage.run(context, name, folder, seed),
        "seconds": round(time.perf_counter() - started, 1),
    }

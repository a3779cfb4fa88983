"""Stages as data: each takes a checkpoint and leaves one (or traces) in its own folder. `conf/iteration/*.yaml` lists them."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from openvlt.benchmark.heldout import HeldoutEvaluation
from openvlt.config.build import build
from openvlt.config.validate import check_values
from openvlt.data.sources.base import Selection, Source
from openvlt.data.sources.schema import read_traces
from openvlt.distill.pipeline import run_distillation
from openvlt.distill.settings import Distillation
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.iteration.difficulty import DifficultyFilter
from openvlt.model.load import VLM, PretrainedModel
from openvlt.runs.directory import find_saved_model, model_of_run, save_model
from openvlt.sft.module import SFT
from openvlt.types import Trace


@dataclass(frozen=True)
class StageContext:
    """What every stage of a run is given: the built parts, the seed, and where earlier stages left their work.

    `folders` maps finished stages to their folders, those of a previous run included.
    """

    model: PretrainedModel
    source: Source
    sft: SFT
    grpo: GRPO
    evaluation: HeldoutEvaluation
    seed: int
    adapter: Any = None
    folders: Mapping[str, Path] = field(default_factory=dict)

    def folder(self, stage: str) -> Path:
        """Where a finished stage left its work. Raises UserError for a stage that isn't there."""
        if stage not in self.folders:
            raise UserError(
                f"stage {stage!r} is neither in this run before here nor in its previous run (there are: "
                f"{sorted(self.folders) or 'none'}); run its experiment first, or set iteration.previous=<run folder>"
            )
        return self.folders[stage]

    def checkpoint(self, name: str) -> str:
        """The checkpoint of `base` or of a finished stage."""
        return self.model.base_path() if name == "base" else str(find_saved_model(self.folder(name)))

    def load(self, name: str, *, adapter: bool = False) -> VLM:
        """A model to train or to sample from; `adapter` puts the configured one on top."""
        return self.model.load(
            self.checkpoint(name), adapter=copy.deepcopy(self.adapter) if adapter else None
        )

    def evaluate(self, vlm: VLM, folder: Path) -> dict[str, Any]:
        """Accuracy on the held-out problems; each answer goes to rows.jsonl. The set does not depend on the run's seed."""
        return self.evaluation.run(vlm, self.source, seed=0, rows=folder / "rows.jsonl")


def override_fields(settings: Any, changes: Mapping[str, Any], where: str) -> Any:
    """A copy of a settings object with some fields changed. Raises UserError for an unknown field, or a value that a field can't have."""
    known = {entry.name for entry in fields(settings)}
    if unknown := set(changes) - known:
        raise UserError(
            f"{where}: settings name {sorted(unknown)}; {type(settings).__name__} has {sorted(known)}"
        )
    check_values(f"iteration.stages.{where}.settings", changes, inspect.signature(type(settings)))
    for name, value in changes.items():
        if isinstance(value, Mapping) and not isinstance(getattr(settings, name), Mapping):
            raise UserError(
                f"{where}: settings name parts of {name} ({', '.join(value)}); a stage changes whole fields, with a _target_"
            )
    try:
        return replace(settings, **changes)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


@dataclass(frozen=True)
class EvaluateBase:
    """The base model's own accuracy, answering directly: the first row of the table."""

    kind: ClassVar[str] = "base"

    def run(self, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
        return {"evaluation": context.evaluate(context.load("base"), folder)}


@dataclass(frozen=True)
class DistillStage:
    """Makes SFT data: `distillation` by the model of stage `author` on the problems of `select`."""

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
            "skipped_rows": getattr(context.source, "skipped", {}),
        }


@dataclass(frozen=True)
class SFTStage:
    """Supervised fine-tuning of `start` on the traces of earlier stages; `settings` change fields of `sft` for this stage.

    `amount` caps the traces (the first ones by the seed's order), so that a control can be given exactly as many.
    """

    traces: tuple[str, ...]
    start: str = "base"
    amount: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "sft"

    def __post_init__(self) -> None:
        if self.amount is not None and self.amount < 1:
            raise UserError(
                f"amount={self.amount} keeps no traces; give a positive number, or null for all of them"
            )

    def run(self, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
        sft, vlm = override_fields(context.sft, self.settings, name), context.load(self.start, adapter=True)
        traces = self._traces(context)
        sft.train(vlm, traces, folder=folder, seed=seed, title=name)
        save_model(vlm, folder)
        training = {"steps": sft.steps(len(traces)), "traces": len(traces), "epochs": sft.epochs}
        return {"start": self.start, "training": training, "evaluation": context.evaluate(vlm, folder)}

    def _traces(self, context: StageContext) -> Sequence[Trace]:
        rows = [
            trace for stage in self.traces for trace in read_traces(context.folder(stage) / "traces.jsonl")
        ]
        return rows[: self.amount]


@dataclass(frozen=True)
class GRPOStage:
    """GRPO from `start` on the problems of `select` (on what `screen` keeps of them); `settings` change fields of `grpo` here."""

    start: str
    select: Selection
    difficulty_filter: DifficultyFilter | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "grpo"

    def run(self, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
        grpo, vlm = override_fields(context.grpo, self.settings, name), context.load(self.start, adapter=True)
        reference = context.load(self.start) if grpo.needs_reference and context.adapter is None else None
        problems = context.source.problems(self.select, seed)
        if self.difficulty_filter is not None:
            problems = self.difficulty_filter(vlm, problems, seed)
        grpo.train(vlm, problems, reference=reference, folder=folder, seed=seed, title=name)
        save_model(vlm, folder)
        training = {"steps": grpo.steps, "problems": len(problems), "group_size": grpo.group_size}
        return {"start": self.start, "training": training, "evaluation": context.evaluate(vlm, folder)}


Stage = EvaluateBase | DistillStage | SFTStage | GRPOStage


def run_timed(stage: Stage, context: StageContext, name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Runs a stage and gives its record: what it is, where it started, how long it took, what came out."""
    began = time.perf_counter()
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
        "seconds": round(time.perf_counter() - began, 1),
    }


def make_context(config: DictConfig) -> StageContext:
    """The parts that stages share, built from the config's groups."""
    source = build(config.data, "data")
    model = build(config.model, "model")
    if model.path and Path(model.path).is_dir():
        model = replace(model, path=str(model_of_run(Path(model.path))))
    sft = build(config.sft, "sft")
    sft.fit.check()
    return StageContext(
        model=model,
        source=source,
        sft=sft,
        grpo=build(config.grpo, "grpo"),
        evaluation=build(config.evaluation, "evaluation"),
        seed=config.seed,
        adapter=build(config.adapter, "adapter") or None,  # an empty group: the whole model is trained
    )

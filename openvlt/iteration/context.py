"""What the stages of a run share: parts built from the configuration, and the folders of earlier stages."""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from openvlt.benchmark.heldout import HeldoutEvaluation
from openvlt.config.build import build
from openvlt.data.fingerprint import CheckedSource, Fingerprints
from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.data.row_check import RowCheck
from openvlt.data.sources.base import Source
from openvlt.data.sources.usable import check_source
from openvlt.data.synthetic.sources import Figures
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.model.load import VLM, PretrainedModel
from openvlt.runs.directory import find_saved_model, model_of_run
from openvlt.sft.module import SFT
from openvlt.trackers.recorder import StageRecorder
from openvlt.trainer.loop import TrainingLoop


@dataclass(frozen=True)
class StageContext:
    """What every stage receives: the built parts, the seed, and the folders of finished stages.

    `decode_check` has pictures decoded before a run begins.
    `folders` maps the names of finished stages, those of a previous run included, to their folders.
    `recorder` is the present stage's.
    """

    model: PretrainedModel
    source: Source
    sft: SFT
    grpo: GRPO
    evaluation: HeldoutEvaluation
    seed: int
    adapter: Any = None
    decode_check: bool = True
    folders: Mapping[str, Path] = field(default_factory=dict)
    recorder: StageRecorder = field(default_factory=StageRecorder)

    def folder(self, stage: str) -> Path:
        """The folder of a finished stage. Raises UserError for a stage that isn't there."""
        if stage not in self.folders:
            there = sorted(self.folders) or "none"
            raise UserError(
                f"stage {stage!r} is neither in this run before here nor in its previous run (there are: "
                f"{there}); run its experiment first, or set iteration.previous=<run folder>"
            )
        return self.folders[stage]

    def checkpoint(self, name: str) -> str:
        """The checkpoint of `base` or of a finished stage."""
        return self.model.base_path() if name == "base" else str(find_saved_model(self.folder(name)))

    def with_frozen(self, parts: Sequence[str] | None) -> StageContext:
        """The same, with a model of which these parts stay fixed; None leaves `model.freeze` as it is."""
        return self if parts is None else replace(self, model=replace(self.model, freeze=tuple(parts)))

    def check_model(self) -> None:
        """Raises UserError for an adapter or frozen parts that the model can't have; no weight is read."""
        if self.adapter is not None or self.model.freeze:
            self.model.prepare(self.model.build_on_meta(), copy.deepcopy(self.adapter))

    def load(self, name: str) -> VLM:
        """A model to sample from."""
        return self.model.load(self.checkpoint(name))

    def load_to_train(self, name: str, loop: TrainingLoop) -> VLM:
        """A model that `loop` will train, with the configured adapter on top."""
        return loop.load(self.model, self.checkpoint(name), adapter=copy.deepcopy(self.adapter))

    def load_reference(self, name: str, loop: TrainingLoop) -> VLM:
        """A model that stays as it is beside one that `loop` trains."""
        return loop.load(self.model, self.checkpoint(name))

    def check_rows(
        self, folder: Path, title: str, styles: Sequence[PromptStyle] = (), *, read_only: bool = False
    ) -> StageContext:
        """The same, with rows that are checked, and compared with those that the run in `folder` began with.

        A row must have pictures that can be read, and fit a prompt in each of the `styles`. Generated rows
        follow from the settings, and are left alone.
        """
        if isinstance(self.source, Figures):
            return self
        source = check_source(self.source, functools.cache(lambda: self._row_check(styles)))
        return replace(self, source=CheckedSource(source, Fingerprints(folder, title, read_only)))

    def _row_check(self, styles: Sequence[PromptStyle]) -> RowCheck:
        if not styles:
            return RowCheck((), self.decode_check)
        processor = self.model.load_processor()
        different = [style for number, style in enumerate(styles) if style not in styles[:number]]
        return RowCheck([Renderer(processor, style) for style in different], self.decode_check)

    def evaluate(self, vlm: VLM, folder: Path) -> dict[str, Any]:
        """The accuracy on the held-out problems, the same for every seed. Writes answers to rows.jsonl."""
        return self.evaluation.run(vlm, self.source, seed=0, rows=folder / "rows.jsonl")


def make_context(config: DictConfig) -> StageContext:
    """Builds the parts that stages share from the groups of the configuration."""
    source = build(config.data, "data")
    model = build(config.model, "model")
    if model.path:
        _check_run_folder(Path(model.path), Path(config.paths.runs))
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
        decode_check=config.decode_check,
        adapter=build(config.adapter, "adapter") or None,  # an empty group: the whole model is trained
    )


def _check_run_folder(path: Path, runs: Path) -> None:
    """Raises UserError for a folder below that of all runs that isn't there: `runs/nope` is no hub id."""
    if path.exists() or not (path.is_relative_to(runs) or path.parts[:1] == ("runs",)):
        return
    place = next(folder for folder in path.parents if folder.is_dir())
    there = sorted(folder.name for folder in place.iterdir() if folder.is_dir())
    close = difflib.get_close_matches(path.parts[len(place.parts)], there, 3) or there[-3:]
    raise UserError(
        f"model={path}: there is no such run folder; in {place} there are {', '.join(close) or 'none'}; "
        "give a run folder, a Hugging Face folder or a hub id"
    )

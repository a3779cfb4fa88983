"""Runs the stages of a study in order, and skips those that are finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning

from openvlt import distributed
from openvlt.data.synthetic.sources import Figures
from openvlt.errors import UserError
from openvlt.iteration.context import StageContext
from openvlt.iteration.stages import (
    DistillStage,
    GRPOStage,
    SFTStage,
    Stage,
    override_fields,
    run_stage,
)
from openvlt.runs.directory import PREVIOUS, find_saved_model, finished_stages, previous_run
from openvlt.runs.model_card import write_model_card
from openvlt.storage.atomic import read_json_file, write_json
from openvlt.trackers.recorder import Recorder
from openvlt.trainer.checkpoint import remove_checkpoint
from openvlt.trainer.metrics import read_metrics


@dataclass(frozen=True)
class Study:
    """`conf/iteration/*.yaml`: named stages in their order.

    `previous` is a run, by its folder or its name, whose stages this one continues.
    """

    stages: Mapping[str, Stage]
    previous: str | None = None

    def is_finished(self, folder: Path) -> bool:
        """Whether every stage has its results in the run folder."""
        return all((home / "results.json").is_file() for home in self._homes(folder).values())

    def _homes(self, folder: Path) -> dict[str, Path]:
        """The stages' folders, by name."""
        return {stage: folder / f"{number:02d}-{stage}" for number, stage in enumerate(self.stages)}

    def run(
        self,
        context: StageContext,
        folder: Path,
        *,
        runs: Path,
        name: str,
        scale: str,
        recorder: Recorder | None = None,
    ) -> dict[str, Any]:
        """Runs the stages that `folder` has no results of, and returns the run's results.

        A finished run does nothing. Raises UserError, before the first stage, for what a later one lacks.
        """
        # one rank looks for all: a run may end in between
        found = self._find_previous(folder, runs, context.seed) if distributed.is_main() else None
        previous = distributed.broadcast(found)
        folders = {} if previous is None else dict(finished_stages(Path(previous)))
        own = self._homes(folder)
        self._check_inputs(replace(context, folders=folders), own)
        if previous is not None and not (folder / PREVIOUS).is_file():
            write_json(folder / PREVIOUS, previous)
        results, changed, recorder = [], False, recorder or Recorder()
        for number, (stage_name, stage) in enumerate(self.stages.items()):
            changed = changed or not (own[stage_name] / "results.json").is_file()
            part = recorder.begin_stage(stage_name)
            stage_context = replace(context, folders=dict(folders), recorder=part)
            seed = stage_seed(context.seed, number)
            results.append(_load_or_run(stage, stage_context, stage_name, own[stage_name], seed))
            if distributed.is_main():
                write_model_card(own[stage_name], dict(zip(self.stages, results, strict=False)))
            folders[stage_name] = own[stage_name]
        final = {
            "name": name,
            "scale": scale,
            "seed": context.seed,
            "previous": previous,
            "stages": results,
            "skipped_rows": getattr(context.source, "skipped", {}),
        }
        if changed or not (folder / "results.json").is_file():
            write_json(folder / "results.json", final)
        return final

    def _check_inputs(self, context: StageContext, own: Mapping[str, Path]) -> None:
        """Raises UserError where an unfinished stage lacks an earlier one, or its server.

        `own` maps this run's stages to their folders.
        """
        for place, (name, stage) in enumerate(self.stages.items()):
            if (own[name] / "results.json").is_file():
                continue
            for required in _required_stages(stage):
                if required not in ("base", *list(self.stages)[:place]):
                    context.folder(required)
            _check_outputs(stage, {**context.folders, **own})
            if isinstance(stage, DistillStage):
                stage.distillation.check_servers()

    def _find_previous(self, folder: Path, runs: Path, seed: int) -> str | None:
        """The folder of the run that this one continues; a resumed run keeps the one it started with."""
        note = folder / PREVIOUS
        if not note.is_file():
            found = previous_run(self.previous, runs, seed)
            return None if found is None else str(found)
        previous = read_json_file(note)
        if not Path(previous).is_dir() and not (folder / "results.json").is_file():
            raise UserError(
                f"{folder} continues {previous}, which isn't there any more; put it back, or start a new run"
            )
        return previous


def _check_outputs(stage: Stage, folders: Mapping[str, Path]) -> None:
    """Raises UserError where a finished stage has lost the model or the traces that this one takes."""
    for name in _required_stages(stage):
        if name == "base" or not (folders[name] / "results.json").is_file():
            continue
        if name not in getattr(stage, "traces", ()):
            find_saved_model(folders[name])
        elif not (folders[name] / "traces.jsonl").is_file():
            raise UserError(
                f"{folders[name] / 'traces.jsonl'} is missing, though {name} is finished; "
                "put it back, or start a new run"
            )


def _load_or_run(stage: Stage, context: StageContext, name: str, home: Path, seed: int) -> dict[str, Any]:
    """The record of a stage: read where it is finished, else made by running it.

    Everything random in the stage follows from `seed`.
    """
    file = home / "results.json"
    if distributed.broadcast(file.is_file()):
        print(f"{name:<14} finished before: skipped", flush=True)
        result = read_json_file(file)
        if (metrics := home / "metrics.csv").is_file():
            context.recorder.replay(read_metrics(metrics))
        context.recorder.end(result, only_behind=True)
        return result
    if distributed.is_main():
        home.mkdir(parents=True, exist_ok=True)
    distributed.barrier()
    lightning.seed_everything(seed, verbose=False)
    result = run_stage(stage, context, name, home, seed)
    write_json(file, result)
    context.recorder.end(result)
    remove_checkpoint(home)
    distributed.barrier()  # the other ranks read what the main one has written
    print(f"{name:<14} {_summarise(result)}", flush=True)
    for sentence in _list_findings(result):
        print(f"warning: {name}: {sentence}", flush=True)
    return result


def _list_findings(result: Mapping[str, Any]) -> list[str]:
    """What a stage's numbers say is wrong, of its traces, its training and its evaluation."""
    parts = (result, result["training"] or {}, result["evaluation"] or {})
    return [sentence for part in parts for sentence in part.get("findings", ())]


def _summarise(result: Mapping[str, Any]) -> str:
    """One line on what a stage achieved."""
    seconds = f"{result['seconds']:.0f} s"
    if (evaluation := result["evaluation"]) is not None:
        low, high = (100 * bound for bound in evaluation["interval"])
        accuracy = f"{100 * evaluation['accuracy']:.1f} % ({low:.1f} to {high:.1f}, n {evaluation['n']})"
        return f"{accuracy}, {seconds}"
    counts = result["distillation"]
    return f"{counts['traces']} traces from {counts['problems']} problems, {seconds}"


def stage_seed(seed: int, number: int) -> int:
    """The seed of the stage with this place in the study."""
    return seed + 1000 * number


def check_stages(stages: Mapping[str, Stage], context: StageContext) -> None:
    """Checks what would otherwise fail hours later. Raises UserError.

    It looks at the order of the stages, their settings, and whether the problems they select exist.
    """
    names = list(stages)
    for place, (name, stage) in enumerate(stages.items()):
        for required in _required_stages(stage):
            if required in names[place:]:
                raise UserError(
                    f"iteration.stages: {name} needs {required}, which comes after it; reorder the stages"
                )
        if isinstance(stage, SFTStage):
            override_fields(context.sft, stage.settings, name)
        elif isinstance(stage, GRPOStage):
            override_fields(context.grpo, stage.settings, name)
    named = [parts for stage in stages.values() if (parts := getattr(stage, "freeze", None)) is not None]
    for parts in (None, *named):
        context.with_frozen(parts).check_model()
    selections = [
        (select, stage_seed(context.seed, number))
        for number, stage in enumerate(stages.values())
        if (select := getattr(stage, "select", None))
    ]
    # of generated problems there are always enough: one shows whether its level and split exist
    generated = isinstance(context.source, Figures)
    for selection, seed in (*selections, (context.evaluation.selection, 0)):
        context.source.problems(replace(selection, amount=1) if generated else selection, seed)


def _required_stages(stage: Stage) -> list[str]:
    """The stages whose checkpoint or traces a stage takes."""
    single = (getattr(stage, "start", None), getattr(stage, "teacher", None))
    return [name for name in (*single, *getattr(stage, "traces", ())) if name]

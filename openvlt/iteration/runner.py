"""The runner: stages in order, finished ones skipped, the table and the figures at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning

from openvlt import distributed
from openvlt.data.synthetic.sources import Figures
from openvlt.errors import UserError
from openvlt.iteration.stages import (
    DistillStage,
    GRPOStage,
    SFTStage,
    Stage,
    StageContext,
    override_fields,
    run_timed,
)
from openvlt.runs.directory import PREVIOUS, finished_stages, previous_run
from openvlt.storage.atomic import write_json


@dataclass(frozen=True)
class Study:
    """`conf/iteration/*.yaml`: `stages` by name, in order. `previous` names the run (or its folder) whose stages this one continues."""

    stages: Mapping[str, Stage]
    previous: str | None = None

    def run(
        self, context: StageContext, folder: Path, *, runs: Path, name: str, scale: str
    ) -> dict[str, Any]:
        """Runs what isn't finished in `folder` and gives the run's results; a finished run does nothing."""
        earlier = self._earlier(folder, runs, context.seed)
        folders = {} if earlier is None else dict(finished_stages(Path(earlier)))
        homes = {
            stage_name: folder / f"{number:02d}-{stage_name}" for number, stage_name in enumerate(self.stages)
        }
        for place, (stage_name, stage) in enumerate(self.stages.items()):  # now, not hours later
            if (homes[stage_name] / "results.json").is_file():
                continue
            for needed in {*_needs(stage)} - {"base", *list(self.stages)[:place]}:
                replace(context, folders=folders).folder(needed)
            if isinstance(stage, DistillStage):
                stage.distillation.check_servers()
        if earlier is not None and not (folder / PREVIOUS).is_file():
            write_json(folder / PREVIOUS, earlier)
        results, fresh = [], False
        for number, (stage_name, stage) in enumerate(self.stages.items()):
            home = homes[stage_name]
            fresh = fresh or not (home / "results.json").is_file()
            results.append(
                _finish(
                    stage,
                    replace(context, folders=dict(folders)),
                    stage_name,
                    home,
                    context.seed + 1000 * number,
                )
            )
            folders[stage_name] = home
        final = {"name": name, "scale": scale, "seed": context.seed, "previous": earlier, "stages": results}
        if fresh or not (folder / "results.json").is_file():
            write_json(folder / "results.json", final)
        return final

    def _earlier(self, folder: Path, runs: Path, seed: int) -> str | None:
        """The folder of the run that this one continues: noted when it starts, and kept to when it is resumed."""
        note = folder / PREVIOUS
        if not note.is_file():  # one rank looks for all: a run may end in between
            found = previous_run(self.previous, runs, seed) if distributed.is_main() else None
            return distributed.broadcast(None if found is None else str(found))
        earlier = json.loads(note.read_text())
        if not Path(earlier).is_dir() and not (folder / "results.json").is_file():
            raise UserError(
                f"{folder} continues {earlier}, which isn't there any more; put it back, or start a new run"
            )
        return earlier


def _finish(stage: Stage, context: StageContext, name: str, home: Path, seed: int) -> dict[str, Any]:
    """The record of a stage: read where it is complete, made where it is not. Everything random in it follows from `seed`."""
    record = home / "results.json"
    if record.is_file():
        print(f"{name:<14} finished before: skipped", flush=True)
        return json.loads(record.read_text())
    home.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(seed, verbose=False)
    result = run_timed(stage, context, name, home, seed)
    write_json(record, result)
    (home / "last.ckpt").unlink(missing_ok=True)
    print(f"{name:<14} {_line(result)}", flush=True)
    return result


def _line(result: Mapping[str, Any]) -> str:
    """One line on what a stage achieved."""
    if (evaluation := result["evaluation"]) is not None:
        low, high = (100 * bound for bound in evaluation["interval"])
        return f"{100 * evaluation['accuracy']:.1f} % ({low:.1f} to {high:.1f}, n {evaluation['n']}), {result['seconds']:.0f} s"
    counts = result["distillation"]
    return f"{counts['traces']} traces from {counts['problems']} problems, {result['seconds']:.0f} s"


def check_stages(stages: Mapping[str, Stage], context: StageContext) -> None:
    """What can go wrong hours later is looked at now: the order of the stages, and the rows they ask of files."""
    names = list(stages)
    for place, (name, stage) in enumerate(stages.items()):
        for needed in _needs(stage):
            if needed in names[place:]:
                raise UserError(
                    f"iteration.stages: {name} needs {needed}, which comes after it; reorder the stages"
                )
        if isinstance(stage, (SFTStage, GRPOStage)):
            override_fields(
                context.sft if isinstance(stage, SFTStage) else context.grpo, stage.settings, name
            )
    # generated problems can't be missing: one shows whether its level and split are there
    generated = isinstance(context.source, Figures)
    for selection in (
        *(stage.select for stage in stages.values() if hasattr(stage, "select")),
        context.evaluation.selection,
    ):
        context.source.problems(replace(selection, amount=1) if generated else selection, context.seed)


def _needs(stage: Stage) -> list[str]:
    """The stages whose work this one takes."""
    return [
        name
        for name in (
            getattr(stage, "start", None),
            getattr(stage, "teacher", None),
            *getattr(stage, "traces", ()),
        )
        if name
    ]

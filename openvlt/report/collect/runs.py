"""Run folders of every kind as records: of train.py, evaluate.py and distill.py, finished or not."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from openvlt.config.leaves import setting_leaves
from openvlt.errors import UserError
from openvlt.report.records import RunRecord, StageRecord, read_json, stages_of
from openvlt.runs.state import RUN_STATE
from openvlt.trainer.progress import PROGRESS

SCRIPTS = {"train.py": "train", "evaluate.py": "evaluate", "distill.py": "distill"}
OWN_FILES = ("report.html", "iterations.png", "trackers.json")  # written beside the run's own files
_MARKS = ("config.yaml", "manifest.json", "results.json", RUN_STATE)


@dataclass(frozen=True)
class RunFolder:
    """A run folder: its kind (train, evaluate, distill), its stages, and what else stands in it.

    `state` is that of `state.json`; a run whose process ended without a word counts as stopped.
    """

    record: RunRecord
    kind: str
    state: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self.record.folder

    @property
    def name(self) -> str:
        """The run's name, from its results, manifest or configuration; else the last parts of its path."""
        given = self.record.results.get("name") or self.record.manifest.get("name") or self.config.get("name")
        return str(given or self.record.name)

    @property
    def stages(self) -> tuple[StageRecord, ...]:
        """The stages; an evaluation has one for each benchmark, a distillation one."""
        return self.record.stages

    def label_of(self, stage: StageRecord) -> str:
        """A stage's name for people; an evaluation's and a distillation's is its own."""
        return stage.label if self.kind == "train" else stage.name

    @property
    def current(self) -> StageRecord | None:
        """The stage that a running, stopped or failed run is at."""
        unfinished = [stage for stage in self.stages if stage.folder and not stage.done]
        return unfinished[-1] if unfinished and self.state["state"] != "finished" else None


def read_run(folder: str | Path) -> RunFolder:
    """Reads a run folder. Raises UserError for a folder that holds no run."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a run folder, runs/NAME/TIME-ID")
    results, manifest = read_json(folder / "results.json"), read_json(folder / "manifest.json")
    kind = _kind_of(manifest, results)
    stages = stages_of(results, folder) if kind == "train" else tuple(_other_stages(folder, kind, results))
    if not stages and not any((folder / name).is_file() for name in _MARKS):
        raise UserError(
            f"{folder} holds no run: no config.yaml, no stages (00-base, ...) and no results; "
            "give a run folder, runs/NAME/TIME-ID"
        )
    record = RunRecord(folder, stages, results, manifest)
    return RunFolder(record, kind, _read_state(folder, results), read_config(folder))


def find_runs(runs: Path) -> Iterator[Path]:
    """The run folders below the folder of all runs, `NAME/TIME-ID`, in order; none behind a link."""
    root = runs.resolve()
    for folder in sorted(path for path in runs.glob("*/*") if path.is_dir()):
        if folder.resolve() != root / folder.relative_to(runs):
            continue
        if (folder / "config.yaml").is_file() or (folder / "results.json").is_file():
            yield folder


def _kind_of(manifest: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    command = manifest.get("command") or [""]
    if (kind := SCRIPTS.get(str(command[0]))) is not None:
        return kind
    if "benchmark" in results or "benchmarks" in results or "accuracy" in results:
        return "evaluate"
    return "distill" if "traces" in results else "train"


def _other_stages(folder: Path, kind: str, results: Mapping[str, Any]) -> Iterator[StageRecord]:
    if kind == "distill":
        block = {"kind": "distill", "distillation": results} if results else {}
        yield StageRecord("traces", folder, block)
        return
    several = [path.parent for path in sorted(folder.glob("*/rows.parquet"))]
    for place in several or [folder]:
        block = (results.get("benchmarks") or {}).get(place.name, {}) if several else results
        block = block or read_json(place / "results.json")
        name = str(block.get("benchmark") or (place.name if several else "evaluation"))
        yield StageRecord(
            name, place, {"kind": "evaluate", "evaluation": _as_heldout(block)} if block else {}
        )


def _as_heldout(block: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's result under the names of a held-out evaluation."""
    cut = block.get("truncated")
    finished = block.get("finished", None if cut is None else 1 - cut)
    return {"length": None, **block, "n": block.get("n", block.get("total", 0)), "finished": finished}


def _read_state(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """The run's state. A running one on this machine whose process is gone has stopped."""
    state = read_json(folder / RUN_STATE)
    if not state:
        return {"state": "finished" if results else "stopped", "since": last_write(folder)}
    here = state.get("host") == platform.node() and isinstance(state.get("pid"), int)
    if state["state"] == "running" and here and not _is_alive(state["pid"]):
        return {"state": "stopped", "since": last_write(folder), "silent": True}
    return state


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def last_write(folder: Path) -> float:
    """When a file of the run was written last, the page's own files left out."""
    files = [path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_file()]
    times = [
        path.stat().st_mtime for path in files if path.name not in OWN_FILES and not path.name.startswith(".")
    ]
    return max(times, default=0.0)


def read_config(folder: Path) -> dict[str, Any]:
    """The run's config.yaml; {} without one. Raises UserError when it is no YAML."""
    file = folder / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML ({error}); restore the file") from error
    return config if isinstance(config, dict) else {}


def flatten_config(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The leaves of a nested mapping as (`dotted.name`, text)."""
    return [(name, format_value(value)) for name, value in setting_leaves(tree)]


def format_value(value: Any) -> str:
    """A setting or a count as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(format_value, value)) or "none"
    return str(value)


def config_value(config: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of the configuration; None where there is none."""
    branch: Any = config
    for key in path:
        branch = branch.get(key) if isinstance(branch, Mapping) else None
    return branch


def stage_progress(stage: StageRecord) -> Mapping[str, Any]:
    """What `progress.json` of a stage that trains says; {} otherwise."""
    return read_json(stage.folder / PROGRESS) if stage.folder else {}

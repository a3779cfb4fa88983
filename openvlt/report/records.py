"""Reading a run folder: what lies there, finished or not. Nothing in this room computes what a run didn't write.

A run folder holds `config.yaml`, `manifest.json`, `results.json` and one folder per stage, `00-base`, `01-traces1`,
...; any of them may still be missing.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from openvlt.errors import UserError
from openvlt.storage.jsonl import whole_lines

CONTROL = "control"
_STAGE_FOLDER = re.compile(r"(\d+)-(.+)")
_KINDS = {"base": "base", "traces": "distill", "distill": "distill", "sft": "sft", "grpo": "grpo"}


@dataclass(frozen=True)
class StageRecord:
    """One stage: its folder (None: only known from results.json) and its result (empty: not finished)."""

    name: str
    folder: Path | None = None
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the stage has written its result."""
        return bool(self.result)

    @property
    def control(self) -> bool:
        """Whether it belongs to the branch without RL."""
        return self.name.startswith(CONTROL)

    @property
    def short(self) -> str:
        """The name without the branch: `sft2` for `control-sft2`."""
        return self.name.removeprefix(CONTROL).strip("-_ ") or self.name

    @property
    def kind(self) -> str:
        """`base`, `distill`, `sft` or `grpo`; of an unfinished stage, what its name says."""
        return self.result.get("kind") or _KINDS.get(self.short.rstrip("0123456789-_ "), "")

    @property
    def number(self) -> int | None:
        """The iteration a name ends in: 2 for `grpo2`."""
        found = re.search(r"\d+$", self.name)
        return int(found.group()) if found else None

    @property
    def short_label(self) -> str:
        """The name as people write it, without the branch: `SFT 1`, `GRPO 2`."""
        found = re.fullmatch(r"([a-zA-Z]+)[-_]?(\d*)", self.short)
        if not found:
            return self.short
        word = found[1].upper() if found[1] in ("sft", "grpo") else found[1].capitalize()
        return f"{word} {found[2]}".strip()

    @property
    def label(self) -> str:
        """With the branch: `SFT 1`, `Control SFT 2`."""
        return self.short_label if self.short == self.name else f"Control {self.short_label}"

    @property
    def evaluation(self) -> Mapping[str, Any] | None:
        """The evaluation block (`openvlt.benchmark.heldout.summarise_heldout`), if there is one."""
        return self.result.get("evaluation")

    @cached_property
    def metrics(self) -> dict[str, list[float]]:
        """Columns of metrics.csv; empty when there are none."""
        file = self.folder / "metrics.csv" if self.folder else None
        return read_columns(file) if file and file.is_file() else {}


@dataclass(frozen=True)
class RunRecord:
    """A run folder as read: its stages in order, and whatever else it has written so far."""

    folder: Path
    stages: tuple[StageRecord, ...]
    results: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run's own name; while it has not written one, its folders'."""
        written = self.results.get("name") or self.manifest.get("name")
        return str(written or "/".join(self.folder.resolve().parts[-2:]))

    @property
    def seed(self) -> Any:
        """The run's seed, None when it has not written one."""
        return self.results.get("seed", self.manifest.get("seed"))

    @property
    def finished(self) -> bool:
        """All is there: the run's results, and every stage's."""
        return bool(self.results) and all(stage.done for stage in self.stages)


def load_run(folder: str | Path) -> RunRecord:
    """Reads a run folder. Raises UserError when there is none, or when it holds no stage."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a run folder, runs/NAME/TIME-ID")
    results = read_json(folder / "results.json")
    stages = stages_of(results, folder)
    if not stages:
        raise UserError(
            f"{folder} holds no stages (00-base, ...) and no results; give a run folder, runs/NAME/TIME-ID"
        )
    return RunRecord(folder, stages, results, read_json(folder / "manifest.json"))


def stages_of(results: Mapping[str, Any], folder: Path | None = None) -> tuple[StageRecord, ...]:
    """The stages of a run's results, and with `folder` also those that have only begun; in the folders' order."""
    known = {result["stage"]: result for result in results.get("stages", ())}
    found = _stage_folders(folder) if folder else {}
    begun = [
        StageRecord(name, path, read_json(path / "results.json") or known.get(name, {}))
        for name, path in found.items()
    ]
    moved = [StageRecord(name, None, result) for name, result in known.items() if name not in found]
    return (*begun, *moved)


def read_stage(folder: str | Path) -> StageRecord:
    """One stage's folder. Raises UserError when it isn't there."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a stage's folder, such as RUN/03-grpo1")
    found = _STAGE_FOLDER.fullmatch(folder.resolve().name)
    return StageRecord(
        found[2] if found else folder.resolve().name, folder, read_json(folder / "results.json")
    )


def _stage_folders(folder: Path) -> dict[str, Path]:
    matches = [(_STAGE_FOLDER.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    ordered = sorted((int(match[1]), match[2], path) for match, path in matches if match)
    return {name: path for _, name, path in ordered}


# --- files ------------------------------------------------------------------------------------------------------------


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; {} when the file isn't there. Raises UserError when it can't be read."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{file} is not valid JSON ({error}); restore the file or run the stage again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{file} holds a {type(value).__name__}, an object is expected; run the stage again")
    return value


def read_columns(file: Path) -> dict[str, list[float]]:
    """metrics.csv as columns, an empty cell as NaN; a half-written last line is left out."""
    reader = csv.DictReader(io.StringIO("\n".join(whole_lines(file))))
    columns: dict[str, list[float]] = {name: [] for name in reader.fieldnames or ()}
    for number, row in enumerate(reader, start=2):
        for name, values in columns.items():
            try:
                values.append(float(row[name]) if row[name] else math.nan)
            except ValueError as error:
                fault = f"{file}, line {number}: {name} is {row[name]!r}, a number is expected"
                raise UserError(f"{fault}; restore the file") from error
    return columns


def write_bytes_atomically(file: Path, content: bytes) -> Path:
    """Writes beside the file, then renames: a reader sees old content or new. Raises UserError when it can't."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        os.replace(aside, file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {file} ({error.strerror}); give a folder that can be written"
        ) from error
    return file


# --- arithmetic -------------------------------------------------------------------------------------------------------


def finite(values: Iterable[float]) -> list[float]:
    """Without NaN and infinities."""
    return [value for value in values if math.isfinite(value)]


def mean(values: Iterable[float]) -> float:
    """The mean of the finite values; NaN of none."""
    kept = finite(values)
    return math.fsum(kept) / len(kept) if kept else math.nan


def ends(values: Sequence[float]) -> tuple[float, float] | None:
    """The means of the first and of the last third of the values (one value at least); None of no values."""
    kept = finite(values)
    third = max(1, len(kept) // 3)
    return (mean(kept[:third]), mean(kept[-third:])) if kept else None


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """At each place the mean of the last `window` values up to it (fewer at the start); NaN counts as absent."""
    if window < 1:
        raise ValueError(f"running_mean: window is {window}, at least 1 is needed")
    return [mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]

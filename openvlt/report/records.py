"""Run folders as records, finished or not.

A run folder holds `config.yaml`, `manifest.json`, `results.json` and one folder per stage: `00-base`,
`01-traces1`, and so on. Any of them may still be missing. The report computes no number that a run
should have written.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from openvlt.errors import UserError
from openvlt.storage.atomic import atomic_write
from openvlt.storage.jsonl import read_lines, whole_lines

CONTROL = "control"
_STAGE_FOLDER = re.compile(r"(\d+)-(.+)")
_KINDS = {"base": "base", "traces": "distill", "distill": "distill", "sft": "sft", "grpo": "grpo"}


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run.

    `folder` is None for a stage that is only known from the run's results.json. `result` is empty while the
    stage has not finished.
    """

    name: str
    folder: Path | None = None
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the stage has finished."""
        return bool(self.result)

    @property
    def control(self) -> bool:
        """Whether it belongs to the control branch, which has no RL."""
        return self.name.startswith(CONTROL)

    @property
    def short(self) -> str:
        """The name without the branch: `sft2` for `control-sft2`."""
        return self.name.removeprefix(CONTROL).strip("-_ ") or self.name

    @property
    def kind(self) -> str:
        """`base`, `distill`, `sft` or `grpo`; read off the name while the stage has not finished."""
        return self.result.get("kind") or _KINDS.get(self.short.rstrip("0123456789-_ "), "")

    @property
    def number(self) -> int | None:
        """The cycle's number, at the end of the name: 2 for `grpo2`."""
        found = re.search(r"\d+$", self.name)
        return int(found.group()) if found else None

    @property
    def short_label(self) -> str:
        """The name for people, without the branch: `SFT 1`, `GRPO 2`."""
        found = re.fullmatch(r"([a-zA-Z]+)[-_]?(\d*)", self.short)
        if not found:
            return self.short
        word = found[1].upper() if found[1] in ("sft", "grpo") else found[1].capitalize()
        return f"{word} {found[2]}".strip()

    @property
    def label(self) -> str:
        """The name for people, with the branch: `SFT 1`, `Control SFT 2`."""
        return self.short_label if self.short == self.name else f"Control {self.short_label}"

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The block that `openvlt.benchmark.heldout.summarise_heldout` made; empty without an evaluation."""
        return self.result.get("evaluation") or {}

    @cached_property
    def metrics(self) -> dict[str, list[float]]:
        """The columns of metrics.csv; empty when there are none."""
        file = self.folder / "metrics.csv" if self.folder else None
        return read_columns(file) if file and file.is_file() else {}

    def read_jsonl(self, name: str) -> list[dict[str, Any]]:
        """The objects of a JSON Lines file in the stage's folder; [] when it isn't there."""
        return read_lines(self.folder / name) if self.folder else []

    def read_parquet(self, name: str) -> list[dict[str, Any]]:
        """The rows of a Parquet file in the stage's folder; [] when it isn't there. Raises UserError."""
        file = self.folder / name if self.folder else None
        if file is None or not file.is_file():
            return []
        from pyarrow import ArrowException, parquet

        try:
            return parquet.read_table(file).to_pylist()
        except ArrowException as error:
            raise UserError(f"{file} can't be read ({error}); restore or remove it") from error


@dataclass(frozen=True)
class RunRecord:
    """A run: its stages in order, and the other files that it has written so far."""

    folder: Path
    stages: tuple[StageRecord, ...]
    results: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run's name, or the last parts of its path while it has written none."""
        written = self.results.get("name") or self.manifest.get("name")
        return str(written or "/".join(self.folder.resolve().parts[-2:]))

    @property
    def seed(self) -> Any:
        """The run's seed; None while it has written none."""
        return self.results.get("seed", self.manifest.get("seed"))

    @property
    def finished(self) -> bool:
        """Whether the run's results are there, and every stage's."""
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
    """The stages of a run's results.

    With `folder` in the order of the stages' folders, and with the stages that have not finished.
    """
    known = {result["stage"]: result for result in results.get("stages", ())}
    folders = _stage_folders(folder) if folder else {}
    there = [
        StageRecord(name, path, read_json(path / "results.json") or known.get(name, {}))
        for name, path in folders.items()
    ]
    absent = [StageRecord(name, None, result) for name, result in known.items() if name not in folders]
    return (*there, *absent)


def read_stage(folder: str | Path) -> StageRecord:
    """Reads one stage's folder. Raises UserError when it isn't there."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a stage's folder, such as RUN/03-grpo1")
    name = folder.resolve().name
    found = _STAGE_FOLDER.fullmatch(name)
    return StageRecord(found[2] if found else name, folder, read_json(folder / "results.json"))


def _stage_folders(folder: Path) -> dict[str, Path]:
    matches = [(_STAGE_FOLDER.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    ordered = sorted((int(match[1]), match[2], path) for match, path in matches if match)
    return {name: path for _, name, path in ordered}


# --- files --------------------------------------------------------------------------------------------------


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
    """A CSV file of numbers as columns; an empty cell is NaN, a half-written last line is left out."""
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


def write_report_file(file: Path, content: bytes) -> Path:
    """Writes a whole file or nothing; several processes may. Raises UserError when it can't be written."""
    try:
        with atomic_write(file, shared=True) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"cannot write {file} ({error.strerror}); give a folder that can be written"
        ) from error
    return file


# --- arithmetic ---------------------------------------------------------------------------------------------


def finite_values(values: Iterable[float]) -> list[float]:
    """The values without NaN and infinities."""
    return [value for value in values if math.isfinite(value)]


def mean(values: Iterable[float]) -> float:
    """The mean of the finite values; NaN of none."""
    kept = finite_values(values)
    return math.fsum(kept) / len(kept) if kept else math.nan


def mean_ends(values: Sequence[float]) -> tuple[float, float] | None:
    """The means of the first and of the last third of the values, one value at least; None of no values."""
    kept = finite_values(values)
    third = max(1, len(kept) // 3)
    return (mean(kept[:third]), mean(kept[-third:])) if kept else None


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """At each place the mean of the last `window` values up to it, fewer at the start; NaN is left out."""
    if window < 1:
        raise ValueError(f"running_mean: window is {window}, at least 1 is needed")
    return [mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]

"""A benchmark's rows as they lie in a folder or on the hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.benchmark.rows.subsets import Subset
from openvlt.data.errors import UnavailableDataSet, UnknownSplit
from openvlt.data.sources.files import read_rows
from openvlt.data.sources.hub import is_saved, load_saved, load_split, stored_rows
from openvlt.data.sources.schema import Columns, to_problem
from openvlt.errors import UserError
from openvlt.types import Problem

SUFFIXES = (
    ".parquet",
    ".jsonl",
    ".json",
)  # of a split that lies there in two forms the first is read: Parquet holds its images


BenchmarkRow = dict[str, Any]


@dataclass(frozen=True)
class SubsetRows:
    """Rows of one part with where they came from; `root` is the folder that image paths are relative to, None without files."""

    part: Subset
    rows: Sequence[BenchmarkRow]
    where: str
    root: Path | None


def cell_text(row: BenchmarkRow, column: str) -> str:
    """A cell as text, with its spaces. Raises UserError for an empty or missing one."""
    value = row.get(column)
    if value is None or isinstance(value, (list, dict)) or not str(value).strip():
        raise UserError(f"column {column!r} holds {value!r:.60}; expected text")
    return str(value)


def load_table(part: Subset, data_dir: str | None) -> SubsetRows:
    """The rows of one part. Raises UserError when there are none to be had."""
    if data_dir is None:
        return SubsetRows(part, load_subset(None, part), f"{part.path}[{part.label}]", Path("."))
    folder = check_folder(data_dir)
    if place := saved_place(folder, part):
        return SubsetRows(part, load_subset(place[0], part), str(folder), folder)
    files = subset_files(folder, part) or only_file(folder)
    if not files:
        raise UserError(
            f"data_dir={data_dir}: no rows of {part.label!r} there; expected {part.split}.jsonl, .json or .parquet, or "
            f"data/{part.split}-*.parquet"
        )
    return SubsetRows(
        part,
        [row for file in files for _, row in read_rows(file)],
        ", ".join(map(str, files)),
        files[0].parent,
    )


def check_folder(data_dir: str) -> Path:
    """The folder of rows. Raises UserError when there is none."""
    if not Path(data_dir).is_dir():
        raise UserError(
            f"data_dir={data_dir}: there is no such folder; give one with the benchmark's rows, or none to use the hub"
        )
    return Path(data_dir)


def subset_files(folder: Path, part: Subset) -> list[Path]:
    """The files of a folder that hold a part, by their names; [] when no name says so."""
    below = [folder / part.name, folder] if part.name else [folder]
    for place in (place for base in below for place in (base, base / "data")):
        for pattern in (part.split, f"{part.split}-*"):
            if files := _one_form(place, pattern):
                return files
    return _one_form(folder, part.name) if part.name else []


def _one_form(place: Path, pattern: str) -> list[Path]:
    return next((files for suffix in SUFFIXES if (files := sorted(place.glob(f"{pattern}{suffix}")))), [])


def only_file(folder: Path) -> list[Path]:
    """`rows.*`, or the folder's only file of rows; what lies about as MANIFEST and results are not rows."""
    files = sorted(
        file for suffix in SUFFIXES for file in folder.glob(f"*{suffix}") if not file.stem.isupper()
    )
    return _one_form(folder, "rows") or (files if len(files) == 1 else [])


def find_subset(folder: Path, part: Subset) -> list[Path]:
    """What a folder holds a part in: a folder that `datasets` saved, else files; [] when neither is named after it."""
    return saved_place(folder, part) or subset_files(folder, part)


def saved_place(folder: Path, part: Subset) -> list[Path]:
    """The folder in which `datasets` saved a part to disk, [] where it didn't."""
    return [place for place in (folder / (part.name or "."), folder) if is_saved(place)][:1]


def load_subset(place: Path | None, part: Subset) -> list[BenchmarkRow]:
    """The rows of one subset, of a folder that `datasets` saved or (None) of the hub. Raises UserError without them."""
    try:
        if place is not None:
            return stored_rows(load_saved(place, part.split, any_split=True))
        return stored_rows(load_split(part.path, part.split, name=part.name, revision=part.revision))
    except UnknownSplit as error:
        raise UserError(f"{error}; change benchmark.subsets") from None
    except UnavailableDataSet as error:
        raise UserError(
            f"benchmark data {part.path} ({part.label}) can't be fetched: {error.reason.splitlines()[0]}; "
            "give a local copy with data_dir=<folder>"
        ) from error


def check_row_columns(rows: Iterable[BenchmarkRow], columns: Sequence[str], where: str, name: str) -> None:
    """Raises UserError when no row has one of the columns."""
    there = dict.fromkeys(column for row in rows for column in row)
    if missing := [column for column in columns if column not in there]:
        raise UserError(
            f"{where}: benchmark {name} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; there are "
            f"{', '.join(there) or 'none'}; give the benchmark's own rows"
        )


def row_images(row: BenchmarkRow, part: Subset, root: Path, problem: Problem) -> tuple[Any, ...]:
    """The images of a row, not yet decoded; an empty path is none (MathVerse, text only). Raises UserError when one is missing."""
    cells = {
        name: row[name] or None
        for group in Columns(images=part.images).image_groups()
        for name in group
        if name in row
    }
    if not cells:
        return ()
    plain = {"id": problem.id, "question": "?", "answer": "?", **cells}
    return to_problem(plain, Columns(images=part.images), root=root, where=part.label).images

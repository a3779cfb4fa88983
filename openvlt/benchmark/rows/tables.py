"""The rows of a benchmark's subsets, from a local folder or the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openvlt.benchmark.rows.subsets import Subset
from openvlt.data.errors import ImageOutside, UnavailableDataSet, UnknownSplit
from openvlt.data.rows.files import read_rows
from openvlt.data.rows.schema import Columns, to_problem
from openvlt.data.sources.hub import cache_folder, is_saved, load_saved, load_split, stored_rows
from openvlt.errors import UserError
from openvlt.types import Problem

SUFFIXES = (".parquet", ".jsonl", ".json")  # in order of preference: a Parquet file holds its images
BenchmarkRow = dict[str, Any]


@dataclass(frozen=True)
class SubsetRows:
    """The rows of one subset and where they come from. Image paths are relative to `root`."""

    subset: Subset
    rows: Sequence[BenchmarkRow]
    where: str
    root: Path | None


# --- loading ------------------------------------------------------------------------------------------------


def load_subset(subset: Subset, data_dir: str | None, key: str) -> SubsetRows:
    """The rows of one subset, from `data_dir` or the hub; `key` as in `read_table`.

    Raises UserError when there are none.
    """
    if data_dir is None:
        return SubsetRows(subset, _load_hub(subset), f"{subset.path}[{subset.label}]", cache_folder())
    folder = check_data_dir(data_dir)
    if saved := find_saved_folder(folder, subset):
        return SubsetRows(subset, _load_saved(saved[0], subset), str(folder), folder)
    files = find_subset_files(folder, subset) or find_only_file(folder)
    if not files:
        raise UserError(
            f"data_dir={data_dir}: no rows of {subset.label!r} there; expected {subset.split}.jsonl, .json "
            "or "
            f".parquet, or data/{subset.split}-*.parquet"
        )
    rows = [row for file in files for row in read_table(file, key)]
    return SubsetRows(subset, rows, ", ".join(map(str, files)), files[0].parent)


def _load_hub(subset: Subset) -> list[BenchmarkRow]:
    try:
        return stored_rows(load_split(subset.path, subset.split, name=subset.name, revision=subset.revision))
    except UnavailableDataSet as error:
        raise UserError(
            f"benchmark data {subset.path} ({subset.label}) can't be fetched: "
            f"{error.reason.splitlines()[0]}; "
            "give a local copy with data_dir=<folder>"
        ) from error


def _load_saved(folder: Path, subset: Subset) -> list[BenchmarkRow]:
    try:
        return stored_rows(load_saved(folder, subset.split, any_split=True))
    except UnknownSplit as error:
        raise UserError(f"{error}; change benchmark.subsets") from error


# --- finding files ------------------------------------------------------------------------------------------


def check_data_dir(data_dir: str) -> Path:
    """The folder of rows. Raises UserError when there is none."""
    if not Path(data_dir).is_dir():
        raise UserError(
            f"data_dir={data_dir}: there is no such folder; give one with the benchmark's rows, or none to "
            "use the hub"
        )
    return Path(data_dir)


def find_subset(folder: Path, subset: Subset) -> list[Path]:
    """The folder that `datasets` saved a subset in, else its files; [] when neither is named after it."""
    return find_saved_folder(folder, subset) or find_subset_files(folder, subset)


def find_saved_folder(folder: Path, subset: Subset) -> list[Path]:
    """The folder in which `datasets` saved a subset to disk, [] where it didn't."""
    return [place for place in (folder / (subset.name or "."), folder) if is_saved(place)][:1]


def find_subset_files(folder: Path, subset: Subset) -> list[Path]:
    """The files in a folder whose names say that they hold a subset."""
    bases = [folder / subset.name, folder] if subset.name else [folder]
    for place in (place for base in bases for place in (base, base / "data")):
        for pattern in (subset.split, f"{subset.split}-*"):
            if files := _files_of_one_format(place, pattern):
                return files
    return _files_of_one_format(folder, subset.name) if subset.name else []


def find_only_file(folder: Path) -> list[Path]:
    """`rows.*`, or the folder's only file of rows. A file named in capitals (MANIFEST) holds none."""
    files = sorted(
        file for suffix in SUFFIXES for file in folder.glob(f"*{suffix}") if not file.stem.isupper()
    )
    return _files_of_one_format(folder, "rows") or (files if len(files) == 1 else [])


def _files_of_one_format(place: Path, pattern: str) -> list[Path]:
    """The files of that name in the most preferred format that there is."""
    for suffix in SUFFIXES:
        if files := sorted(place.glob(f"{pattern}{suffix}")):
            return files
    return []


# --- reading rows -------------------------------------------------------------------------------------------


def read_table(file: Path, key: str) -> list[BenchmarkRow]:
    """The rows of a file. Of a JSON object of rows each one's own key becomes its column `key`.

    Raises UserError for any other form.
    """
    content = read_json_object(file)
    if content is None:
        return [row for _, row in read_rows(file)]
    if not content or not all(isinstance(row, dict) for row in content.values()):
        raise UserError(
            f"{file}: an object that holds no rows; expected rows by their ids, or a list of rows"
        )
    return [{key: name, **row} for name, row in content.items()]


def read_json_object(file: Path) -> dict[str, Any] | None:
    """The object that a .json file holds; None for every other file, and one that can't be read."""
    if file.suffix != ".json" or not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def cell_text(row: BenchmarkRow, column: str) -> str:
    """A cell as text, with its spaces. Raises UserError for an empty or missing one."""
    value = row.get(column)
    if value is None or isinstance(value, (list, dict)) or not str(value).strip():
        raise UserError(f"column {column!r} holds {value!r:.60}; expected text")
    return str(value)


def check_row_columns(rows: Iterable[BenchmarkRow], columns: Sequence[str], where: str, name: str) -> None:
    """Raises UserError for columns that no row has."""
    there = dict.fromkeys(column for row in rows for column in row)
    if missing := [column for column in columns if column not in there]:
        raise UserError(
            f"{where}: benchmark {name} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"there are {', '.join(there) or 'none'}; give the benchmark's own rows"
        )


def row_images(
    row: BenchmarkRow, subset: Subset, root: Path, problem: Problem, *, anywhere: bool
) -> tuple[Any, ...]:
    """The images of a row, not yet decoded. An empty path is no image (MathVerse, text only).

    Raises UserError when one is missing, or lies outside of `root` and not `anywhere`.
    """
    columns = Columns(images=subset.images)
    names = [name for group in columns.image_groups() for name in group if name in row]
    if not names:
        return ()
    cells = {name: _find_beside(row[name] or None, root) for name in names}
    plain = {"id": problem.id, "question": "?", "answer": "?", **cells}
    try:
        return to_problem(plain, columns, root=root, where=subset.label, anywhere=anywhere).images
    except ImageOutside as error:
        raise replace(error, setting="anywhere=true") from error


def _find_beside(cell: Any, root: Path) -> Any:
    """A path to an image as it lies there: the authors' archives unpack into a folder `images`."""
    if isinstance(cell, str) and not os.path.isfile(root / cell) and os.path.isfile(root / "images" / cell):
        return f"images/{cell}"
    return cell

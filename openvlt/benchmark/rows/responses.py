"""Recorded answers: files of any model's responses, scored without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.benchmark.rows.tables import SUFFIXES
from openvlt.data.rows.files import read_rows
from openvlt.errors import UserError

ResponseRow = Mapping[str, Any]
OWN_COLUMNS = {"tokens": int, "finished": bool}  # of our answer files; other people's have other types there


@dataclass(frozen=True)
class RecordedAnswer:
    """One recorded response: the id as the file writes it, the sample's number, the text, the whole row."""

    id: str
    sample: int
    response: str
    row: ResponseRow


def read_responses(
    file: str, ids: Sequence[str], column: str, subset_of: Callable[[ResponseRow, str], str] | None = None
) -> list[RecordedAnswer]:
    """The responses of a .jsonl, .json, .parquet, .csv or .tsv file, in the file's order.

    `ids` are the columns that make up a row's id; "id" is taken where they are missing. A .json may be a list
    of rows, or an object of rows or responses by id. A cell may hold several samples as a list. With
    `subset_of` (see `Benchmark`) an id begins with the subset that the row, the id or the file's name gives.
    Raises UserError for any other form.
    """
    path = Path(file)
    if path.suffix == ".json" and path.is_file():
        rows = _read_json(path, ids, column)
    else:
        rows = [row for _, row in read_rows(path)]
    there = list(dict.fromkeys(name for row in rows for name in row))
    id_columns = ids if all(name in there for name in ids) else ("id",)
    if missing := [name for name in (*id_columns, column) if name not in there]:
        raise UserError(
            f"responses={file}: no column {missing[0]!r}; there are {', '.join(there)}; "
            f"a file of responses has {', '.join(ids)} and {column!r} "
            "(under other names: benchmark.ids=[<name>], response_column=<name>)"
        )
    found: dict[tuple[str, int], RecordedAnswer] = {}
    for number, row in enumerate(rows, 1):
        name = "_".join(str(row.get(part)) for part in id_columns)
        if subset_of is not None:
            subset, _, name = name.rpartition("/")
            name = f"{subset_of(row, subset or path.name)}/{name}"
        texts = _texts(row.get(column), f"responses={file}, row {number}")
        for sample, response in enumerate(texts, _sample_number(row)):
            if (name, sample) in found:
                raise UserError(
                    f"responses={file}: id {name!r} occurs twice; give each row once, several samples as a "
                    "list"
                )
            found[name, sample] = RecordedAnswer(name, sample, response, _drop_foreign_columns(row))
    return list(found.values())


def _drop_foreign_columns(row: ResponseRow) -> ResponseRow:
    """The row without columns that have the name of one of ours, and another type."""
    return {name: value for name, value in row.items() if type(value) is OWN_COLUMNS.get(name, type(value))}


def _sample_number(row: ResponseRow) -> int:
    """The number of a row's (first) sample; 0 where the column holds something else."""
    try:
        return int(row.get("sample") or 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _read_json(path: Path, ids: Sequence[str], column: str) -> list[ResponseRow]:
    """The rows of a JSON file. In an object of rows or responses, a key is the id of a row without one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return [row for _, row in read_rows(path)]
    rows = {key: row for key, row in content.items() if isinstance(row, dict)}
    if not rows and all(value is None or isinstance(value, (str, list)) for value in content.values()):
        rows = {key: {column: value} for key, value in content.items()}
    if not rows:
        raise UserError(
            f"responses={path}: an object without rows; expected rows by their ids, or a list of rows"
        )
    return [{ids[0]: key, **row} for key, row in rows.items()]


def _texts(cell: Any, where: str) -> list[str]:
    """A cell as texts, one per sample. Nothing, or the object of an error, is an empty response."""
    if isinstance(cell, list) and cell and all(isinstance(item, str) for item in cell):
        return cell
    if cell is None or isinstance(cell, dict):
        return [""]
    if isinstance(cell, (list, bool)):
        raise UserError(
            f"{where}: the response is {cell!r:.60}; expected text, or a list of texts for several samples"
        )
    return [str(cell)]


def find_rows_beside(file: str, splits: Sequence[str]) -> str | None:
    """The folder of a file of responses, if the benchmark's rows lie there under a split's name."""
    folder = Path(file).parent
    places = [folder / f"{split}{suffix}" for split in splits for suffix in SUFFIXES]
    return str(folder) if any(place.is_file() for place in places if place != Path(file)) else None

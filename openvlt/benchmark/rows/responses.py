"""Recorded answers: files of any model's responses, to be scored without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.benchmark.rows.tables import SUFFIXES
from openvlt.data.sources.files import read_rows
from openvlt.errors import UserError

ResponseRow = Mapping[str, Any]
OURS = {
    "tokens": int,
    "finished": bool,
}  # columns of our own answer files; what others keep under these names is of another type


@dataclass(frozen=True)
class RecordedAnswer:
    """One recorded response: the row's id as the file writes it, the number of the sample, the text, and the file's whole row."""

    id: str
    sample: int
    response: str
    row: ResponseRow


def read_responses(
    file: str, ids: Sequence[str], column: str, subset_of: Callable[[ResponseRow, str], str] | None = None
) -> list[RecordedAnswer]:
    """The responses of a .jsonl, .json, .parquet, .csv or .tsv file. `ids` are the columns that make up a row's id ("id" is taken too).

    A .json may be a list of rows, or an object of rows or responses by id; a cell may hold several samples as a list. With `part_of`
    (see `Benchmark`) an id begins with the part that the row, the id or the file's name tells. Raises UserError for another form.
    """
    path = Path(file)
    rows = (
        _by_id(path, ids, column)
        if path.suffix == ".json" and path.is_file()
        else [row for _, row in read_rows(path)]
    )
    there = list(dict.fromkeys(name for row in rows for name in row))
    id_columns = ids if all(name in there for name in ids) else ("id",)
    if missing := [name for name in (*id_columns, column) if name not in there]:
        raise UserError(
            f"responses={file}: no column {missing[0]!r}; there are {', '.join(there)}; a file of responses has {', '.join(ids)} and "
            f"{column!r} (under other names: benchmark.ids=[<name>], response_column=<name>)"
        )
    found: dict[tuple[str, int], RecordedAnswer] = {}
    for number, row in enumerate(rows, 1):
        name = "_".join(str(row.get(part)) for part in id_columns)
        if subset_of is not None:
            part, _, name = name.rpartition("/")
            name = f"{subset_of(row, part or path.name)}/{name}"
        for sample, response in enumerate(
            _texts(row.get(column), f"responses={file}, row {number}"), _sample(row)
        ):
            if (name, sample) in found:
                raise UserError(
                    f"responses={file}: id {name!r} occurs twice; give each row once, several samples as a list"
                )
            found[name, sample] = RecordedAnswer(
                name, sample, response, {k: v for k, v in row.items() if type(v) is OURS.get(k, type(v))}
            )
    return list(found.values())


def _sample(row: ResponseRow) -> int:
    """The number of a row's (first) sample; 0 where the column holds something else."""
    try:
        return int(row.get("sample") or 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _by_id(path: Path, ids: Sequence[str], column: str) -> list[ResponseRow]:
    """Rows of a JSON file; of an object by id, the key is the id where a row has none. A value may be the response alone."""
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
    """A cell as texts: nothing, or an error's object, is an empty response."""
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
    """The folder of a file of responses, if the benchmark's rows lie beside it under a split's name."""
    folder = Path(file).parent
    places = [folder / f"{split}{suffix}" for split in splits for suffix in SUFFIXES]
    return str(folder) if any(place.is_file() for place in places if place != Path(file)) else None

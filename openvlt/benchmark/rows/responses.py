"""Recorded answers: files of any model's responses, scored without a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.benchmark.rows.tables import SUFFIXES, read_json_object, read_table
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
    of rows, or an object of rows or responses by id. A cell may hold several samples as a list, or they
    stand in numbered columns (`response_1`, `response_2`). With
    `subset_of` (see `Benchmark`) an id begins with the subset that the row, the id or the file's name gives.
    Raises UserError for any other form.
    """
    path = Path(file)
    rows = _join_samples(_read_rows(path, ids[0], column), column)
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


def _read_rows(path: Path, key: str, column: str) -> list[ResponseRow]:
    """The rows of a file. In an object of rows or responses, a key is the id of a row without one."""
    content = read_json_object(path) or {"": {}}
    if all(value is None or isinstance(value, (str, list)) for value in content.values()):
        return [{key: name, column: value} for name, value in content.items()]
    return list(read_table(path, key))


def _join_samples(rows: list[ResponseRow], column: str) -> list[ResponseRow]:
    """Rows whose samples stand in numbered columns, with a list of them in `column`."""
    there = dict.fromkeys(name for row in rows for name in row)
    numbered = {
        int(match[1]): name
        for name in there
        if (match := re.fullmatch(rf"{re.escape(column)}[ _-]?(\d+)", name))
    }
    if column in there or not numbered:
        return rows
    names = [numbered[number] for number in sorted(numbered)]
    return [{**row, column: ["" if row.get(name) is None else row[name] for name in names]} for row in rows]


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

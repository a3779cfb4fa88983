"""Files of rows: .jsonl, .json, .parquet, .csv and .tsv."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openvlt.data.rows.cells import brief
from openvlt.errors import UserError


def read_rows(path: Path | str) -> list[tuple[int, dict[str, Any]]]:
    """(line or row number from 1, row) of a .jsonl, .json (a list), .parquet, .csv or .tsv file.

    The cells of a .csv or .tsv are text. Raises UserError for any other file, or one that can't be read.
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise UserError(
            f"data file {path}: suffix {path.suffix!r} is not supported; use one of {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise UserError(f"data file {path} does not exist (looked in {Path.cwd()}); correct the path")
    try:
        rows = list(_READERS[path.suffix](path))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    if not rows:
        raise UserError(f"data file {path} has no rows; give a file with at least one")
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, {unit(path)} {number}: expected an object with named columns, got {brief(row)}"
            )
    return rows


def unit(path: Path | str) -> str:
    """What the rows of a file are called in errors: lines of a .jsonl, else rows."""
    return "line" if Path(path).suffix == ".jsonl" else "row"


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}); "
                    "a .jsonl file holds one whole object per line"
                ) from None


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = "; one object per line? Then name it .jsonl" if error.msg == "Extra data" else ""
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg} at column {error.colno}){hint}"
        ) from None
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: expected a list of rows, got {brief(rows)}; write the rows as [{{...}}, {{...}}]"
        )
    yield from enumerate(rows, 1)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a readable parquet file ({error}); write it again") from None


def _read_separated(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)  # a cell may hold an image
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            for number, row in enumerate(csv.DictReader(lines, delimiter=delimiter, strict=True), 1):
                if None in row:
                    raise UserError(
                        f"{path}, row {number}: more cells than the header has columns; "
                        "put cells with separators in quotes"
                    )
                yield number, row
        except csv.Error as error:
            raise UserError(f"{path} is not a readable table ({error}); write it again") from None


_READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_separated,
    ".tsv": _read_separated,
}

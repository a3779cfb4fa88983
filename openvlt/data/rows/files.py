"""Files of rows: .jsonl, .json, .parquet, .csv and .tsv, or a folder with a metadata file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from openvlt.data.rows.cells import brief
from openvlt.data.rows.formats import (
    JsonLines,
    ListedRows,
    RowFile,
    open_parquet,
    read_json_rows,
    read_separated,
)
from openvlt.errors import UserError

_FORMATS: dict[str, Callable[[Path], RowFile]] = {
    ".jsonl": JsonLines,
    ".json": partial(ListedRows, rows=read_json_rows),
    ".parquet": open_parquet,
    ".csv": partial(ListedRows, rows=read_separated),
    ".tsv": partial(ListedRows, rows=read_separated),
}
METADATA = tuple(f"metadata{suffix}" for suffix in (".jsonl", ".parquet", ".csv"))
"""Files of rows in a folder of pictures, as the hub's `imagefolder` has them."""


class BadRow(UserError):
    """A row that can't be read; its text names the place to look at."""


def find_row_file(path: Path) -> Path:
    """The file itself, or the metadata file of a folder. Raises UserError for a folder without one."""
    if not path.is_dir():
        return path
    there = [path / name for name in METADATA if (path / name).is_file()]
    if not there:
        raise UserError(
            f"{path} is a folder without {METADATA[0]}; give the file of its rows, "
            "or read it as a data set with data=hub"
        )
    return there[0]


def open_rows(path: Path) -> RowFile:
    """The rows of a file, not read yet. Raises UserError for a file that isn't there, or of another form."""
    if path.suffix not in _FORMATS:
        raise UserError(
            f"data file {path}: suffix {path.suffix!r} is not supported; use one of {', '.join(_FORMATS)}"
        )
    if not path.is_file():
        raise UserError(f"data file {path} does not exist (looked in {Path.cwd()}); correct the path")
    return _FORMATS[path.suffix](path)


def scan_rows(
    rows: RowFile, where: str, skipped: dict[str, str] | None, without: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of the rows that can be read.

    A bad row is noted in `skipped` (place -> reason), or raises BadRow when that is None. Raises UserError
    when there is no other.
    """
    count, bad = 0, {}
    for number, row in rows.scan(without):
        if isinstance(row, dict):
            count += 1
            yield number, row
            continue
        place = rows.place(number)
        form = f"expected an object with named columns, got {brief(row)}"
        bad[place] = f"{place}: {row if isinstance(row, ValueError) else form}"
        if skipped is None:
            raise BadRow(bad[place])
    if skipped is not None:
        skipped.update(bad)
    if not count:
        reason = f"no usable row ({next(iter(bad.values()))})" if bad else "no rows"
        raise UserError(f"data file {where} has {reason}; give a file with at least one")


def read_rows(path: Path | str, skipped: dict[str, str] | None = None) -> list[tuple[int, dict[str, Any]]]:
    """(line or row number from 1, row) of a .jsonl, .json (a list), .parquet, .csv or .tsv file.

    The cells of a .csv or .tsv are text. Raises UserError for any other file, or one that can't be read. A
    bad row is noted in `skipped` (where -> reason), or raises BadRow when that is None.
    """
    path = Path(path)
    return list(scan_rows(open_rows(path), str(path), skipped))


def unit(path: Path | str) -> str:
    """What the rows of a file are called in errors: lines of a .jsonl, else rows."""
    return "line" if Path(path).suffix == ".jsonl" else "row"

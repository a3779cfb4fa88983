"""Files of rows: .jsonl, .json, .parquet, .csv and .tsv."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openvlt.data.rows.cells import brief
from openvlt.errors import UserError

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


class BadRow(UserError):
    """A row that can't be read; its text names the place to look at."""


FileRows = Iterator[tuple[int, Any]]  # the number of a row, and the row or why it is bad (ValueError)


def read_rows(path: Path | str, skipped: dict[str, str] | None = None) -> list[tuple[int, dict[str, Any]]]:
    """(line or row number from 1, row) of a .jsonl, .json (a list), .parquet, .csv or .tsv file.

    The cells of a .csv or .tsv are text. Raises UserError for any other file, or one that can't be read. A
    bad row is noted in `skipped` (where -> reason), or raises BadRow when that is None.
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise UserError(
            f"data file {path}: suffix {path.suffix!r} is not supported; use one of {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise UserError(f"data file {path} does not exist (looked in {Path.cwd()}); correct the path")
    rows, bad = [], {}
    for number, row in _READERS[path.suffix](path):
        where = f"{path}, {unit(path)} {number}"
        if isinstance(row, dict):
            rows.append((number, row))
            continue
        form = f"expected an object with named columns, got {brief(row)}"
        bad[where] = f"{where}: {row if isinstance(row, ValueError) else form}"
        if skipped is None:
            raise BadRow(bad[where])
    if skipped is not None:
        skipped.update(bad)
    if not rows:
        reason = f"no usable row ({next(iter(bad.values()))})" if bad else "no rows"
        raise UserError(f"data file {path} has {reason}; give a file with at least one")
    return rows


def unit(path: Path | str) -> str:
    """What the rows of a file are called in errors: lines of a .jsonl, else rows."""
    return "line" if Path(path).suffix == ".jsonl" else "row"


# --- text ---------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises UserError that names the line and the likely encoding, and how to convert the file.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
        if 4 * text.count("\0", 0, 4096) < len(text[:4096]) or not text:
            return text
        fault = "it holds NUL bytes"
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        fault = f"{error.reason} at byte {error.start}, line {line}"
    encoding = _guess_encoding(content)
    raise UserError(
        f"{path} is not UTF-8 text ({fault}); it looks like {encoding}: save it as UTF-8, for example with "
        f"iconv -f {encoding} -t UTF-8 {path.name} > new{path.suffix}"
    )


def _guess_encoding(content: bytes) -> str:
    """UTF-16 by its mark or NUL bytes; GB18030 where letters beyond ASCII are pairs of bytes; else CP1252."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    if b"\0" in content[:4096]:
        return "UTF-16LE" if content[1:2] == b"\0" else "UTF-16BE"
    runs = re.findall(rb"[\x80-\xff]+", content)
    paired = sum(len(run) for run in runs if len(run) % 2 == 0)
    return "GB18030" if paired > 0.8 * sum(map(len, runs)) else "CP1252"


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, also for a key that an object has twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} occurs twice in an object")
    return found


def _explain(error: ValueError) -> str:
    """Why a text is no JSON that can be used."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg} at column {error.colno})"
    return "a number has too many digits" if "digits" in str(error) else str(error)


# --- the formats --------------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> FileRows:
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read_text(path)), 1):
        line = line.strip().lstrip("\ufeff")  # files that were put together have marks inside
        if line:
            try:
                yield number, parse_json(line)
            except ValueError as error:
                yield number, ValueError(f"{_explain(error)}; a .jsonl file holds one whole object per line")


def _read_json(path: Path) -> FileRows:
    try:
        rows = parse_json(read_text(path))
    except json.JSONDecodeError as error:
        hint = "; one object per line? Then name it .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}, line {error.lineno}: {_explain(error)}{hint}") from None
    except ValueError as error:
        raise UserError(f"{path}: {_explain(error)}; mend the file") from None
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: expected a list of rows, got {brief(rows)}; write the rows as [{{...}}, {{...}}]"
        )
    yield from enumerate(rows, 1)


def _read_parquet(path: Path) -> FileRows:
    import pyarrow
    from pyarrow import parquet

    try:
        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file ({error}); write it again") from None


def _read_separated(path: Path) -> FileRows:
    csv.field_size_limit(sys.maxsize)  # a cell may hold an image
    delimiter = "\t" if path.suffix == ".tsv" else ","
    lines = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(lines, [])]
        _check_header(names, path, delimiter)
        full = (cells for cells in lines if any(cell.strip() for cell in cells))
        for number, cells in enumerate(full, 1):
            yield number, _pair_cells(names, cells)
    except csv.Error as error:
        raise UserError(
            f"{path} is not a readable table ({error} before line {lines.line_num + 1}); write it again"
        ) from None


def _pair_cells(names: list[str], cells: list[str]) -> dict[str, str] | ValueError:
    """The row of some cells; a row of another length is bad."""
    if len(cells) == len(names):
        return dict(zip(names, cells, strict=True))
    count = f"cells than the header has columns ({len(cells)}, not {len(names)})"
    if len(cells) > len(names):
        return ValueError(f"more {count}; put cells with separators in quotes")
    return ValueError(f"fewer {count}: the row is cut; write it again, or remove it")


def _check_header(names: list[str], path: Path, delimiter: str) -> None:
    """Raises UserError for a header with another separator, or a name that occurs twice."""
    if len(names) == 1:
        for other, word in _SEPARATORS.items():
            if other != delimiter and other in names[0]:
                suffix = {"\t": ".tsv", ",": ".csv"}.get(other)
                fix = f"rename it to {suffix}" if suffix else f"save it with {_SEPARATORS[delimiter]}"
                raise UserError(f"{path}: its columns are separated by {word} ({other!r}); {fix}")
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise UserError(f"{path}: column {twice!r} occurs twice in the header; rename one of the two")


_READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_separated,
    ".tsv": _read_separated,
}

"""The formats of files of rows: rows one at a time, in order or by number, where the format allows."""

from __future__ import annotations

import csv
import io
import json
import sys
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from openvlt.data.rows.cells import brief
from openvlt.data.rows.text import explain_json, not_utf8, parse_json, read_text, refuse_nul
from openvlt.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
IN_MEMORY = 1 << 28
"""Bytes of a file whose rows may all be held in memory."""
_BATCH = 1000  # rows of a table that are made Python objects at a time

FileRows = Iterator[tuple[int, Any]]  # the number of a row, and the row or why it is bad (ValueError)


class RowFile(Protocol):
    """Rows by their numbers from 1 (lines of a .jsonl).

    `scan` gives (number, row or ValueError) in order; it may leave out the columns `without`. `read` gives
    a row that `scan` has given before, whole. `place` is what errors call it. `large` files are known to
    hold more bytes or rows than should be in memory; of others only a scan tells the number of rows.
    """

    large: bool

    def scan(self, without: Collection[str] = ()) -> FileRows: ...

    def read(self, number: int) -> Any: ...

    def place(self, number: int) -> str: ...


class JsonLines:
    """The lines of a .jsonl file. 8 bytes a line are kept: where it begins."""

    def __init__(self, path: Path) -> None:
        self.path, self.large = path, path.stat().st_size > IN_MEMORY
        self.starts = array("Q")

    def scan(self, without: Collection[str] = ()) -> FileRows:
        self.starts = array("Q")
        with self.path.open("rb") as file:
            refuse_nul(self.path, file.read(4096))
            for number, (start, line) in enumerate(self._lines(file), 1):
                self.starts.append(start)
                # files that were put together have marks inside
                if line := line.strip().lstrip("\ufeff"):
                    try:
                        yield number, parse_json(line)
                    except ValueError as error:
                        fault = f"{explain_json(error)}; a .jsonl file holds one whole object per line"
                        yield number, ValueError(fault)
            self.starts.append(file.tell())

    def _lines(self, file: io.BufferedReader) -> Iterator[tuple[int, str]]:
        """Where each line begins, and its text; lines end with a newline, a carriage return, or both."""
        start = file.seek(0)
        for place, piece in enumerate(file):
            try:
                text = piece.decode()
            except UnicodeDecodeError as error:
                fault = f"{error.reason} at byte {start + error.start}, line {place + 1}"
                raise not_utf8(self.path, fault) from None
            lines = text.removesuffix("\n").removesuffix("\r").split("\r")
            if len(lines) == 1:
                yield start, text if place else text.removeprefix("\ufeff")
            else:
                below = start
                for line in lines:
                    yield below, line
                    below += len(line.encode()) + 1
            start += len(piece)

    def read(self, number: int) -> Any:
        start, end = self.starts[number - 1], self.starts[number]
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(end - start)
        try:
            return parse_json(line.decode().strip().lstrip("\ufeff"))
        except ValueError:
            raise UserError(
                f"{self.place(number)}: the file has changed since it was read first; start again"
            ) from None

    def place(self, number: int) -> str:
        return f"{self.path}, line {number}"


class ListedRows:
    """Rows of a format that is read as a whole (.json, .csv, .tsv): all of them are held in memory."""

    large = False

    def __init__(self, path: Path, rows: Callable[[Path], FileRows]) -> None:
        self.path, self.load = path, rows
        self.rows: list[Any] = []

    def scan(self, without: Collection[str] = ()) -> FileRows:
        self.rows = []
        for number, row in self.load(self.path):
            self.rows.append(row)
            yield number, row

    def read(self, number: int) -> Any:
        return self.rows[number - 1]

    def place(self, number: int) -> str:
        return f"{self.path}, row {number}"


class TableRows:
    """Rows of an Arrow table in memory or on the disk: `part(start, end)` is a piece of it.

    `labels` name the numbers in columns of classes.
    """

    def __init__(
        self,
        name: str,
        count: int,
        part: Callable[[int, int], pyarrow.Table],
        labels: Mapping[str, Callable[[int], str]] | None = None,
        large: bool = False,
    ) -> None:
        self.name, self.count, self.part, self.labels = name, count, part, labels or {}
        self.large = large

    def scan(self, without: Collection[str] = ()) -> FileRows:
        for start in range(0, self.count, _BATCH):
            table = self.part(start, min(self.count, start + _BATCH))
            kept = [name for name in table.column_names if name not in without]
            rows = table.select(kept).to_pylist() if kept else [{} for _ in range(table.num_rows)]
            for number, row in enumerate(rows, start + 1):
                yield number, self._name_classes(row)

    def read(self, number: int) -> Any:
        return self._name_classes(self.part(number - 1, number).to_pylist()[0])

    def place(self, number: int) -> str:
        return f"{self.name}, row {number}"

    def _name_classes(self, row: dict[str, Any]) -> dict[str, Any]:
        for column, label in self.labels.items():
            if row.get(column) is not None:
                row[column] = label(row[column])
        return row


# --- the formats --------------------------------------------------------------------------------------------


def read_json_rows(path: Path) -> FileRows:
    """The rows of a .json file that holds a list. Raises UserError for any other content."""
    try:
        rows = parse_json(read_text(path))
    except json.JSONDecodeError as error:
        hint = "; one object per line? Then name it .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}, line {error.lineno}: {explain_json(error)}{hint}") from None
    except ValueError as error:
        raise UserError(f"{path}: {explain_json(error)}; mend the file") from None
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: expected a list of rows, got {brief(rows)}; write the rows as [{{...}}, {{...}}]"
        )
    yield from enumerate(rows, 1)


def open_parquet(path: Path) -> TableRows:
    """The rows of a Parquet file; of a large one, `datasets` keeps a copy that is read from the disk.

    Raises UserError for a broken file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        facts = parquet.read_metadata(path)
        size = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
        if size > IN_MEMORY:
            return dataset_rows(_copy_to_arrow(path), str(path))
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file ({error}); write it again") from None
    return TableRows(str(path), table.num_rows, lambda start, end: table.slice(start, end - start))


def _copy_to_arrow(path: Path) -> Dataset:
    import datasets

    return datasets.Dataset.from_parquet(str(path))  # type: ignore[return-value]


def dataset_rows(data: Dataset, name: str) -> TableRows:
    """The rows of a data set as stored: images encoded (`{bytes, path}`), class labels by name."""
    rows: Any = data.with_format("arrow")
    labels = {
        column: label
        for column in data.column_names
        if (label := getattr(data.features[column], "int2str", None)) is not None
    }
    large = data.data.nbytes > IN_MEMORY
    return TableRows(name, len(data), lambda start, end: rows[start:end], labels, large)


def read_separated(path: Path) -> FileRows:
    """The rows of a .csv or .tsv file; their cells are text. Raises UserError for a broken table."""
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

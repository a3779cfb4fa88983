"""Files of rows as problems: all of a small file are made at once, those of a large one when asked for."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from openvlt.data.rows.cells import Row
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.files import scan_rows
from openvlt.data.rows.formats import RowFile
from openvlt.data.rows.lazy import LazyProblems, ProblemIndex, text_digest
from openvlt.data.rows.schema import convert_row, row_id, row_level, to_problem
from openvlt.errors import UserError
from openvlt.types import Problem

LARGE = 20_000
"""Rows: of a file with more (or one of many bytes) only an index is held in memory."""
SAMPLE = 1000
"""Rows of a large file that are looked at before a run; the others are when they are asked for."""

NumberedRows = Iterable[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class RowReader:
    """Makes problems of the rows of a file; `where` names the file in errors.

    Conversations become rows first, or each row is converted. Image paths begin at `root`. A row without an
    id gets `default_id(number)`. `unread` are columns that the file has besides those that are read.
    """

    columns: Columns
    root: Path
    source: str
    where: str
    default_id: Callable[[int], str]
    convert: Callable[[Row], Row] | None = None
    anywhere: bool = False
    unread: Collection[str] = ()

    def read(self, rows: RowFile, skipped: dict[str, str] | None) -> Sequence[Problem]:
        """The problems of a file, a list of them or, of a large one, `LazyProblems`.

        A bad row is noted in `skipped` (place -> reason), or raises UserError when that is None. A column
        that no row has always raises. Of a large file, rows with a bad id or level count as bad here, and
        any other fault raises when the row is asked for.
        """
        pictures = self.columns.image_names() if rows.large and self.convert is None else ()
        scan = scan_rows(rows, self.where, skipped, without=pictures)
        first = [] if rows.large else list(islice(scan, LARGE + 1))
        if first and len(first) <= LARGE:
            return self._read_all(rows, first, skipped)
        index, numbers = self._index(rows, chain(first, scan), skipped)
        self._check_columns(rows, ((number, rows.read(number)) for number in numbers[:SAMPLE]), {})
        return LazyProblems(index)

    def _read_all(
        self, rows: RowFile, numbered: NumberedRows, skipped: dict[str, str] | None
    ) -> list[Problem]:
        problems = []
        for number, row in self._check_columns(rows, numbered, skipped):
            with _skip_bad(rows.place(number), skipped):
                problems.append(self._problem(rows, number, row))
        return problems

    def _check_columns(
        self, rows: RowFile, numbered: NumberedRows, skipped: dict[str, str] | None
    ) -> list[tuple[int, Row]]:
        """The rows, converted. Raises MissingColumn for a column that none of them has."""
        converted: list[tuple[int, Row]] = []
        for number, row in numbered:
            place = rows.place(number)
            with _skip_bad(place, skipped):
                converted.append((number, convert_row(self.convert, row, self.columns, place)))
        if converted:
            there = dict.fromkeys(name for _, row in converted for name in row)
            self.columns.check([*there, *self.unread], self.where)
        return converted

    def _problem(self, rows: RowFile, number: int, row: Row) -> Problem:
        """The problem of a converted row."""
        return to_problem(
            row,
            self.columns,
            root=self.root,
            where=rows.place(number),
            source=self.source,
            default_id=self.default_id(number),
            anywhere=self.anywhere,
        )

    def _index(
        self, rows: RowFile, numbered: NumberedRows, skipped: dict[str, str] | None
    ) -> tuple[ProblemIndex, array[int]]:
        """The index of all rows, and their numbers."""
        numbers, digests = array("Q"), array("I")
        ids: list[str] = []
        levels: list[int | None] = []
        for number, row in numbered:
            digest, place = text_digest(repr(row)), rows.place(number)
            with _skip_bad(place, skipped):
                if self.convert is not None:
                    row = convert_row(self.convert, row, self.columns, place)
                name = row_id(row, self.columns, place, self.default_id(number))
                levels.append(row_level(row, self.columns, place))
                ids.append(name)
                numbers.append(number)
                digests.append(digest)

        def open_row(row: int) -> Problem:
            number, place = numbers[row], rows.place(numbers[row])
            found = convert_row(self.convert, rows.read(number), self.columns, place)
            return self._problem(rows, number, found)

        def place_of(row: int) -> str:
            return rows.place(numbers[row])

        checksums = np.frombuffer(digests, dtype=np.uint32)
        return ProblemIndex(ids, levels, checksums, open_row, place_of), numbers


@contextlib.contextmanager
def _skip_bad(place: str, skipped: dict[str, str] | None) -> Iterator[None]:
    """Notes the error of a row in `skipped`; without one it is raised."""
    try:
        yield
    except UserError as error:
        if skipped is None:
            raise
        skipped[place] = str(error)

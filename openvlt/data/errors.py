"""Errors of data, with the facts as attributes; `openvlt.cli.errors` adds the settings that mend them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from openvlt.errors import UserError


@dataclass(eq=False)
class DataError(UserError):
    """A UserError made of facts: a dataclass whose text is its sentence.

    It can be pickled, since workers raise it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


@dataclass(eq=False)
class MissingSplit(DataError):
    """A source has no rows of a split.

    `setting` is its own that names some (`test_path=<file>`), if it has one.
    """

    where: str
    split: str
    setting: str | None = None

    def __str__(self) -> str:
        return f"{self.where} has no {self.split} rows"


@dataclass(eq=False)
class TooFewProblems(DataError):
    """More problems are selected than there are."""

    where: str
    wanted: int
    there: int

    def __str__(self) -> str:
        return f"{self.where}: {self.wanted} problems wanted, {self.there} there"


@dataclass(eq=False)
class UnknownLevels(DataError):
    """A selection has levels that no row has."""

    where: str
    wanted: Sequence[int]
    there: Sequence[int]

    def __str__(self) -> str:
        return f"{self.where}: levels {self.wanted} wanted, the rows have {self.there or 'none'}"


@dataclass(eq=False)
class ExcludedLevels(DataError):
    """A selection has levels that the settings of a generated source leave out."""

    wanted: Sequence[int]
    there: Sequence[int]

    def __str__(self) -> str:
        return f"levels {self.wanted} wanted, data.levels has {self.there}"


@dataclass(eq=False)
class MixtureWanted(DataError):
    """A selection weighs the parts of what is one source."""

    where: str
    weights: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.where} is one source; sources={dict(self.weights)} needs a mixture"


@dataclass(eq=False)
class MissingColumn(DataError):
    """Rows lack the column of a problem's field."""

    where: str
    field: str
    column: str
    there: Collection[str]

    def __str__(self) -> str:
        there = ", ".join(map(str, self.there)) or "none"
        return f"{self.where}: no column {self.column} for the {self.field}; there are {there}"


@dataclass(eq=False)
class UnknownSplit(DataError):
    """A data set on disk has other splits than the one asked for."""

    path: Path | str
    split: str
    there: Collection[str]

    def __str__(self) -> str:
        return f"{self.path} has no split {self.split!r}, but {sorted(self.there)}"


@dataclass(eq=False)
class UnavailableDataSet(DataError):
    """A data set can't be loaded, for a reason that `datasets` gives in one line or several."""

    path: Path | str
    split: str
    reason: str

    def __str__(self) -> str:
        return f"data set {self.path}, split {self.split!r}, can't be loaded: {self.reason}"


@dataclass(eq=False)
class EvaluationDataOnly(DataError):
    """Training rows are selected of material for evaluation; only `force=<name>` gives them."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} is for evaluation only ({self.why})"


@dataclass(eq=False)
class BadRows(DataError):
    """Some rows can't be used: `bad` of the `seen` ones; `first` is the sentence about the first of them.

    `setting` leaves such rows out; None where nothing does.
    """

    bad: int
    seen: int
    first: str
    setting: str | None = "data.skip_bad=true"

    def __str__(self) -> str:
        are = "rows are bad, the first" if self.bad > 1 else "rows is bad"
        fix = f"; {self.setting} leaves such rows out" if self.setting else ""
        return f"{self.bad} of {self.seen} {are}: {self.first}{fix}"


@dataclass(eq=False)
class UnreadableImage(DataError):
    """A picture can't be opened or decoded. `image` is what errors call it."""

    row: str
    image: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row!r}: {self.image} can't be read ({self.reason}); replace it or remove the row"


@dataclass(eq=False)
class ImageOutside(DataError):
    """A row names a picture outside of the folder that its rows lie in. `setting` allows that."""

    where: str
    image: str
    folder: Path | str
    setting: str = "data.anywhere=true"

    def __str__(self) -> str:
        return (
            f"{self.where}: image {self.image} lies outside of {self.folder}, where the rows lie; "
            f"put it there, or set {self.setting} if you trust these rows"
        )


@dataclass(eq=False)
class PromptTooLong(DataError):
    """A prompt has more tokens than its style allows."""

    row: str
    length: int
    limit: int

    def __str__(self) -> str:
        return f"row {self.row!r}: its prompt has {self.length} tokens, more than max_tokens={self.limit}"


@dataclass(eq=False)
class WorkerEnded(DataError):
    """The process that prepares images is gone."""

    exit_status: int | None

    def __str__(self) -> str:
        return (
            f"the worker that prepares images ended (exit status {self.exit_status}): too little memory, "
            "or too little in /dev/shm?"
        )

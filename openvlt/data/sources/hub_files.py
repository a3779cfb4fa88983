"""Files of rows in a local copy of a data set: read by this package, since `datasets` reads fewer forms.

A folder's .json, .jsonl, .csv or .tsv goes before the pictures beside it, which `datasets` would take for the
data set.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from openvlt.data.errors import UnknownSplit
from openvlt.data.rows.files import open_rows
from openvlt.data.rows.formats import FileRows

TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
_ALIASES = {"validation": ("validation", "val", "valid", "dev"), "val": ("val", "validation", "valid", "dev")}
_SPLIT = re.compile(r"(\w+)(\[[^\]]*\])?")


def find_row_files(path: Path, split: str) -> list[Path]:
    """The text files of rows that hold a split of a local copy; [] where `datasets` has to read it.

    That is so for Parquet files, folders whose README names their files, and pictures with a metadata file.
    Raises UnknownSplit for another split than `train` of a single file.
    """
    match = _SPLIT.fullmatch(split)
    if match is None:
        return []
    if path.suffix in TEXT_SUFFIXES and path.is_file():
        if match[1] != "train":
            raise UnknownSplit(path, split, ["train"])
        return [path]
    if not path.is_dir() or any(path.rglob("*.parquet")) or _names_files(path / "README.md"):
        return []
    there = [
        file
        for file in sorted([*path.glob("*"), *path.glob("data/*")])
        if file.suffix in TEXT_SUFFIXES
        and not re.match(r"metadata|dataset_infos?|state|config|\.", file.name)
    ]
    names = "|".join(_ALIASES.get(match[1], (match[1],)))
    found = [file for file in there if re.fullmatch(rf"(?:{names})(?:[-_.].*)?", file.stem)]
    return found or (there if len(there) == 1 and match[1] == "train" else [])


def _names_files(readme: Path) -> bool:
    """Whether a data card says which files belong to which split."""
    return readme.is_file() and "data_files:" in readme.read_text(encoding="utf-8", errors="ignore")[:20_000]


class SplitRows:
    """The usable rows of a split's files, numbered through, cut to its slice (`train[:90%]`).

    A bad row has a number below 0.
    """

    def __init__(self, files: Sequence[Path], split: str) -> None:
        self.files, self.split = [open_rows(file) for file in files], split
        self.large = any(file.large for file in self.files)
        self.at: list[tuple[int, int]] = []  # of each row, its file and its number there
        self.bad: list[str] = []  # the places of bad rows

    def scan(self, without: Collection[str] = ()) -> FileRows:
        self.at, self.bad = [], []
        ranges = self._ranges()
        for place, file in enumerate(self.files):
            for number, row in file.scan(without):
                if isinstance(row, dict):
                    self.at.append((place, number))
                    if ranges is None or any(len(self.at) - 1 in part for part in ranges):
                        yield len(self.at), row
                else:
                    self.bad.append(file.place(number))
                    yield -len(self.bad), row

    def _ranges(self) -> list[range] | None:
        """The rows of the slice, from 0; None for the whole split."""
        if "[" not in self.split:
            return None
        from datasets import ReadInstruction

        count = sum(isinstance(row, dict) for file in self.files for _, row in file.scan())
        parts = ReadInstruction.from_spec(self.split).to_absolute({self.split.partition("[")[0]: count})
        return [range(part.from_, part.to) for part in parts]

    def read(self, number: int) -> Any:
        place, inside = self.at[number - 1]
        return self.files[place].read(inside)

    def place(self, number: int) -> str:
        if number < 0:
            return self.bad[-number - 1]
        place, inside = self.at[number - 1]
        return self.files[place].place(inside)

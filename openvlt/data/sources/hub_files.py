"""Files of rows in a local copy of a data set: read by this package, since `datasets` reads fewer forms.

A folder's .json, .jsonl, .csv or .tsv goes before the pictures beside it, which `datasets` would take for the
data set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openvlt.data.errors import UnknownSplit
from openvlt.data.rows.files import read_rows, unit

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


def read_row_files(
    files: Sequence[Path], split: str, skipped: dict[str, str] | None
) -> list[tuple[str, str, dict[str, Any]]]:
    """(where, default id, row) of the files' rows, cut to the split's slice (`train[:90%]`)."""
    rows = [
        (f"{file}, {unit(file)} {number}", row) for file in files for number, row in read_rows(file, skipped)
    ]
    numbered = [(where, f"{split}-{number}", row) for number, (where, row) in enumerate(rows, 1)]
    if "[" not in split:
        return numbered
    from datasets import ReadInstruction

    parts = ReadInstruction.from_spec(split).to_absolute({split.partition("[")[0]: len(rows)})
    return [row for part in parts for row in numbered[part.from_ : part.to]]

"""A source that reads rows of a user's own files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openvlt.data.rows.cells import Row
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.files import METADATA, find_row_file, open_rows
from openvlt.data.rows.lazy import LazyProblems
from openvlt.data.rows.load import RowReader
from openvlt.data.sources.base import Selection
from openvlt.data.sources.splits import find_rows, select_share
from openvlt.storage.own_files import is_own_file
from openvlt.types import Problem


@dataclass(frozen=True)
class LocalRows:
    """`conf/data/jsonl.yaml`: rows of a user's own files; image paths are relative to each file.

    The formats are those of `files.open_rows`. `path` is the training file, or a folder with metadata.jsonl.
    Held-out questions are those of `test_path` and `val_path`; for each of these two that isn't given, a
    share `heldout` of the training rows is set aside, by a hash of the row's id. With `skip_bad` a bad row is
    left out and listed in `skipped` (row -> reason); otherwise it is an error. `convert(row)` turns a row of
    another form into one that `columns` describe; conversations are read without it. Every row is checked at
    each load, and of large files when it is asked for; images are decoded when used. They lie in the file's
    folder or below, unless `anywhere`, or a run of this user wrote the file.
    """

    path: str
    columns: Columns = Columns()
    test_path: str | None = None
    val_path: str | None = None
    heldout: float = 0.0
    skip_bad: bool = False
    anywhere: bool = False
    convert: Callable[[Row], Row] | None = None
    skipped: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _indexed: dict[Path, tuple[tuple[int, int], LazyProblems]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]:
        """See `Source`. Raises UserError on a bad file or row, a split that isn't there, or too few rows."""
        given = {"train": self.path, "test": self.test_path, "val": self.val_path}
        files = {split: find_row_file(Path(file)) for split, file in given.items() if file is not None}
        setting = f"{selection.split}_path=<file>"
        split, share = find_rows(selection, self.heldout, list(files), self.path, setting)
        file = files[split]
        skipped = self.skipped if self.skip_bad else None
        return select_share(self._load(file), share, selection, seed, str(file), skipped=skipped)

    def _load(self, file: Path) -> Sequence[Problem]:
        facts = file.stat() if file.is_file() else None
        state = None if facts is None else (facts.st_size, facts.st_mtime_ns)
        if (known := self._indexed.get(file)) is not None and known[0] == state:
            return known[1]
        name = file.parent.resolve().name if file.name in METADATA else file.stem
        reader = RowReader(
            self.columns,
            file.parent,
            name,
            str(file),
            lambda number: f"{name}-{number}",
            convert=self.convert,
            anywhere=self.anywhere or is_own_file(file),
        )
        problems = reader.read(open_rows(file), self.skipped if self.skip_bad else None)
        if state is not None and isinstance(problems, LazyProblems):
            self._indexed[file] = state, problems
        return problems

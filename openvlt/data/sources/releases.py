"""A source in the form its authors released it: a folder that one reader reads, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from openvlt.data.rows.cells import Row
from openvlt.data.rows.files import BadRow
from openvlt.data.rows.schema import Columns, to_problem
from openvlt.data.sources.base import Selection, Source
from openvlt.data.sources.splits import check_splits, find_rows, refuse_training, select_share
from openvlt.errors import UserError
from openvlt.types import Problem

ReleaseRows = Iterator[tuple[str, Row | BadRow]]  # (where, row of data=jsonl)
Reader = Callable[[Path, str], ReleaseRows]


@dataclass(frozen=True)
class Release:
    """`conf/data/<source>.yaml`: `read(folder, split)` gives (where, row of data=jsonl) of files in `path`.

    `splits` names the release's own split for each of ours; `heldout`, `skip_bad` and `anywhere` are as in
    `LocalRows`. The error of a bad row names its file and place. `licence` is the one that the release
    states.
    """

    path: str
    read: Reader
    licence: str
    splits: Mapping[str, str | None] = field(default_factory=lambda: {"train": "train"})
    heldout: float = 0.0
    skip_bad: bool = False
    anywhere: bool = False
    skipped: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]:
        """See `Source`. Raises UserError when files or rows are missing or broken, or too few."""
        splits = check_splits(self.splits)
        setting = f"splits.{selection.split}=<its split>"
        split, share = find_rows(selection, self.heldout, list(splits), self.path, setting)
        if not Path(self.path).is_dir():
            raise UserError(
                f"data folder {self.path} does not exist (looked in {Path.cwd()}); unpack the release there"
            )
        where = f"{self.path}[{splits[split]}]"
        skipped = self.skipped if self.skip_bad else None
        return select_share(self._load(splits[split]), share, selection, seed, where, skipped=skipped)

    def _load(self, split: str) -> list[Problem]:
        problems, root = [], Path(self.path)
        for where, row in self.read(root, split):  # an error of the reader itself is no row to skip
            try:
                if isinstance(row, BadRow):
                    raise row
                source, anywhere = root.name, self.anywhere
                problems.append(
                    to_problem(row, Columns(), root=root, where=where, source=source, anywhere=anywhere)
                )
            except UserError as error:
                if not self.skip_bad:
                    raise
                self.skipped[where] = str(error)
        return problems


@dataclass(frozen=True)
class EvaluationOnly:
    """A source for evaluation only; its rows are training rows only if `force` equals `name`."""

    source: Source
    name: str
    why: str
    force: str | None = None

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]:
        """See `Source`. Raises UserError for training rows, unless forced by name."""
        if selection.split == "train":
            refuse_training(self.name, self.why, self.force)
            selection = replace(selection, split="test")
        return self.source.problems(selection, seed)


# --- what readers share -------------------------------------------------------------------------------------


def load_json(file: Path) -> Any:
    """The content of a JSON file. Raises UserError that names the file and the line."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist; the release has it, check that everything was unpacked"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); fetch it again"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}, line {error.lineno}: not valid JSON ({error.msg}); fetch the file again"
        ) from None


def convert_rows(
    file: Path,
    rows: Sequence[Any] | Mapping[str, Any],
    convert: Callable[[str, Any], Row | None],
    unit: str = "row",
) -> ReleaseRows:
    """(where, `convert(id, row)`) for every row of a file; rows that become None are left out.

    The ids of a list's rows are their numbers from 1, those of a mapping's its keys. A row without a field
    that `convert` reads, or of another type, becomes a `BadRow`.
    """
    if not isinstance(rows, Mapping):
        rows = {str(number): row for number, row in enumerate(rows, 1)}
    for name, row in rows.items():
        where = f"{file}, {unit} {name}"
        try:
            converted = convert(name, row)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            fault = f"no {error}" if isinstance(error, KeyError) else str(error)
            yield (
                where,
                BadRow(f"{where}: not a row of this release ({fault}); mend it or set data.skip_bad=true"),
            )
        else:
            if converted is not None:
                yield where, converted


def letter(index: Any, choices: Sequence[str]) -> str:
    """The letter of the choice at `index` (0 is A). Raises ValueError when there is none."""
    place = int(index)
    if not 0 <= place < len(choices):
        raise ValueError(f"answer {index} of {len(choices)} choices")
    return ascii_uppercase[place]


def yes_or_no(value: Any) -> str:
    """true and false as yes and no; anything else as text."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def with_hint(question: str, hint: str | None) -> str:
    """A question after the passage that it needs."""
    return f"{hint}\n{question}" if hint and hint.strip() else question

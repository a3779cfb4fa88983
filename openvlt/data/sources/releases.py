"""A source in the form its authors released it: a folder that one reader understands, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from openvlt.data.sources.base import Selection, Source
from openvlt.data.sources.schema import Columns, Row, to_problem
from openvlt.data.sources.splits import (
    SPLITS,
    missing_split_error,
    refuse_training,
    select_share,
    split_share,
)
from openvlt.errors import UserError
from openvlt.types import Problem

ReleaseRows = Iterator[tuple[str, Row]]
Reader = Callable[[Path, str], ReleaseRows]


class BadRow(Exception):
    """A row that can't be read, with the place to look at."""

    def __init__(self, where: str, fault: str) -> None:
        super().__init__(f"{where}: {fault}")
        self.where = where


@dataclass(frozen=True)
class Release:
    """`conf/data/<source>.yaml`: `read(folder, split)` gives (where, row of data=jsonl) for the files under `path`.

    `splits` names the release's own split for each of ours; `heldout` and `skip_bad` are as in `Rows`. A bad row names its file and
    place, and stands in `skipped` when it is left out. `licence` is what the release says of itself.
    """

    path: str
    read: Reader
    licence: str
    splits: Mapping[str, str | None] = field(default_factory=lambda: {"train": "train"})
    heldout: float = 0.0
    skip_bad: bool = False
    skipped: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`. Raises UserError when files or rows are missing or broken, or too few."""
        if set(self.splits) - set(SPLITS):
            raise UserError(f"data.splits names {sorted(self.splits)}; its keys are of {list(SPLITS)}")
        splits = {ours: theirs for ours, theirs in self.splits.items() if theirs is not None}
        split, share = split_share(selection.split, self.heldout, list(splits))
        if split not in splits or share[0] == share[1]:
            raise missing_split_error(
                self.path, selection.split, f"data.splits.{selection.split}=<its split>"
            )
        if not Path(self.path).is_dir():
            raise UserError(
                f"data folder {self.path} does not exist (looked in {Path.cwd()}); unpack the release there"
            )
        return select_share(
            self._load(splits[split]), share, selection, seed, f"{self.path}[{splits[split]}]"
        )

    def _load(self, split: str) -> list[Problem]:
        problems, root = [], Path(self.path)
        for where, row in self.read(root, split):  # what the reader itself can't read is no row to skip
            try:
                if isinstance(row, BadRow):
                    raise row
                problems.append(to_problem(row, Columns(), root=root, where=where, source=root.name))
            except (UserError, BadRow) as error:
                if not self.skip_bad:
                    raise UserError(str(error)) from error
                self.skipped[where] = str(error)
        return problems


@dataclass(frozen=True)
class EvaluationOnly:
    """A source that may be tested on and not trained on. `name` is what `force` has to say for its rows to be given as training rows."""

    source: Source
    name: str
    why: str
    force: str | None = None

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`. Raises UserError for training rows, unless forced by name."""
        if selection.split == "train":
            refuse_training(self.name, self.why, self.force)
            selection = replace(selection, split="test")
        return self.source.problems(selection, seed)


# --- what readers share ---------------------------------------------------------------------------------------------


def load_json(file: Path) -> Any:
    """A JSON file. Raises UserError that names it and the line."""
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


def each(
    file: Path,
    rows: Sequence[Any] | Mapping[str, Any],
    make: Callable[[str, Any], Row | None],
    unit: str = "row",
) -> ReleaseRows:
    """`make(id, row)` for every row of a file: a list's rows are counted from 1, a mapping's named by their keys; None leaves one out.

    A row without a field that `make` reads, or of another type, comes as a `BadRow`.
    """
    for name, row in (
        rows.items()
        if isinstance(rows, Mapping)
        else ((str(number), row) for number, row in enumerate(rows, 1))
    ):
        where = f"{file}, {unit} {name}"
        try:
            made = make(name, row)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            fault = f"no {error}" if isinstance(error, KeyError) else str(error)
            yield (
                where,
                BadRow(where, f"not a row of this release ({fault}); mend it or set data.skip_bad=true"),
            )
        else:
            if made is not None:
                yield where, made


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

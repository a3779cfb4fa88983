"""Sources that read rows: a user's own files and Hugging Face data sets."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvlt.data.sources.base import Selection, check_amount, everything, no_mixture
from openvlt.data.sources.files import read_rows, unit
from openvlt.data.sources.schema import Columns, Row, to_problem
from openvlt.errors import UserError
from openvlt.types import Problem, unique_ids

SPLITS = ("train", "val", "test")
BENCHMARKS = ("mathvista", "mathverse", "mathvision", "mmmu", "wemath", "logicvista", "dynamath", "hallusionbench")


# --- choosing -------------------------------------------------------------------------------------------------------


def allotment(name: str, heldout: float, own: Sequence[str]) -> tuple[str, tuple[float, float]]:
    """Which of the splits with data of their `own` holds split `name`, and which share of its ids: (split, (from, to)).

    `heldout` is the share of `train` set aside for each of `test` and `val` that has no data of its own.
    """
    if name not in SPLITS:
        raise UserError(f"split is {name!r}; it is one of {list(SPLITS)}")
    missing = [split for split in ("test", "val") if split not in own]
    if not 0 <= heldout * len(missing) < 1:
        raise UserError(
            f"data.heldout={heldout} is taken from train for {' and '.join(missing)} each; give less than 1/2"
        )
    if heldout and not missing:
        raise UserError(f"data.heldout={heldout} has no use, test and val have data of their own; leave it at 0")
    if name == "train" or name in own:
        return name, ((heldout * len(missing), 1.0) if name == "train" else (0.0, 1.0))
    place = missing.index(name)
    return "train", (heldout * place, heldout * (place + 1))


def _chance(name: str) -> float:
    """A number in [0, 1) that depends on the id alone, so that a row keeps its side when others come or go."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 256**6


def choose(problems: Sequence[Problem], selection: Selection, seed: int, where: str) -> list[Problem]:
    """Levels filtered, order drawn by `seed`, the first `amount` taken. Raises UserError where that can't be done."""
    no_mixture(selection, where)
    if selection.levels is not None:
        known = sorted({problem.level for problem in problems if problem.level is not None})
        if not set(selection.levels) <= set(known):
            raise UserError(
                f"{where}: levels {list(selection.levels)} wanted, the rows have {known or 'none'}; "
                f"name the column in data.columns.level, or {everything('levels')}"
            )
        problems = [problem for problem in problems if problem.level in selection.levels]
    problems = list(problems)
    random.Random(f"order/{seed}").shuffle(problems)
    return check_amount(problems, selection, where)


# --- one source -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """`conf/data/jsonl.yaml`: rows of .jsonl, .json or .parquet files; image paths are relative to each file.

    `path` is the training file. Held-out questions are those of `test_path` and `val_path`; for each of these two that
    isn't given, a share `heldout` of the training rows is set aside, by a hash of the row's id. With `skip_bad` a bad
    row is left out and stands in `skipped` (row -> reason); otherwise it is an error. Every row is checked at each
    load; images are decoded when used.
    """

    path: str
    columns: Columns = Columns()
    test_path: str | None = None
    val_path: str | None = None
    heldout: float = 0.0
    skip_bad: bool = False
    skipped: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`. Raises UserError on a bad file or row, a split that isn't there, or too few rows."""
        files = {"train": self.path, "test": self.test_path, "val": self.val_path}
        own = [split for split, file in files.items() if file is not None]
        split, share = allotment(selection.split, self.heldout, own)
        if share[0] == share[1]:
            raise no_rows(f"data.path={self.path}", selection.split, f"data.{selection.split}_path=<file>")
        file = Path(files[split])
        return choose_share(self._load(file), share, selection, seed, str(file))

    def _load(self, file: Path) -> list[Problem]:
        rows = read_rows(file)
        self.columns.check(dict.fromkeys(name for _, row in rows for name in row), str(file))
        places = [(f"{file}, {unit(file)} {number}", f"{file.stem}-{number}", row) for number, row in rows]
        skipped = self.skipped if self.skip_bad else None
        return _problems(places, self.columns, root=file.parent, source=file.stem, skipped=skipped)


def _problems(
    rows: Sequence[tuple[str, str, Row]],
    columns: Columns,
    *,
    root: Path,
    source: str,
    skipped: dict[str, str] | None,
    convert: Callable[[Row], Row] | None = None,
) -> list[Problem]:
    """Problems of (where, default id, row); a bad row is noted in `skipped`, or raises when that is None."""
    problems = []
    for where, default_id, row in rows:
        try:
            row = row if convert is None else _converted(convert, row, where)
            problems.append(to_problem(row, columns, root=root, where=where, source=source, default_id=default_id))
        except UserError as error:
            if skipped is None:
                raise
            skipped[where] = str(error)
    return problems


def _converted(convert: Callable[[Row], Row], row: Row, where: str) -> Row:
    try:
        return convert(row)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        fault = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where}: not a row of this form ({fault}); there are {', '.join(row)}; mend it or set data.convert") from error


def no_rows(where: str, split: str, *own: str) -> UserError:
    """The error for a split without rows; `own` are the source's settings that name some."""
    aside = ["data.heldout=0.1 to set a tenth of its rows aside"] if split != "train" else []
    scored = ["evaluation.selection.split=train to score a model on all of them"] if split == "test" else []
    return UserError(f"{where} has no {split} rows; set {', or '.join([*own, *aside, *scored])}")


def benchmarks_in(path: str) -> list[str]:
    """The benchmarks that a hub id or the end of a path names. EMMA's letters also stand inside words, so it has to be one of its own."""
    end = "/".join(Path(path).parts[-2:]).lower()
    letters = re.sub(r"[^a-z]", "", end)
    return [name for name in BENCHMARKS if name in letters] + ["emma"] * bool(re.search(r"(?<![a-z])emma(?![a-z])", end))


def refuse_training(name: str, why: str, force: str | None) -> None:
    """Raises UserError unless `force` is the name of this very material."""
    if force != name:
        raise UserError(f"{name} is for evaluation only ({why}); train on something else, or take the blame by name: data.force={name}")


def choose_share(
    problems: list[Problem], share: tuple[float, float], selection: Selection, seed: int, where: str
) -> list[Problem]:
    """The problems whose ids fall into the share, chosen from."""
    unique_ids(problems, where)
    inside = [problem for problem in problems if share[0] <= _chance(problem.id) < share[1]]
    if not inside:
        raise UserError(
            f"{where}: none of its {len(problems)} usable rows is left for split {selection.split!r}; "
            "add rows, or change data.heldout"
        )
    return choose(inside, selection, seed, where)


@dataclass(frozen=True)
class Hub:
    """`conf/data/hub.yaml`: a data set of the Hugging Face hub, or a copy of it (folder, `save_to_disk`, parquet file).

    `splits` says which of the set's splits (slices like `train[:90%]` included) is our train, test and val; `heldout`
    and `skip_bad` are as in `Rows`. `convert(row)` puts a row of another form into that of data=jsonl (`columns` then name the result).
    Benchmarks known by name give no training rows unless `force` names them. Encoded images of the split are held in memory.
    """

    path: str
    name: str | None = None
    splits: Mapping[str, str | None] = field(default_factory=lambda: {"train": "train"})
    columns: Columns = Columns()
    revision: str | None = None
    data_dir: str | None = None
    heldout: float = 0.0
    skip_bad: bool = False
    convert: Callable[[Row], Row] | None = None
    force: str | None = None
    skipped: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`. Raises UserError when the data can't be had, on a bad row, a missing split, or too few rows."""
        if set(self.splits) - set(SPLITS):
            raise UserError(f"data.splits names {sorted(self.splits)}; its keys are of {list(SPLITS)}")
        if selection.split == "train":
            for name in benchmarks_in(self.path):
                refuse_training(name, "a benchmark", self.force)
        splits = {ours: theirs for ours, theirs in self.splits.items() if theirs is not None}
        split, share = allotment(selection.split, self.heldout, list(splits))
        if split not in splits or share[0] == share[1]:
            raise no_rows(f"data.path={self.path}", selection.split, f"data.splits.{selection.split}=<one of its splits>")
        return choose_share(self._load(splits[split]), share, selection, seed, f"{self.path}[{splits[split]}]")

    def _load(self, split: str) -> list[Problem]:
        data = self._fetch(split)
        where, local = f"{self.path}[{split}]", Path(self.path)
        if self.convert is None:
            self.columns.check(data.column_names, where)
        rows = _raw_rows(data, self.columns if self.convert is None else None)
        places = [(f"{where}, row {number}", f"{split}-{number}", row) for number, row in enumerate(rows, 1)]
        root = local if local.is_dir() else local.parent
        source = local.name.removesuffix(".parquet")
        skipped = self.skipped if self.skip_bad else None
        return _problems(places, self.columns, root=root, source=source, skipped=skipped, convert=self.convert)

    def _fetch(self, split: str) -> Any:
        """The `datasets.Dataset` of one of the set's own splits."""
        datasets = _datasets()
        try:
            if (Path(self.path) / "dataset_dict.json").is_file() or (Path(self.path) / "state.json").is_file():
                return _from_disk(datasets.load_from_disk(self.path), split, self.path)
            if Path(self.path).suffix == ".parquet":
                return datasets.load_dataset("parquet", data_files=self.path, split=split)
            return datasets.load_dataset(
                self.path, self.name, split=split, revision=self.revision, data_dir=self.data_dir
            )
        except (FileNotFoundError, ConnectionError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"data set {self.path}, split {split!r}, can't be loaded: {error}; "
                "check data.path, data.name and data.splits, or give the folder of a local copy"
            ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError("data=hub needs the package datasets; run: pip install datasets") from None
    return datasets


def _from_disk(data: Any, split: str, path: str) -> Any:
    """One split of what `save_to_disk` wrote; a lone data set counts as its `train`."""
    splits = data if isinstance(data, dict) else {str(data.split or "train"): data}
    if split not in splits:
        raise UserError(f"{path} has no split {split!r}, but {sorted(splits)}; change data.splits")
    return splits[split]


def _raw_rows(data: Any, columns: Columns | None) -> list[dict[str, Any]]:
    """Rows of the columns asked for (None: all), as stored: images still encoded (`{bytes, path}`), class labels by their names."""
    wanted = set(data.column_names) if columns is None else _names(columns)
    kept = [name for name in data.column_names if name in wanted]
    rows = data.select_columns(kept).with_format("arrow")[:].to_pylist()
    for name in kept:
        label: Callable[[int], str] | None = getattr(data.features[name], "int2str", None)
        if label is not None:
            rows = [{**row, name: None if row[name] is None else label(row[name])} for row in rows]
    return rows


def _names(columns: Columns) -> set[str]:
    wanted = {columns.id, columns.question, columns.answer, columns.choices, columns.answer_type, columns.level}
    return wanted | {name for group in columns.image_groups() for name in group}

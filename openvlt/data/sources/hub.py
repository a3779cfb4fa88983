"""A data set of the Hugging Face hub, or a local copy of one."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from openvlt.data.errors import UnavailableDataSet, UnknownSplit
from openvlt.data.rows.cells import Row
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.formats import RowFile, dataset_rows
from openvlt.data.rows.lazy import LazyProblems
from openvlt.data.rows.load import RowReader
from openvlt.data.sources.base import Selection
from openvlt.data.sources.hub_files import SplitRows, find_row_files
from openvlt.data.sources.splits import (
    benchmarks_named_in,
    check_splits,
    find_rows,
    refuse_training,
    select_share,
)
from openvlt.errors import UserError
from openvlt.storage.own_files import is_own_file
from openvlt.types import Problem

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class HubRows:
    """`conf/data/hub.yaml`: a data set of the Hugging Face hub, or a local copy (a folder or a file of rows).

    `splits` names the set's splits (slices like `train[:90%]` included) that are our train, test and val;
    `heldout`, `skip_bad` and `anywhere` are as in `LocalRows`. `convert(row)` turns a row of another form
    into one of data=jsonl (`columns` then name the result's). Known benchmarks give no training rows unless
    `force` names them. Of a large split only an index is held in memory.
    """

    path: str
    name: str | None = None
    splits: Mapping[str, str | None] = field(default_factory=lambda: {"train": "train"})
    columns: Columns = Columns()
    revision: str | None = None
    data_dir: str | None = None
    heldout: float = 0.0
    skip_bad: bool = False
    anywhere: bool = False
    convert: Callable[[Row], Row] | None = None
    force: str | None = None
    skipped: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _indexed: dict[str, tuple[Any, LazyProblems]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]:
        """See `Source`.

        Raises UserError when data can't be loaded, on a bad row, a missing split, or too few rows.
        """
        splits = check_splits(self.splits)
        if selection.split == "train":
            for name in benchmarks_named_in(self.path):
                refuse_training(name, "a benchmark", self.force)
        setting = f"splits.{selection.split}=<one of its splits>"
        split, share = find_rows(selection, self.heldout, list(splits), self.path, setting)
        where = f"{self.path}[{splits[split]}]"
        skipped = self.skipped if self.skip_bad else None
        return select_share(self._load(splits[split]), share, selection, seed, where, skipped=skipped)

    def _load(self, split: str) -> Sequence[Problem]:
        where, local = f"{self.path}[{split}]", Path(self.path)
        files = [] if self.name or self.data_dir or is_saved(local) else find_row_files(local, split)
        state = [(facts.st_size, facts.st_mtime_ns) for facts in map(Path.stat, files)]
        if (known := self._indexed.get(split)) is not None and known[0] == state:
            return known[1]
        unread: Collection[str] = ()
        if files:
            rows: RowFile = SplitRows(files, split)
        else:
            data = load_split(
                self.path, split, name=self.name, revision=self.revision, data_dir=self.data_dir
            )
            columns = self.columns.names() if self.convert is None else set(data.column_names)
            unread = [name for name in data.column_names if name not in columns]
            read = [name for name in data.column_names if name in columns]
            rows = dataset_rows(data.select_columns(read) if read else data, where)
        reader = RowReader(
            self.columns,
            local if local.is_dir() else local.parent if local.exists() else cache_folder(),
            re.sub(r"\.(parquet|jsonl?|csv|tsv)$", "", local.name),
            where,
            lambda number: f"{split}-{number}",
            convert=self.convert,
            anywhere=self.anywhere or (local.is_file() and is_own_file(local)),
            unread=unread,
        )
        problems = reader.read(rows, self.skipped if self.skip_bad else None)
        if isinstance(problems, LazyProblems):
            self._indexed[split] = state, problems
        return problems


# --- what every reader of such data shares ------------------------------------------------------------------


def import_datasets() -> ModuleType:
    """The package `datasets`. Raises UserError when it isn't installed."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            "a data set of the hub needs the package datasets; run: pip install datasets"
        ) from None
    return datasets


def cache_folder() -> Path:
    """Where `datasets` keeps what it fetched from the hub: picture files of such rows lie there."""
    return Path(import_datasets().config.HF_CACHE_HOME)


def load_split(
    path: str,
    split: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    data_dir: str | None = None,
) -> Dataset:
    """One split of a data set: `save_to_disk`'s folder, a parquet file, or whatever `load_dataset` takes.

    Raises UnavailableDataSet when it can't be loaded, UnknownSplit when a saved one has other splits.
    """
    datasets = import_datasets()
    try:
        if is_saved(path):
            return load_saved(path, split)
        if Path(path).suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=glob.escape(path), split=split)
        if Path(path).is_dir() and glob.has_magic(path):
            raise UserError(
                f"{path}: the package datasets takes *, ? and [ in a folder's name for patterns; "
                "rename the folder, or give a link to it"
            )
        return datasets.load_dataset(path, name, split=split, revision=revision, data_dir=data_dir)
    except (FileNotFoundError, ConnectionError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UnavailableDataSet(path, split, str(error)) from error


def is_saved(folder: Path | str) -> bool:
    """Whether `save_to_disk` of the package `datasets` wrote this folder."""
    return any((Path(folder) / mark).is_file() for mark in ("dataset_dict.json", "state.json"))


def load_saved(folder: Path | str, split: str, *, any_split: bool = False) -> Dataset:
    """One split of what `save_to_disk` wrote.

    A lone data set counts as the split that it names, as `train` if it names none, or as any split with
    `any_split`. Raises UnknownSplit for a split that isn't there.
    """
    data = import_datasets().load_from_disk(str(folder))
    splits = data if isinstance(data, dict) else {split if any_split else str(data.split or "train"): data}
    if split not in splits:
        raise UnknownSplit(folder, split, list(splits))
    return splits[split]


def stored_rows(data: Dataset) -> list[dict[str, Any]]:
    """Rows as stored: images encoded (`{bytes, path}`), class labels by name."""
    return [row for _, row in dataset_rows(data, "").scan()]

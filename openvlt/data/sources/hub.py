"""A data set of the Hugging Face hub, or a local copy of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvlt.data.sources.base import Selection
from openvlt.data.sources.local import _problems
from openvlt.data.sources.schema import Columns, Row
from openvlt.data.sources.splits import (
    SPLITS,
    benchmarks_named_in,
    missing_split_error,
    refuse_training,
    select_share,
    split_share,
)
from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class HubRows:
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
            for name in benchmarks_named_in(self.path):
                refuse_training(name, "a benchmark", self.force)
        splits = {ours: theirs for ours, theirs in self.splits.items() if theirs is not None}
        split, share = split_share(selection.split, self.heldout, list(splits))
        if split not in splits or share[0] == share[1]:
            raise missing_split_error(
                f"data.path={self.path}",
                selection.split,
                f"data.splits.{selection.split}=<one of its splits>",
            )
        return select_share(
            self._load(splits[split]), share, selection, seed, f"{self.path}[{splits[split]}]"
        )

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
        return _problems(
            places, self.columns, root=root, source=source, skipped=skipped, convert=self.convert
        )

    def _fetch(self, split: str) -> Any:
        """The `datasets.Dataset` of one of the set's own splits."""
        datasets = _datasets()
        try:
            if (Path(self.path) / "dataset_dict.json").is_file() or (
                Path(self.path) / "state.json"
            ).is_file():
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
    wanted = {
        columns.id,
        columns.question,
        columns.answer,
        columns.choices,
        columns.answer_type,
        columns.level,
    }
    return wanted | {name for group in columns.image_groups() for name in group}

"""Problems with what a distillation found out about them: how often they are solved, and how long that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openvlt.data.sources.base import Selection
from openvlt.data.sources.files import read_rows
from openvlt.data.sources.schema import Columns, to_problem
from openvlt.data.sources.selection import filter_problems
from openvlt.data.sources.splits import missing_split_error, select_share, split_share
from openvlt.errors import UserError
from openvlt.types import Problem

GRADES = ("samples", "right", "pass_rate", "reward_variance", "mean_words", "mean_tokens")


@dataclass(frozen=True)
class Graded:
    """`conf/data/graded.yaml`: the `problems.parquet` that distill.py writes. Its difficulty columns are the problems' `meta`.

    `select(columns) -> mask` keeps some (see `openvlt.data.sources.selection`); null keeps all. `heldout` is as in `Rows`.
    """

    path: str
    select: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None
    heldout: float = 0.0

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`. Raises UserError when the file has no such columns, or nothing is kept."""
        file = Path(self.path)
        split, share = split_share(selection.split, self.heldout, ["train"])
        if share[0] == share[1]:
            raise missing_split_error(str(file), selection.split)
        return select_share(filter_problems(self._load(file), self.select), share, selection, seed, str(file))

    def _load(self, file: Path) -> list[Problem]:
        problems = []
        for number, row in read_rows(file):
            if missing := [name for name in GRADES if name not in row]:
                raise UserError(
                    f"{file} has no column {missing[0]}; give the problems.parquet of a distillation (python distill.py)"
                )
            problem = to_problem(
                row,
                Columns(),
                root=file.parent,
                where=f"{file}, row {number}",
                source=row.get("source") or "",
            )
            problems.append(replace(problem, meta={name: row[name] for name in GRADES}))
        return problems

"""Problems graded by a distillation: how often they are solved, and how long the responses are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from openvlt.data.rows.files import read_rows
from openvlt.data.rows.schema import Columns, to_problem
from openvlt.data.sources.base import Selection
from openvlt.data.sources.selection import filter_problems
from openvlt.data.sources.splits import find_rows, select_share
from openvlt.errors import UserError
from openvlt.storage.own_files import is_own_file
from openvlt.types import Problem

GRADES = ("samples", "right", "pass_rate", "reward_variance", "mean_words", "mean_tokens")


@dataclass(frozen=True)
class Graded:
    """`conf/data/graded.yaml`: distill.py's `problems.parquet`; its difficulty columns become `meta`.

    `select(columns) -> mask` keeps some of the problems (see `openvlt.data.sources.selection`); null keeps
    all. `heldout`, `skip_bad` and `anywhere` are as in `LocalRows`.
    """

    path: str
    select: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None
    heldout: float = 0.0
    skip_bad: bool = False
    anywhere: bool = False
    skipped: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]:
        """See `Source`. Raises UserError when the file lacks these columns, or nothing is kept."""
        file = Path(self.path)
        _, share = find_rows(selection, self.heldout, ["train"], str(file))
        skipped = self.skipped if self.skip_bad else None
        problems = filter_problems(self._load(file), self.select)
        return select_share(problems, share, selection, seed, str(file), skipped=skipped)

    def _load(self, file: Path) -> list[Problem]:
        problems, anywhere = [], self.anywhere or is_own_file(file)
        for number, row in read_rows(file):
            if missing := [name for name in GRADES if name not in row]:
                raise UserError(
                    f"{file} has no column {missing[0]}; give the problems.parquet of a distillation "
                    "(python distill.py)"
                )
            where, source = f"{file}, row {number}", row.get("source") or ""
            try:
                problem = to_problem(
                    row, Columns(), root=file.parent, where=where, source=source, anywhere=anywhere
                )
            except UserError as error:
                if not self.skip_bad:
                    raise
                self.skipped[where] = str(error)
                continue
            problems.append(replace(problem, meta={name: row[name] for name in GRADES}))
        return problems

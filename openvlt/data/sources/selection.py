"""Selectors: which problems to train on, by columns of numbers. `select(columns) -> bool mask`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from openvlt.data.rows.lazy import take_problems
from openvlt.errors import UserError
from openvlt.types import Problem

ProblemColumns = Mapping[str, np.ndarray]
Selector = Callable[[ProblemColumns], np.ndarray]


def problem_columns(problems: Sequence[Problem]) -> dict[str, np.ndarray]:
    """`level` and every number in the problems' `meta` (pass rate, ...); NaN where a problem has none."""
    numbers = [
        {
            "level": problem.level,
            **{name: value for name, value in problem.meta.items() if isinstance(value, (int, float))},
        }
        for problem in problems
    ]
    names = sorted({name for row in numbers for name in row})
    return {
        name: np.array([np.nan if row.get(name) is None else float(row[name]) for row in numbers])
        for name in names
    }


def keep_between(
    columns: ProblemColumns, *, column: str, low: float = -np.inf, high: float = np.inf
) -> np.ndarray:
    """Problems whose `column` is within [low, high]: OpenVLThinker's medium and hard sets, accuracy bands."""
    value = _column(columns, column)
    return (value >= low) & (value <= high)


def keep_highest(columns: ProblemColumns, *, column: str, amount: int) -> np.ndarray:
    """The `amount` problems with the largest `column`, of equals the first (Temporal-R1: reward variance)."""
    order = np.argsort(-np.nan_to_num(_column(columns, column), nan=-np.inf), kind="stable")
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[:amount]] = True
    return chosen


def _column(columns: ProblemColumns, name: str) -> np.ndarray:
    if name not in columns:
        raise UserError(f"select names column {name!r}; the problems have {sorted(columns)}")
    return columns[name]


def filter_problems(problems: Sequence[Problem], select: Selector | None) -> Sequence[Problem]:
    """The problems that a selector keeps; all of them without one. Raises UserError when it keeps none."""
    if select is None:
        return problems
    kept = np.flatnonzero(select(problem_columns(problems))).tolist()
    if not kept:
        raise UserError(f"select keeps none of {len(problems)} problems; widen its bounds")
    return take_problems(problems, kept)

"""Ids of problems: results are keyed by them, so each occurs once."""

from __future__ import annotations

from collections.abc import Sequence

from openvlt.data.rows.lazy import LazyProblems, problem_ids, row_place, take_problems
from openvlt.errors import UserError
from openvlt.types import Problem


def check_unique_ids(problems: Sequence[Problem], where: str) -> None:
    """Raises UserError when two problems share an id: results are keyed by it."""
    if _are_unique(problems):
        return
    repeated: dict[str, str] = {}
    drop_repeated_ids(problems, repeated)
    for fault in repeated.values():
        raise UserError(f"{where}: {fault.removeprefix(f'{where}: ')}")


def drop_repeated_ids(problems: Sequence[Problem], skipped: dict[str, str]) -> Sequence[Problem]:
    """The first problem of every id; the others are noted in `skipped` (place -> reason)."""
    if _are_unique(problems):
        return problems
    first: dict[str, int] = {}
    ids = problem_ids(problems)
    others = [row for row, name in enumerate(ids) if first.setdefault(name, row) != row]
    count = len({ids[row] for row in others})
    said = f"{count} ids occur more than once" if count > 1 else "it is the only such id"
    for number, row in enumerate(others):
        place, earlier = row_place(problems, row), row_place(problems, first[ids[row]])
        where = f", in {earlier} and in {place}" if place else ""
        skipped[place or f"repeated {number}"] = (
            f"id {ids[row]!r} occurs twice{where} ({said}); give every row its own id"
        )
    return take_problems(problems, list(first.values()))


def _are_unique(problems: Sequence[Problem]) -> bool:
    if isinstance(problems, LazyProblems) and problems.row_index.unique:
        return True
    ids = problem_ids(problems)
    return len(set(ids)) == len(ids)

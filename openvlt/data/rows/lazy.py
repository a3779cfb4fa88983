"""Problems that are made when asked for: of a large file only an index is held in memory.

A list of problems and `LazyProblems` are used alike; the functions here spare a large file what would read
all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import overload
from weakref import WeakValueDictionary

import numpy as np

from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class ProblemIndex:
    """What is known of problems before they are made.

    `open_row(row)` makes one; it raises UserError for a bad row. `digests` are checksums of the rows' texts,
    `place(row)` is what errors call a row. `alive` are those in use, so that a row is one object at a time.
    """

    ids: Sequence[str]
    levels: Sequence[int | None]
    digests: np.ndarray
    open_row: Callable[[int], Problem]
    place: Callable[[int], str]
    alive: WeakValueDictionary[int, Problem] = field(default_factory=WeakValueDictionary, repr=False)

    @cached_property
    def fractions(self) -> np.ndarray:
        """`id_fraction` of every row."""
        return np.fromiter(map(id_fraction, self.ids), np.float64, len(self.ids))

    @cached_property
    def unique(self) -> bool:
        """Whether every id occurs once."""
        return len(set(self.ids)) == len(self.ids)


class LazyProblems(Sequence[Problem]):
    """Some problems of an index, in an order of their own."""

    def __init__(self, index: ProblemIndex, rows: np.ndarray | None = None) -> None:
        self.row_index = index
        self.rows = np.arange(len(index.ids)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Problem: ...

    @overload
    def __getitem__(self, place: slice) -> LazyProblems: ...

    def __getitem__(self, place: int | slice) -> Problem | LazyProblems:
        if isinstance(place, slice):
            return LazyProblems(self.row_index, self.rows[place])
        return self.open_row(int(self.rows[place]))

    def open_row(self, row: int) -> Problem:
        """The problem of a row of the index. Raises UserError for a bad row."""
        problem = self.row_index.alive.get(row)
        if problem is None:
            problem = self.row_index.alive[row] = self.row_index.open_row(row)
        return problem

    def open_first(self, count: int) -> list[Problem]:
        """The first problems, without those whose rows are bad."""
        found = []
        for place in range(min(count, len(self))):
            with contextlib.suppress(UserError):
                found.append(self[place])
        return found

    def find_row(self, problem: Problem) -> int | None:
        """The row of the index that made this very problem; None for any other."""
        return next((row for row, alive in self.row_index.alive.items() if alive is problem), None)

    def place(self, place: int) -> str:
        """What errors call the row of a problem."""
        return self.row_index.place(int(self.rows[place]))

    def digest(self) -> str:
        """A checksum of the problems' rows, pictures in files of their own left out."""
        return hashlib.blake2b(self.row_index.digests[self.rows].tobytes(), digest_size=16).hexdigest()


def problem_ids(problems: Sequence[Problem]) -> list[str]:
    """The id of every problem."""
    if isinstance(problems, LazyProblems):
        return [problems.row_index.ids[row] for row in problems.rows.tolist()]
    return [problem.id for problem in problems]


def problem_levels(problems: Sequence[Problem]) -> list[int | None]:
    """The level of every problem."""
    if isinstance(problems, LazyProblems):
        return [problems.row_index.levels[row] for row in problems.rows.tolist()]
    return [problem.level for problem in problems]


def id_fraction(name: str) -> float:
    """A number in [0, 1) that depends on the id alone: a row keeps its split when others come or go."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 256**6


def find_share(problems: Sequence[Problem], share: tuple[float, float]) -> list[int]:
    """The places of the problems whose ids fall into a share (from, to)."""
    if isinstance(problems, LazyProblems):
        fractions = problems.row_index.fractions[problems.rows]
    else:
        fractions = np.array([id_fraction(problem.id) for problem in problems])
    return np.flatnonzero((share[0] <= fractions) & (fractions < share[1])).tolist()


def row_place(problems: Sequence[Problem], place: int) -> str:
    """What errors call the row of a problem, without its id; "" for a problem of no row."""
    if isinstance(problems, LazyProblems):
        return problems.place(place)
    return problems[place].place.partition(" (id ")[0]


def problem_finder(
    problems: Sequence[Problem],
) -> tuple[Callable[[Problem], int | None], Callable[[int], Problem]]:
    """What finds the row of one of these very problems (None: it is another), and what opens a row."""
    if isinstance(problems, LazyProblems):
        return problems.find_row, problems.open_row
    rows = {id(problem): row for row, problem in enumerate(problems)}
    return lambda problem: rows.get(id(problem)), problems.__getitem__


def take_problems(problems: Sequence[Problem], rows: Sequence[int]) -> Sequence[Problem]:
    """The problems at these places, in this order."""
    if isinstance(problems, LazyProblems):
        return LazyProblems(problems.row_index, problems.rows[np.asarray(rows, dtype=np.int64)])
    return [problems[row] for row in rows]


def name_source(problems: Sequence[Problem], name: str) -> Sequence[Problem]:
    """The problems as part `name` of a mixture: it is their source, and stands before their ids."""

    def rename(problem: Problem) -> Problem:
        return replace(problem, id=f"{name}/{problem.id}", source=name)

    if not isinstance(problems, LazyProblems):
        return [rename(problem) for problem in problems]
    index, ids = problems.row_index, [f"{name}/{each}" for each in problem_ids(problems)]
    return LazyProblems(
        ProblemIndex(
            ids,
            problem_levels(problems),
            index.digests[problems.rows],
            lambda row: rename(problems[row]),
            problems.place,
        )
    )


def check_when_opened(
    problems: LazyProblems, count: int, open_usable: Callable[[Sequence[Problem], int], Problem | None]
) -> LazyProblems:
    """The first problems, each made by `open_usable(problems, place)` when it is asked for.

    Where that gives None, the next good row takes the place of the bad one, so that the number stays.
    """

    def open_row(row: int) -> Problem:
        places = chain(range(row, len(problems)), range(row))
        found = (open_usable(problems, place) for place in places)
        problem = next((each for each in found if each is not None), None)
        if problem is None:
            raise UserError("no row is left: all are bad")
        return problem

    ids, levels = problem_ids(problems), problem_levels(problems)
    index = ProblemIndex(ids, levels, problems.row_index.digests[problems.rows], open_row, problems.place)
    return LazyProblems(index, np.arange(count))


def join_problems(parts: Sequence[Sequence[Problem]]) -> Sequence[Problem]:
    """The problems of all parts, one part after the other."""
    if not any(isinstance(part, LazyProblems) for part in parts):
        return [problem for part in parts for problem in part]
    starts = [0, *accumulate(map(len, parts))]

    def at(row: int) -> tuple[Sequence[Problem], int]:
        number = bisect_right(starts, row) - 1
        return parts[number], row - starts[number]

    def open_row(row: int) -> Problem:
        part, place = at(row)
        return part[place]

    return LazyProblems(
        ProblemIndex(
            [each for part in parts for each in problem_ids(part)],
            [level for part in parts for level in problem_levels(part)],
            np.concatenate([_digests(part) for part in parts]),
            open_row,
            lambda row: row_place(*at(row)),
        )
    )


def _digests(problems: Sequence[Problem]) -> np.ndarray:
    if isinstance(problems, LazyProblems):
        return problems.row_index.digests[problems.rows]
    return np.array([text_digest(repr(problem)) for problem in problems], dtype=np.uint32)


def text_digest(text: str) -> int:
    """A checksum of a text, 32 bits."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))

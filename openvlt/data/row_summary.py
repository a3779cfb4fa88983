"""What a file of rows holds, and what is wrong with it, found by looking at every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from openvlt.data.image_tokens import ImageSize
from openvlt.data.row_check import RowCheck
from openvlt.data.rows.cells import Row, find_cell, list_columns
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.conversations import CONVERSATIONS, find_conversation
from openvlt.data.rows.lazy import LazyProblems, row_place
from openvlt.data.sources.usable import natural_place
from openvlt.errors import UserError
from openvlt.types import Problem

AT_ONCE = 500  # rows that are checked together
EXAMPLES = 3
USUAL_NAMES = {  # of columns that people have; the last part of a dotted name counts
    "question": ("question", "problem", "query", "prompt", "instruction"),
    "answer": ("answer", "solution", "ground_truth", "gold", "label", "response"),
    "images": ("images", "image", "image_path", "file_name", "picture", "img"),
}


@dataclass
class RowSummary:
    """Good rows with their prompts' tokens and pictures' sizes; `bad` rows: place -> reason."""

    ids: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    pictures: int = 0
    with_pictures: int = 0
    smallest: ImageSize | None = None
    largest: ImageSize | None = None
    bad: dict[str, str] = field(default_factory=dict)
    examples: list[Problem] = field(default_factory=list)

    def add_sizes(self, sizes: Sequence[ImageSize]) -> None:
        """Counts the pictures of a row; `smallest` and `largest` are so by their area."""
        self.pictures += len(sizes)
        self.with_pictures += bool(sizes)
        for size in sizes:
            area = size[0] * size[1]
            if self.smallest is None or area < self.smallest[0] * self.smallest[1]:
                self.smallest = size
            if self.largest is None or area > self.largest[0] * self.largest[1]:
                self.largest = size


def summarise_rows(
    problems: Sequence[Problem],
    check: RowCheck,
    unreadable: Mapping[str, str],
    report: Callable[[int, int], None],
) -> RowSummary:
    """Looks at every problem, in the order of the file. `report` is called with how many are done, of all.

    `unreadable` are the rows that no problem could be made of: place -> reason.
    """
    found = RowSummary(bad=dict(unreadable))
    problems, done = _sort_by_place(problems), 0
    for start in range(0, len(problems), AT_ONCE):
        some = list(_open_rows(problems, range(start, min(len(problems), start + AT_ONCE)), found.bad))
        for problem, size in zip(some, check.measure(some), strict=True):
            if isinstance(size, UserError):
                place = problem.place.partition(" (id ")[0]
                found.bad[place] = f"{problem.place}: {str(size).removeprefix(f'row {problem.id!r}: ')}"
                continue
            found.ids.append(problem.id)
            found.tokens.append(size.tokens)
            found.add_sizes(size.images)
            if len(found.examples) < EXAMPLES:
                found.examples.append(problem)
        done = start + AT_ONCE
        report(min(done, len(problems)), len(problems))
    found.bad = {place: found.bad[place] for place in sorted(found.bad, key=natural_place)}
    return found


def _sort_by_place(problems: Sequence[Problem]) -> Sequence[Problem]:
    if isinstance(problems, LazyProblems):
        return LazyProblems(problems.row_index, np.sort(problems.rows))
    return sorted(problems, key=lambda problem: natural_place(problem.place))


def _open_rows(problems: Sequence[Problem], places: range, bad: dict[str, str]) -> Iterator[Problem]:
    for place in places:
        try:
            yield problems[place]
        except UserError as error:
            bad[row_place(problems, place)] = str(error)


# --- columns ------------------------------------------------------------------------------------------------


def guess_columns(columns: Columns, rows: Sequence[Row]) -> Columns:
    """The columns, with those that no row has replaced by one of a usual name, where there is one."""
    there = list(dict.fromkeys(name for row in rows for name in list_columns(row)))
    spoken = any(find_conversation(row, columns.question) is not None for row in rows)
    for role in ("question", "answer", "images"):
        names = columns.image_names() if role == "images" else (getattr(columns, role),)
        if any(find_cell(row, name)[0] for row in rows for name in names):
            continue
        if (spoken and role != "images") or not names:
            continue
        usual = USUAL_NAMES[role]
        fitting = [name for each in usual for name in there if name.rpartition(".")[2].lower() == each]
        if fitting:
            columns = replace(columns, **{role: fitting[0]})
    return columns


def describe_roles(columns: Columns, rows: Sequence[Row]) -> tuple[dict[str, str], list[str]]:
    """Which column holds what (role -> column), and the columns that aren't read."""

    def first(names: Sequence[str]) -> str | None:
        return next((name for name in names if any(find_cell(row, name)[0] for row in rows)), None)

    spoken = any(find_conversation(row, columns.question) is not None for row in rows)
    roles: dict[str, str] = {}
    for role in ("id", "question", "answer", "images", "choices", "answer_type", "level", "turns"):
        value: Any = columns.image_names() if role == "images" else getattr(columns, role)
        if (name := first([value] if isinstance(value, str) else value)) is not None:
            roles[role] = name
    if spoken and "question" not in roles:
        conversation = first(CONVERSATIONS)
        roles["question"] = f"{conversation} (its last user turn; turns before it stay)"
        roles.setdefault("answer", f"{conversation} (its last reply)")
    there = dict.fromkeys(str(name) for row in rows for name in row)
    read = {name.partition(" ")[0].partition(".")[0] for name in roles.values()}
    return roles, [name for name in there if name not in read]

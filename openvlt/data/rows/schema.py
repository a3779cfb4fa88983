"""Rows to problems and back: the only place that fixes what a row holds."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from openvlt.data.errors import MissingColumn
from openvlt.data.images import ImageSource, open_image
from openvlt.data.rows.files import brief, read_rows, unit
from openvlt.data.rows.image_cells import read_image_cell
from openvlt.errors import UserError
from openvlt.types import Problem, Trace

Row = Mapping[str, Any]
_OPTIONAL = ("id", "choices", "answer_type", "level")


@dataclass(frozen=True)
class Columns:
    """Which column of a file holds which field of a problem; the defaults are the fields' own names.

    `images` is a name, a list of alternatives (the first that a row fills counts), or null for data without
    images. An alternative may itself be a list of columns that are read together (`[images, [image_1,
    image_2]]`). A cell holds one image or a list of them: a path relative to the file, encoded bytes,
    `{bytes, path}`, or a PIL image. `choices`, `answer_type` and `level` may be missing from the file, and so
    may `id` (the row's number is taken then).
    """

    id: str = "id"
    question: str = "question"
    answer: str = "answer"
    images: str | Sequence[str | Sequence[str]] | None = "images"
    choices: str = "choices"
    answer_type: str = "answer_type"
    level: str = "level"

    def image_groups(self) -> tuple[tuple[str, ...], ...]:
        """The alternatives for the images, each a tuple of columns that are read together."""
        if self.images is None:
            return ()
        names = [self.images] if isinstance(self.images, str) else self.images
        return tuple((name,) if isinstance(name, str) else tuple(name) for name in names)

    def names(self) -> set[str]:
        """Every column that rows may be read from."""
        plain = {self.id, self.question, self.answer, self.choices, self.answer_type, self.level}
        return plain | {name for group in self.image_groups() for name in group}

    def check(self, there: Collection[str], where: str) -> None:
        """Raises MissingColumn when `there` lacks a field that rows must have, or a name that was set."""
        for field in fields(self):
            value = getattr(self, field.name)
            names = [value]
            if field.name == "images":
                names = [name for group in self.image_groups() for name in group]
            optional = not names or (field.name in _OPTIONAL and value == field.default)
            if not optional and not any(name in there for name in names):
                raise MissingColumn(where, field.name, " or ".join(names), there)


# --- rows to problems ---------------------------------------------------------------------------------------


def to_problem(
    row: Row,
    columns: Columns,
    *,
    root: Path,
    where: str,
    source: str = "",
    default_id: str | None = None,
    anywhere: bool = False,
) -> Problem:
    """The problem of one row.

    Image paths are relative to `root` and must exist, in it or below unless `anywhere`; images are decoded
    later, when used.

    `where` names the row in errors until its id is known; `default_id` is taken where the row has none.
    Raises UserError on a missing column, a wrong type, an empty text or a missing image.
    """
    name = _id(row, columns, where, default_id)
    where = f"{where} (id {name!r})"
    return Problem(
        id=name,
        question=_text(row, columns.question, "question", where),
        answer=_answer(row, columns, where),
        images=_images(row, columns, root, where, anywhere),
        choices=_choices(row, columns, where),
        answer_type=_answer_type(row, columns, where),
        source=source,
        level=_level(row, columns, where),
        place=where,
    )


def to_problems(
    rows: Sequence[tuple[str, str, Row]],
    columns: Columns,
    *,
    root: Path,
    source: str,
    skipped: dict[str, str] | None,
    convert: Callable[[Row], Row] | None = None,
    anywhere: bool = False,
) -> list[Problem]:
    """The problems of (where, default id, row), each row converted first if asked; see `to_problem`.

    A bad row is noted in `skipped` (where -> reason), or raises UserError when that is None.
    """
    problems = []
    for where, default_id, row in rows:
        try:
            row = row if convert is None else _convert(convert, row, where)
            problem = to_problem(
                row,
                columns,
                root=root,
                where=where,
                source=source,
                default_id=default_id,
                anywhere=anywhere,
            )
            problems.append(problem)
        except UserError as error:
            if skipped is None:
                raise
            skipped[where] = str(error)
    return problems


def _convert(convert: Callable[[Row], Row], row: Row, where: str) -> Row:
    try:
        return convert(row)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        fault = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{where}: not a row of this form ({fault}); there are {', '.join(row)}; "
            "mend it or set data.convert"
        ) from error


def _id(row: Row, columns: Columns, where: str, default: str | None) -> str:
    if row.get(columns.id) is None and default is not None:
        return default
    return _text(row, columns.id, "id", where)


def _text(row: Row, column: str, field: str, where: str) -> str:
    """A text or a number as text, not empty. True and false are refused: answers are yes and no."""
    if column not in row:
        raise MissingColumn(where, field, column, list(row))
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: column {column!r} holds {brief(value)}; expected text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: column {column!r} holds {value}; expected text or a finite number")
    if not str(value).strip():
        raise UserError(f"{where}: column {column!r} is empty; give the {field} or remove the row")
    return str(value)


def _answer(row: Row, columns: Columns, where: str) -> str:
    """The answer. A whole number that is none of the choices is refused: it would be an index."""
    answer, choices = _text(row, columns.answer, "answer", where), _choices(row, columns, where)
    if choices and isinstance(row[columns.answer], int) and answer not in choices:
        raise UserError(
            f"{where}: the answer {answer} is none of the choices {brief(list(choices))}; "
            "write the letter or the text of the choice, not its index"
        )
    return answer


def _choices(row: Row, columns: Columns, where: str) -> tuple[str, ...] | None:
    value = row.get(columns.choices)
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise UserError(
            f"{where}: column {columns.choices!r} holds {brief(value)}; expected a list of texts or numbers"
        )
    return tuple(str(item) for item in value)


def _answer_type(row: Row, columns: Columns, where: str) -> str | None:
    value = row.get(columns.answer_type)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: column {columns.answer_type!r} holds {brief(value)}; expected text")
    return value or None


def _level(row: Row, columns: Columns, where: str) -> int | None:
    value = row.get(columns.level)
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise UserError(f"{where}: column {columns.level!r} holds {brief(value)}; expected a whole number")
    return value


def _images(row: Row, columns: Columns, root: Path, where: str, anywhere: bool) -> tuple[ImageSource, ...]:
    groups = [[name for name in group if name in row] for group in columns.image_groups()]
    if groups and not any(groups):
        names = " or ".join(name for group in columns.image_groups() for name in group)
        raise MissingColumn(where, "images", names, list(row))
    for group in groups:
        cells = [read_image_cell(row[name], root, where, anywhere=anywhere) for name in group]
        if images := tuple(image for cell in cells for image in cell):
            return images
    return ()


# --- problems to rows ---------------------------------------------------------------------------------------


def problem_row(problem: Problem, folder: Path) -> dict[str, Any]:
    """The row of data=jsonl for a file in `folder`; images in memory are saved in `folder/images`.

    Paths become relative. Fields that are None (or an empty source) are left out, and so is `meta`.
    """
    row = {
        "id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "images": store_images(problem, folder),
        "choices": None if problem.choices is None else list(problem.choices),
        "answer_type": problem.answer_type,
        "level": problem.level,
        "source": problem.source or None,
    }
    return {name: value for name, value in row.items() if value is not None}


def store_images(problem: Problem, folder: Path) -> list[str]:
    """Writes a problem's images in memory to `folder/images`; returns all paths, relative to `folder`."""
    return [_store_image(image, problem.id, index, folder) for index, image in enumerate(problem.images)]


def _store_image(image: ImageSource, row: str, index: int, folder: Path) -> str:
    """The image's path relative to `folder`. Links are resolved first, since `..` means the real parent."""
    if not isinstance(image, Path):
        name = Path("images") / f"{_file_name(row)}-{index}.png"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        open_image(image, row).save(folder / name)
        return name.as_posix()
    parent = os.path.relpath(os.path.realpath(image.parent), os.path.realpath(folder))
    return (Path(parent) / image.name).as_posix()


def _file_name(row: str) -> str:
    """An id as a file name; one that had to be changed gets a hash, so that two ids never share a file."""
    plain = re.sub(r"[^\w.-]", "_", row)[:100]
    return plain if plain == row else f"{plain}-{hashlib.sha256(row.encode()).hexdigest()[:8]}"


def read_traces(file: Path | str) -> list[Trace]:
    """The traces in a file of `problem_row`s with a `response`; `origin` is the row's or the folder's."""
    file, traces = Path(file), []
    for number, row in read_rows(file):
        where = f"{file}, {unit(file)} {number}"
        response = _text(row, "response", "response", where)
        source = row.get("source") or ""
        # the run that wrote these rows had them from rows whose pictures were checked
        problem = to_problem(row, Columns(), root=file.parent, where=where, source=source, anywhere=True)
        traces.append(Trace(problem, response, row.get("origin") or file.parent.name))
    return traces


def check_unique_ids(problems: Sequence[Problem], where: str) -> None:
    """Raises UserError when two problems share an id: results are keyed by it."""
    ids: set[str] = set()
    for problem in problems:
        if problem.id in ids:
            raise UserError(f"{where}: id {problem.id!r} occurs twice; give every row its own id")
        ids.add(problem.id)

"""Rows to problems and back: the only place that fixes what a row holds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from openvlt import distributed
from openvlt.data.errors import MissingColumn
from openvlt.data.image_places import place_images
from openvlt.data.images import ImageSource, open_image
from openvlt.data.rows.cells import Row, brief, cell_as_text, check_text, find_cell, is_missing, list_columns
from openvlt.data.rows.choices import name_choice, read_choices
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.conversations import read_conversation, read_turn_cell
from openvlt.data.rows.files import read_rows, unit
from openvlt.data.rows.golds import LONGEST_TEXT, read_gold
from openvlt.data.rows.image_cells import read_image_cell
from openvlt.errors import UserError
from openvlt.types import Problem, Trace

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
    later, when used. Marks of images in the texts become places, and the gold answer is read out of tags,
    boxes and solutions.

    `where` names the row in errors until its id is known; `default_id` is taken where the row has none.
    Raises UserError on a missing column, a wrong type, an empty text, an answer that is none of the choices,
    a missing image, or images and marks that differ in number.
    """
    name = row_id(row, columns, where, default_id)
    where = f"{where} (id {name!r})"
    question = cell_as_text(row, columns.question, "question", where)
    answer, choices = _answer(row, columns, where)
    turns = _turns(row, columns, where)
    images = _images(row, columns, root, where, anywhere)
    if columns.images is not None:
        texts = [*(text for _, text in turns), question, *(choices or ())]
        first = [role for role, _ in (*turns, ("user", ""))].index("user")
        with _name_row(where):
            texts, images = place_images(texts, images, first)
        turns = tuple((role, text) for (role, _), text in zip(turns, texts, strict=False))
        question, choices = texts[len(turns)], choices and tuple(texts[len(turns) + 1 :])
    return Problem(
        id=name,
        question=question,
        answer=answer,
        images=images,
        choices=choices,
        answer_type=_answer_type(row, columns, where),
        source=source,
        level=row_level(row, columns, where),
        turns=turns,
        meta=_reply(row, columns, answer),
        place=where,
    )


@contextlib.contextmanager
def _name_row(where: str, join: str = ": ") -> Iterator[None]:
    """Puts the row before the text of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}{join}{error}") from error


def convert_row(convert: Callable[[Row], Row] | None, row: Row, columns: Columns, where: str) -> Row:
    """The row of a conversation, or what `convert` makes of a row.

    Raises UserError that begins with `where`.
    """
    with _name_row(where):
        if convert is None:
            return read_conversation(
                row,
                question=columns.question,
                answer=columns.answer,
                images=columns.image_names(),
                before=columns.turns,
            )
        try:
            return convert(row)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            fault = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"not a row of this form ({fault}); there are {', '.join(list_columns(row))}; "
                "mend it or set data.convert"
            ) from error


def row_id(row: Row, columns: Columns, where: str, default: str | None) -> str:
    """The id of a row; `default` where it has none."""
    if find_cell(row, columns.id)[1] is None and default is not None:
        return default
    return cell_as_text(row, columns.id, "id", where)


def _answer(row: Row, columns: Columns, where: str) -> tuple[str, tuple[str, ...] | None]:
    """The gold answer and the choices. An answer that names none of the choices is refused."""
    text = cell_as_text(row, columns.answer, "answer", where)
    with _name_row(where, f": column {columns.choices!r} "):
        found = read_choices(_choice_cell(row, columns))
    choices, labels = found or (None, ())
    with _name_row(where):
        text = read_gold(text, choices)
        if choices is not None:
            as_text = find_cell(row, columns.answer_type)[1] == "text"
            text = name_choice(find_cell(row, columns.answer)[1], text, choices, labels, as_text)
    return text, choices


def _reply(row: Row, columns: Columns, answer: str) -> dict[str, str]:
    """The whole text that the gold answer was read out of, as `reply`, where it is a response or solution."""
    cell = find_cell(row, columns.answer)[1]
    if not isinstance(cell, str) or cell.strip() == answer:
        return {}
    marked = any(mark in cell for mark in ("</think>", "</answer>"))
    return {"reply": cell} if marked or len(cell.split()) > LONGEST_TEXT else {}


def _choice_cell(row: Row, columns: Columns) -> Any:
    """The cell of the choices; the cells of several columns, or of A, B, ..., as one object."""
    names = columns.choices
    if isinstance(names, str):
        there, cell = find_cell(row, names)
        if there and not is_missing(cell) or names != "choices" or not {"A", "B"} <= row.keys():
            return cell
        names = [letter for letter in ascii_uppercase if letter in row]
        cells = dict(zip(names, (row[name] for name in names), strict=True))
    else:
        cells = dict(zip(ascii_uppercase, (find_cell(row, name)[1] for name in names), strict=False))
    return None if all(map(is_missing, cells.values())) else cells


def _turns(row: Row, columns: Columns, where: str) -> tuple[tuple[str, str], ...]:
    with _name_row(where, f": column {columns.turns!r} "):
        turns = read_turn_cell(find_cell(row, columns.turns)[1])
    for _, text in turns:
        check_text(text, f"{where}: a turn")
    return turns


def _answer_type(row: Row, columns: Columns, where: str) -> str | None:
    value = find_cell(row, columns.answer_type)[1]
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise UserError(f"{where}: column {columns.answer_type!r} holds {brief(value)}; expected text")
    return value


def row_level(row: Row, columns: Columns, where: str) -> int | None:
    """The level of a row, None where it has none. Raises UserError for anything but a whole number."""
    value = find_cell(row, columns.level)[1]
    if is_missing(value):
        return None
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise UserError(f"{where}: column {columns.level!r} holds {brief(value)}; expected a whole number")
    return value


def _images(row: Row, columns: Columns, root: Path, where: str, anywhere: bool) -> tuple[ImageSource, ...]:
    groups = [
        [cell for there, cell in (find_cell(row, name) for name in group) if there]
        for group in columns.image_groups()
    ]
    if groups and not any(groups):
        raise MissingColumn(where, "images", " or ".join(columns.image_names()), list_columns(row))
    for group in groups:
        found = [read_image_cell(cell, root, where, anywhere=anywhere) for cell in group]
        if images := tuple(image for cell in found for image in cell):
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
        "turns": [{"role": role, "content": text} for role, text in problem.turns] or None,
    }
    return {name: value for name, value in row.items() if value is not None}


def store_images(problem: Problem, folder: Path) -> list[str]:
    """Writes a problem's images in memory to `folder/images`; returns all paths, relative to `folder`."""
    return [_store_image(image, problem.id, index, folder) for index, image in enumerate(problem.images)]


def _store_image(image: ImageSource, row: str, index: int, folder: Path) -> str:
    """The image's path relative to `folder`. Links are resolved first, since `..` means the real parent."""
    if not isinstance(image, Path):
        name = Path("images") / f"{_file_name(row)}-{index}.png"
        if distributed.is_main():
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
        response = row.get("response")
        if not isinstance(response, str) or not response.strip():  # else as the model wrote it
            response = cell_as_text(row, "response", "response", where)
        source = row.get("source") or ""
        # the run that wrote these rows had them from rows whose pictures were checked
        problem = to_problem(row, Columns(), root=file.parent, where=where, source=source, anywhere=True)
        traces.append(Trace(problem, response, row.get("origin") or file.parent.name))
    return traces

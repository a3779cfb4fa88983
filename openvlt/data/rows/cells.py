"""Cells of a row: dotted names, lists and objects written as text, and texts that a model can read."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from openvlt.data.errors import MissingColumn
from openvlt.errors import UserError

Row = Mapping[str, Any]

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_LOST_BACKSLASH = re.compile(  # in JSON "\boxed" is a backspace and "oxed", "\times" a tab and "imes"
    "[\x07\x08\x0b\x0c](?=[a-z])|\t(?=imes|heta|ext\\{|frac|riangle)|\r(?=ight|angle|ho\\b)|\n(?=eq\\b|abla)"
)
_NAMES = {"\x07": "a", "\x08": "b", "\t": "t", "\n": "n", "\x0b": "v", "\x0c": "f", "\r": "r"}


def brief(value: Any) -> str:
    """A value and its type for an error message, cut where it is long."""
    text = f"{value!r} ({type(value).__name__})"
    return text if len(text) <= 100 else f"{text[:80]}... ({type(value).__name__})"


def find_cell(row: Row, name: str) -> tuple[bool, Any]:
    """Whether a row has a column, and its cell. A dotted name reads inside of objects (`reward.answer`)."""
    if name in row:
        return True, row[name]
    head, dot, rest = name.partition(".")
    inner = parse_cell(row.get(head)) if dot else None
    return find_cell(inner, rest) if isinstance(inner, Mapping) else (False, None)


def list_columns(row: Row) -> list[str]:
    """The columns of a row; those inside of objects by their dotted names."""
    return [name for column, cell in row.items() for name in _walk_columns(str(column), cell)]


def _walk_columns(name: str, cell: Any) -> Iterator[str]:
    if isinstance(cell, Mapping) and cell and "bytes" not in cell:
        for below, inner in cell.items():
            yield from _walk_columns(f"{name}.{below}", inner)
    else:
        yield name


def parse_cell(cell: Any) -> Any:
    """A cell; a list or an object that is written as text (JSON, or as Python prints it) as what it is."""
    if not isinstance(cell, str) or cell.strip()[:1] + cell.strip()[-1:] not in ("[]", "{}"):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return cell


def is_missing(cell: Any) -> bool:
    """Whether a cell is empty: nothing, an empty text or list, or the NaN that pandas writes."""
    return cell is None or cell in ("", [], {}) or (isinstance(cell, float) and math.isnan(cell))


def cell_as_text(row: Row, column: str, field: str, where: str) -> str:
    """A text or a number as text, not empty. True and false are refused: answers are yes and no."""
    there, value = find_cell(row, column)
    if not there:
        raise MissingColumn(where, field, column, list_columns(row))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: column {column!r} holds {brief(value)}; expected text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: column {column!r} holds {value}; expected text or a finite number")
    if not (text := check_text(str(value), f"{where}: column {column!r}")).strip():
        raise UserError(f"{where}: column {column!r} is empty; give the {field} or remove the row")
    return text


def check_text(text: str, where: str) -> str:
    """The text. Raises UserError for NUL, half a character, or LaTeX whose backslashes JSON has read."""
    if "\0" in text:
        raise UserError(
            f"{where} holds the character NUL (letter {text.index(chr(0)) + 1}); "
            "the file is damaged or no UTF-8 text: write it again"
        )
    if half := _HALF_CHARACTER.search(text):
        raise UserError(
            f"{where} holds half a character (\\u{ord(half[0]):x}, letter {half.start() + 1}), "
            "as a cut emoji leaves it; write the text again"
        )
    if lost := _LOST_BACKSLASH.search(text):
        word = re.match(r"\w*", text[lost.end() :])
        command = _NAMES[lost[0]] + (word[0] if word else "")
        raise UserError(
            f"{where} holds a control character before {command[1:]!r}: \\{command} written with one "
            f"backslash; in JSON write \\\\{command}"
        )
    return text

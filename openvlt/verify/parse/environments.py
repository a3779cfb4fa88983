"""Reads LaTeX environments: matrices with a factor or a transpose, systems of equations and cases."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from openvlt.verify.parse.answer import Group, Matrix, Quantity, Value, Words
from openvlt.verify.parse.expression import Node, Unreadable, exact
from openvlt.verify.parse.normalize import unwrap
from openvlt.verify.parse.quantity import read_quantity

MAX_CELLS, MAX_ROWS = 100, 100
ReadPart = Callable[[str], Value]
"""Reads one cell or row."""
_MATRIX = re.compile(
    r"([^\\\s]?.*?)\\begin\{([pbvBV]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\2\}(.*)", re.DOTALL
)
_KINDS = {"vmatrix": "determinant", "Vmatrix": "norm"}
_TRANSPOSED = re.compile(r"\s*\^\s*\{?\s*(?:T|\\top|\\intercal|\\mathsf\s*\{?\s*T\s*\}?)\s*\}?")
_NAME = re.compile(
    r"^\\?[A-Za-z]{1,3}(?:\^\{?[-\w]{1,3}\}?|_\{?\w\}?|')?(?:\s*\(\s*[A-Za-z]\s*\))?\s*=\s*(?=.{0,40}\\begin)"
)
_ROWS = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr\b")
_SYSTEM = re.compile(r"\\begin\{(cases|aligned|align\*?|gathered|split)\}(.*)\\end\{[a-z*]+\}", re.DOTALL)
_CONDITION = re.compile(
    r"(.+?)\s*(?:[,;]\s*&?|&)\s*(?:(?:if|when|for|where)\b)?\s*(.+)|(.+?)\s+(?:if|when|for|where)\s+(.+)",
    re.DOTALL,
)
_RELATION_SIGN = re.compile(r"[<>=]|\\(?:le|ge|lt|gt|ne|in)|\b(?:otherwise|else)\b")


def read_environment(text: str, read: ReadPart) -> Value:
    """The matrix, system or cases of a text. Raises Unreadable for other environments."""
    text = _NAME.sub("", text)
    text = re.sub(r"^[(\[]\s*(?=\\begin)|(?<=\})\s*[)\]]$", "", text)
    match = _MATRIX.fullmatch(text)
    if match and "\\begin" not in match[3] + match[4]:
        return _read_matrix(match[1].strip(), match[2], match[3], match[4], read)
    match = _SYSTEM.fullmatch(text)
    if match is None or "\\begin" in match[2]:
        raise Unreadable("an unknown environment")
    rows = [row for row in re.split(r"\\\\", match[2]) if row.strip()]
    if len(rows) > MAX_ROWS:
        raise Unreadable("a system of more than 100 rows")
    pieces = [_split_piece(row) for row in rows] if match[1] == "cases" else [None]
    if all(pieces):
        read_pieces = (Group((read(unwrap(a)), read(unwrap(b))), "()") for a, b in filter(None, pieces))
        return Group(tuple(read_pieces), "{}")
    items = tuple(read(unwrap(row.replace("&", " "))) for row in rows)
    if any(isinstance(item, Words) for item in items):
        raise Unreadable("a system with words")
    return Group(items)


def _split_piece(row: str) -> tuple[str, str] | None:
    """The expression and the condition of a row of cases; None for a row of a system."""
    match = _CONDITION.fullmatch(unwrap(row))
    if match is None:
        return None
    value, condition = match[1] or match[3], match[2] or match[4]
    if _RELATION_SIGN.search(value) or not _RELATION_SIGN.search(condition):
        return None
    return value.replace("&", " "), condition.replace("&", " ")


def _read_matrix(before: str, kind: str, body: str, after: str, read: ReadPart) -> Matrix:
    rows = [row.split("&") for row in _ROWS.split(body) if row.strip()]
    if not rows or sum(map(len, rows)) > MAX_CELLS:
        raise Unreadable("a matrix of more than 100 cells")
    cells = tuple(tuple(read(unwrap(cell)) for cell in row) for row in rows)
    if before:
        factor = read_quantity({"-": "-1", "+": "1"}.get(before, before.rstrip("*")), units=False).node
        cells = tuple(tuple(_multiply(factor, cell) for cell in row) for row in cells)
    if _TRANSPOSED.fullmatch(after):
        if len({len(row) for row in cells}) > 1:
            raise Unreadable("a matrix with rows of different lengths")
        return Matrix(tuple(zip(*cells, strict=True)), _KINDS.get(kind, "matrix"))
    if after.strip(" .,"):
        raise Unreadable("something after a matrix")
    return Matrix(cells, _KINDS.get(kind, "matrix"))


def _multiply(factor: Node, cell: Value) -> Value:
    """A cell times the factor before the matrix."""
    if not isinstance(cell, Quantity):
        raise Unreadable("a factor before a matrix of other things than numbers")
    node: Node = ("mul", factor, cell.node)
    value: Fraction | None = exact(node)
    return replace(cell, node=node, value=value, ulp=None)

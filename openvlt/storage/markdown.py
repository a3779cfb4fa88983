"""Numbers as text that people read: Markdown tables and percentages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, aligned: bool = False, rule: str = " --- "
) -> str:
    """A Markdown table, without a line feed at its end. Raises ValueError for a row unlike the header.

    `rule` is one cell of the line below the header. With `aligned`, columns are padded to one width instead:
    the first to the left, the others to the right.
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    if odd := [row for row in cells if len(row) != len(header)]:
        raise ValueError(f"markdown_table: {len(header)} cells are expected in a row, got {odd[0]}")
    if aligned:
        widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        cells = [_pad(row, widths) for row in cells]
        ruler = _line(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    else:
        ruler = f"|{'|'.join([rule] * len(header))}|"
    head, *body = map(_line, cells)
    return "\n".join([head, ruler, *body])


def _pad(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return [cells[0].ljust(widths[0]), *numbers]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def format_percent(share: float) -> str:
    """A share as percent with one decimal, without the sign."""
    return f"{100 * share:.1f}"

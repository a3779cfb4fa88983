"""JSON lines that a kill can't spoil: whole lines count, a half-written last one is ignored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.errors import UserError


def append_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows at the end, one JSON object per line. A half-written last line is cut off first.

    Other ranks than the main one write nothing.
    """
    if not distributed.is_main():
        return
    with file.open("ab") as lines:
        drop_partial_line(file)
        lines.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of all whole lines; [] if the file isn't there.

    Never writes. Raises UserError with the number of a broken line.
    """
    rows = []
    for number, line in enumerate(whole_lines(file) if file.is_file() else (), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{file}, line {number} is not valid JSON ({error}); restore the file") from error
    return rows


def whole_lines(file: Path) -> list[str]:
    """The lines that end in a line feed and aren't blank. Text of a model may hold any other separator."""
    text = file.read_bytes()
    return [line for line in text[: text.rfind(b"\n") + 1].decode("utf-8").split("\n") if line.strip()]


def drop_partial_line(file: Path) -> None:
    """Cuts off a half-written last line; the file is searched from its end."""
    with file.open("r+b") as text:
        size = end = text.seek(0, 2)
        line_feed = -1
        while end > 0 and line_feed < 0:
            begin = text.seek(max(0, end - 65536))
            line_feed, end = text.read(end - begin).rfind(b"\n"), begin
        whole = end + line_feed + 1
        if whole < size:
            text.truncate(whole)

"""JSON lines that a kill at any moment can't spoil: whole lines count, a half-written last one is forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def append_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows at the end, one JSON object per line."""
    with file.open("a", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """All whole rows; none if the file isn't there. A half-written last line is cut off the file, so that appending stays safe.

    Lines end at a line feed only: text that a model wrote may hold any other separator.
    """
    if not file.is_file():
        return []
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        file.write_bytes(whole)
    return [json.loads(line) for line in whole.decode("utf-8").split("\n") if line]

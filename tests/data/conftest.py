"""Small files of rows to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(rows, name)` puts rows into a .jsonl under tmp_path, beside the pictures a.png (red) and b.png (blue)."""
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 6), colour).save(tmp_path / name)

    def _write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    return _write


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A good row; `changes` replace or add fields, None takes one out."""
    plain = {
        "id": f"q{number}",
        "question": f"How many, {number}?",
        "answer": str(number),
        "images": ["a.png"],
    }
    return {name: value for name, value in (plain | changes).items() if value is not None}


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """`make_row(number, **changes)`: see `row`."""
    return row

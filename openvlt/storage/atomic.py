"""Files written whole or not at all: aside first, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_write(file: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields a path beside `file` to write to, which replaces `file` if the block ends without an error.

    A kill leaves at most the file aside, which the next writer overwrites. With `shared` several processes
    may write the same file at once: each has a file aside of its own, and the last one wins.
    """
    number = f".{os.getpid()}" if shared else ""
    aside = file.with_name(f".{file.name}{number}.tmp")
    try:
        yield aside
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Writes a whole text file or nothing, in UTF-8."""
    with atomic_write(file) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(file: Path, value: Any) -> None:
    """Writes a whole JSON file or nothing, indented by two spaces."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

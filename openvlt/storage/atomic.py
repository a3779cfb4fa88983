"""Files written whole or not at all: aside first, then renamed. Of a run's ranks only the main one writes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.errors import UserError


@contextlib.contextmanager
def atomic_write(file: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields a path beside `file` to write to, which replaces `file` if the block ends without an error.

    A kill leaves at most the file aside, which the next writer overwrites. With `shared` several processes
    may write the same file at once: each has a file aside of its own, and the last one wins. What another
    rank than the main one writes goes nowhere.
    """
    if not distributed.is_main():
        yield Path(os.devnull)
        return
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


def write_json(file: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes a whole JSON file or nothing."""
    write_text(file, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json_file(file: Path) -> Any:
    """The value in a JSON file. Raises UserError when the file is missing, cut off or no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing; put it back, or start a new run") from None
    except ValueError as error:
        raise UserError(f"{file} is cut off or damaged ({error}); put it back, or start a new run") from error

"""Files written whole or not at all: aside first, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(file: Path, text: str) -> None:
    """Writes a whole file or nothing."""
    aside = file.with_name(f".{file.name}.tmp")
    aside.write_text(text)
    os.replace(aside, file)


def write_json(file: Path, value: Any) -> None:
    """As `write_text`, indented JSON."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

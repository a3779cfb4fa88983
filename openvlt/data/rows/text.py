"""Text of files of rows: UTF-8 with errors that name the line, and JSON whose keys occur once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from openvlt.errors import UserError

_HEAD = 4096  # bytes: more NULs in them than a quarter are no text
_SAMPLE = 1 << 26  # bytes that an encoding is guessed from


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises UserError that names the line and the likely encoding, and how to convert the file.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise not_utf8(path, f"{error.reason} at byte {error.start}, line {line}") from None
    refuse_nul(path, content)
    return text


def refuse_nul(path: Path, head: bytes) -> None:
    """Raises UserError where the first bytes of a file are NULs in part: it is UTF-16, or no text."""
    if head and 4 * head.count(0, 0, _HEAD) >= len(head[:_HEAD]):
        raise not_utf8(path, "it holds NUL bytes")


def not_utf8(path: Path, fault: str) -> UserError:
    """The error of a file in another encoding, with the likely one and how to convert it."""
    with path.open("rb") as file:
        encoding = _guess_encoding(file.read(_SAMPLE))
    return UserError(
        f"{path} is not UTF-8 text ({fault}); it looks like {encoding}: save it as UTF-8, for example with "
        f"iconv -f {encoding} -t UTF-8 {path.name} > new{path.suffix}"
    )


def _guess_encoding(content: bytes) -> str:
    """UTF-16 by its mark or NUL bytes; GB18030 where letters beyond ASCII are pairs of bytes; else CP1252."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    if b"\0" in content[:_HEAD]:
        return "UTF-16LE" if content[1:2] == b"\0" else "UTF-16BE"
    runs = re.findall(rb"[\x80-\xff]+", content)
    paired = sum(len(run) for run in runs if len(run) % 2 == 0)
    return "GB18030" if paired > 0.8 * sum(map(len, runs)) else "CP1252"


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, also for a key that an object has twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} occurs twice in an object")
    return found


def explain_json(error: ValueError) -> str:
    """Why a text is no JSON that can be used."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg} at column {error.colno})"
    return "a number has too many digits" if "digits" in str(error) else str(error)

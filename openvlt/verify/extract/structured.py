"""Finds answers given in a structure: a field of a JSON object, one value per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from openvlt.verify.parse.answer import Words
from openvlt.verify.parse.reader import read_answer

_FIELDS = (
    re.compile(r"(?:the )?(?:(?:final|correct|my) )?(?:answer|option|choice)"),
    re.compile(r"(?:the )?(?:final )?(?:result|prediction|solution)"),
)
"""Names of answer fields with spaces for `_` and `-`; the second kind counts where the first is missing."""
_BACKSLASH = re.compile(r"\\(?:[\"\\/]|u[0-9a-fA-F]{4})|\\")
_OBJECT = re.compile(r"\{\s{0,9}[\"']")
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
_MOST_OBJECTS = 20

_ITEM = re.compile(r"[ \t]*(?:[-*+•][ \t]+|\(?\d{1,2}[.)][ \t]+)?(.{1,120}?)[ \t]*[,;.]?[ \t]*")


def find_json_answer(text: str) -> str | None:
    """The value of the one answer field of the last JSON object in `text`; None without such a field.

    Numbers keep their digits. Backslashes of LaTeX may be single, quotes may be Python's.
    """
    if "}" not in text or not _OBJECT.search(text):
        return None
    text = _BACKSLASH.sub(lambda m: m.group() if len(m.group()) > 1 else "\\\\", text)
    if '"' not in text:
        text = text.replace("'", '"')
    starts = [match.start() for match in re.finditer(r"\{\s*\"", text)][-_MOST_OBJECTS:]
    end = 0
    found: str | None = None
    for start in starts:
        if start < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        answer = _answer_field(value)
        found = answer if answer is not None else found
    return found


def _answer_field(value: dict[str, Any]) -> str | None:
    """The value of an object's answer fields if they agree, as text."""
    names = {re.sub(r"[\s_-]+|(?<=[a-z])(?=[A-Z])", " ", name.strip()).lower(): name for name in value}
    for pattern in _FIELDS:
        answers = {_as_text(value[name]) for spelt, name in names.items() if pattern.fullmatch(spelt)}
        if answers:
            return answers.pop() if len(answers) == 1 else None
    return None


def _as_text(value: Any) -> str | None:
    """A JSON value as an answer: a list as `1, 2`; None for an object and null."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        items = [_as_text(item) for item in value]
        return ", ".join(item for item in items if item) if all(items) else None
    return value if isinstance(value, str) else None


def join_lines(lines: Iterable[str], *, marked: bool = False) -> str | None:
    """`x = 3, 5` for the lines `- x = 3` and `- 5`: the values before another line; None for fewer than two.

    With `marked` only lines with a bullet or a number count. A line that goes on with `=` is a step.
    """
    values: list[str] = []
    for line in lines:
        if not line.strip():
            continue
        item = _ITEM.fullmatch(line)
        if (
            item is None
            or item[1][0] in "=<>≈+"
            or marked
            and item.start(1) == len(line) - len(line.lstrip())
        ):
            break
        if isinstance(read_answer(item[1]), Words):
            break
        values.append(item[1])
    return ", ".join(values) if len(values) > 1 else None

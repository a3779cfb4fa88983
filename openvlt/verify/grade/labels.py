"""Decides whether two labels may name one thing: `AB` and `BA` do, `AB` and `CD` don't."""

from __future__ import annotations

import re

_DRESS = re.compile(
    r"\\(?:overline|overrightarrow|vec|widehat|hat|mathrm|text|left|right|measuredangle)|[\s{}|$]"
)
_SHAPES = re.compile(r"\\?(?:triangle|angle|odot)|∠|△")
_PARTS = re.compile(r"(\\?[A-Za-z\u4e00-\u9fff]+)(?:_?([A-Za-z0-9]+))?('*(?:\^-1)?)(?:\(([^()]*)\))?")
_TUPLE = re.compile(r"\(([A-Za-z]\w?(?:,[A-Za-z]\w?)+)\)")


def is_same_label(a: str, b: str) -> bool:
    """Whether two labels may name one thing; a missing label, or one in words, agrees with any."""
    a, b = _undress(a), _undress(b)
    if a == b or not a or not b or _is_wording(a) or _is_wording(b):
        return True
    first, second = _PARTS.fullmatch(a), _PARTS.fullmatch(b)
    if first is None or second is None:
        return False
    if first[3] != second[3]:
        return False
    if first[4] and second[4] and _points(first[4]) != _points(second[4]):
        return False
    if first[2] and second[2] and _points(first[2]) != _points(second[2]):
        return False
    if _is_function(first) and not second[4] or _is_function(second) and not first[4]:
        return True  # y and f(x)
    return _points(first[1]) == _points(second[1]) or _is_same_angle(first[1], second[1])


def tuple_order(label: str) -> list[str] | None:
    """The names of a tuple's label, `(x, y)`; None for other labels."""
    match = _TUPLE.fullmatch(_undress(label))
    return match[1].split(",") if match else None


def _undress(label: str) -> str:
    """The label without LaTeX dress and without the word for its shape; `m\\angle A` is A."""
    label = _DRESS.sub("", label)
    return _SHAPES.sub("", re.sub(r"^m(?=\\(?:angle|measuredangle)|∠)", "", label))


def _is_wording(label: str) -> bool:
    """Whether a label is a description such as `Area`, not a symbol."""
    return (
        re.search(r"[a-z]{3}|[\u4e00-\u9fff]", label) is not None and "\\" not in label and "(" not in label
    )


def _points(name: str) -> str:
    """A name whose letters may stand in any order if it is two to four points."""
    return (
        "".join(sorted(name))
        if re.fullmatch("[A-Z]{2,4}", name)
        else name.lower()
        if len(name) == 1
        else name
    )


def _is_same_angle(a: str, b: str) -> bool:
    """Whether one letter is the vertex of an angle of three: B and ABC."""
    short, long = sorted((a, b), key=len)
    return len(short) == 1 and len(long) == 3 and long.isupper() and long[1] == short


def _is_function(parts: re.Match[str]) -> bool:
    """Whether a label is a function of a letter, f(x), which may also be called y."""
    return bool(parts[4]) and len(parts[1]) == 1 and re.fullmatch("[a-z]", parts[4]) is not None

"""Compares named figures: an angle or a segment from its other end, and relations between two of them."""

from __future__ import annotations

import re
from functools import lru_cache

from openvlt.verify.parse.normalize import clean, plain_text

_KINDS = {
    "angle": r"\\angle|\\measuredangle|\bangle\b",
    "triangle": r"\\triangle|\btriangle\b",
    "vector": r"\\(?:overrightarrow|vec)\b|\bvector\b",
    "ray": r"\bray\b",
    "segment": r"\\overline\b|\bsegment\b|\bside\b",
    "line": r"\\overleftrightarrow\b|\bline\b",
}
_FIGURE = re.compile(
    r"\$?\s*(?:(?:the )?(?:line )?("
    + "|".join(f"(?:{signs})" for signs in _KINDS.values())
    + r"))\s*\{?\s*([A-Z]{2,3})\s*\}?\s*\$?"
)
_NAME = re.compile(r"(?<![A-Za-z])[A-Z]{2,3}(?![A-Za-z])")
_RELATIONS = {
    "parallel": r"\\parallel(?![A-Za-z])|\|\||//|\bparallel\b",
    "perpendicular": r"\\perp(?![A-Za-z])|\bperpendicular\b",
    "congruent": r"\\cong(?![A-Za-z])|≅|\bcongruent\b",
    "similar": r"\\sim(?![A-Za-z])|∼|(?<=[A-Z] )~(?= )|\bsimilar\b",
    "equal": r"=",
}
_SIDE = (
    r"(?:\\(?:triangle|angle)\s*|(?:triangle|angle|segment|line|side) )?([A-Z]{2,4}|[a-z])(?![A-Za-z'_^(])"
)
_PATTERNS = {
    name: (
        re.compile(rf"(?<![A-Za-z\\]){_SIDE}\s*(?:(?:is|are) )?(?:{signs})(?: (?:to|with))?\s*{_SIDE}"),
        re.compile(rf"(?<![A-Za-z\\]){_SIDE} and {_SIDE} are (?:{signs})"),
    )
    for name, signs in _RELATIONS.items()
}
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|or|if|unless)\b|n['’]t\b|\\not\b|\\n?either|≠|∦|\\nparallel"
)
_MULTIPLE = re.compile(r"\d|[-+−*/]\s*[\\$A-Z∠]")
_TILDE = re.compile(r"(?<=[A-Z])\s*[~∼]\s*(?=[△∆A-Z]|\\triangle)")
_LONGEST = 160


def compare_figures(gold: str, answer: str) -> bool | None:
    """Whether an answer names the figure, or the relation between two, that the gold names; else None."""
    if len(gold) > 60 or len(answer) > _LONGEST:
        return None
    wanted = _read_figure(gold)
    if wanted is not None:
        return _names_figure(*wanted, answer)
    relation = _read_relation(gold)
    if relation is None:
        return None
    if _DENIED.search(answer):
        return False
    given = _read_relation(answer)
    return None if given is None else _is_same_relation(relation, given)


def is_figure(gold: str) -> bool:
    """Whether a gold names an angle, a segment, a line, a ray or a vector by its points."""
    return len(gold) <= 60 and _read_figure(gold) is not None


@lru_cache(maxsize=1024)
def _read_figure(gold: str) -> tuple[str, str] | None:
    """The kind and the points of a gold that names one figure; None for other golds."""
    match = _FIGURE.fullmatch(plain_text(gold).strip(" .")) if re.search("[A-Z]{2}", gold) else None
    if match is None:
        return None
    kind = next(name for name, signs in _KINDS.items() if re.match(signs, match[1]))
    return (kind, match[2]) if (len(match[2]) == 3) == (kind in ("angle", "triangle")) else None


def _names_figure(kind: str, points: str, answer: str) -> bool | None:
    """Whether an answer names one figure with these points; a vector and a ray begin at their first."""
    named = {name for name in _NAME.findall(plain_text(answer)) if len(name) == len(points)}
    if len(named) != 1 or _DENIED.search(answer) or _MULTIPLE.search(answer):
        return False if named else None
    name = named.pop()
    other = _FIGURE.search(plain_text(answer))
    directed = kind in ("vector", "ray")
    if other and not re.match(_KINDS[kind], other[1]) and (directed or re.match(_DIRECTED, other[1])):
        return False
    if kind == "triangle":
        return sorted(name) == sorted(points)
    return name == points or not directed and name == points[::-1]


_DIRECTED = f"{_KINDS['vector']}|{_KINDS['ray']}"


@lru_cache(maxsize=1024)
def _read_relation(text: str) -> tuple[str, str, str] | None:
    """The relation that a text says two figures have, and the figures; None for other texts."""
    if not re.search(r"[A-Za-z]", text) or re.search(r"\d", text):
        return None
    text = clean(_TILDE.sub(r"\\sim ", text))
    for name, patterns in _PATTERNS.items():
        for pattern in patterns:
            found = pattern.fullmatch(text) or (pattern.search(text) if name != "equal" else None)
            if found and (name != "equal" or len(found[1]) == len(found[2]) == 2):
                return name, found[1], found[2]
    return None


def _is_same_relation(gold: tuple[str, str, str], answer: tuple[str, str, str]) -> bool:
    """Whether two relations are one: sides may be swapped; corresponding points of triangles may not."""
    if gold[0] != answer[0]:
        return False
    if len(gold[1]) != len(gold[2]) or len(answer[1]) != len(answer[2]):
        return False
    if len(gold[1]) <= 2:
        return {_ends(gold[1]), _ends(gold[2])} == {_ends(answer[1]), _ends(answer[2])}
    pairs = set(zip(gold[1], gold[2], strict=True))
    given = set(zip(answer[1], answer[2], strict=True))
    return given == pairs or {(b, a) for a, b in given} == pairs


def _ends(name: str) -> str:
    return "".join(sorted(name))

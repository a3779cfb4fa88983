"""The kinds of value an answer can have. A single number or expression is a `Quantity`."""

from __future__ import annotations

from dataclasses import dataclass

from openvlt.verify.nodes import Node
from openvlt.verify.quantity import Quantity


@dataclass(frozen=True)
class Words:
    """A text that isn't mathematics."""

    text: str


@dataclass(frozen=True)
class Relation:
    """`left op right`; `label` is the left side when it is only a name (x, f(x), S_{ABC}) and `value` what it is
    said to be."""

    op: str
    left: Node | None
    right: Node | None
    label: str = ""
    value: Value | None = None


@dataclass(frozen=True)
class Range:
    """The numbers between `low` and `high` (None: unbounded); `closed` tells which end belongs to it."""

    low: Quantity | None
    high: Quantity | None
    closed: tuple[bool, bool]
    name: str = ""


@dataclass(frozen=True)
class Group:
    """Several values: `brackets` is "()", "[)", "{}", … or "" for a bare list; `joint` is "," or "or" or "u"
    (union)."""

    items: tuple[Value, ...]
    brackets: str = ""
    joint: str = ","


@dataclass(frozen=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Ratio:
    """`2 : 3 : 4`."""

    parts: tuple[Quantity, ...]


Value = Words | Quantity | Relation | Range | Group | Matrix | Ratio

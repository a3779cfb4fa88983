"""The kinds of value an answer can have. A single number or expression is a `Quantity`."""

from __future__ import annotations

import cmath
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from openvlt.verify.parse.expression import Node, Undefined, evaluate, format_expression, symbols
from openvlt.verify.parse.units import Unit


@dataclass(frozen=True)
class Quantity:
    """An expression `node` with its rational `value` if it has one.

    `ulp` is the size of the last written decimal; None for integers, fractions and roots, which are exact.
    `unit` and `noun` are what is counted. `percent` and `magnitude` are a "%" or a word such as "million"
    after the number; `value` doesn't include them. `direction` is the axis and the sign of a word such as
    "increase", `base` that of the digits the number was written in.
    """

    node: Node
    value: Fraction | None
    ulp: Fraction | None = None
    unit: Unit | None = None
    noun: str = ""
    percent: bool = False
    magnitude: int = 1
    direction: tuple[str, int] | None = None
    base: int = 10

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names of the expression's symbols."""
        return symbols(self.node)

    @property
    def is_closed(self) -> bool:
        """Whether the expression has no symbols."""
        return self.value is not None or not self.symbols

    @cached_property
    def floating(self) -> complex | None:
        """The value of an expression without symbols in floats; None where that isn't finite."""
        try:
            value = complex(evaluate(self.node, {}))
        except (Undefined, KeyError, OverflowError):
            return None
        return value if cmath.isfinite(value) else None


@dataclass(frozen=True)
class Words:
    """A text that was not read as mathematics."""

    text: str


@dataclass(frozen=True)
class Relation:
    """`left op right`.

    `label` is the left side if it is only a name (x, f(x), S_{ABC}), and `value` is then the right side.
    `members` are the sides without symbols of an equation or a chain of equations.
    """

    op: str
    left: Node | None
    right: Node | None
    label: str = ""
    value: Value | None = None
    members: tuple[Quantity, ...] = ()


@dataclass(frozen=True)
class Range:
    """The numbers between `low` and `high` (None: unbounded); `closed` is whether each end belongs to it."""

    low: Quantity | None
    high: Quantity | None
    closed: tuple[bool, bool]
    name: str = ""


@dataclass(frozen=True)
class Group:
    """Several values.

    `brackets` is "()", "[)", "{}", "<>", … or "" for a bare list. `joint` is ",", "or", "u" (union) or "-"
    (without).
    """

    items: tuple[Value, ...]
    brackets: str = ""
    joint: str = ","


@dataclass(frozen=True)
class Matrix:
    """Rows of values. `kind` is "matrix", or "determinant" or "norm" for bars around it."""

    rows: tuple[tuple[Value, ...], ...]
    kind: str = "matrix"


@dataclass(frozen=True)
class Ratio:
    """A ratio of two or more numbers: `2 : 3 : 4`."""

    parts: tuple[Quantity, ...]


@dataclass(frozen=True)
class Congruence:
    """The integers with a residue modulo a number."""

    residue: int
    modulus: int
    name: str = ""


Value = Words | Quantity | Relation | Range | Group | Matrix | Ratio | Congruence


def describe_value(value: Value) -> str:
    """A value in a few words, for people."""
    if isinstance(value, Quantity):
        return _describe_quantity(value)
    if isinstance(value, Relation):
        left = value.label or _describe_node(value.left)
        right = _describe_node(value.right) if value.value is None else describe_value(value.value)
        return f"{left} {value.op} {right}"
    if isinstance(value, Range):
        low = "-∞" if value.low is None else describe_value(value.low)
        high = "∞" if value.high is None else describe_value(value.high)
        return f"from {low} ({_ENDS[value.closed[0]]}) to {high} ({_ENDS[value.closed[1]]})"
    if isinstance(value, Group):
        joint = {",": ", ", "or": " or ", "u": " ∪ ", "-": " without "}[value.joint]
        return value.brackets[:1] + joint.join(map(describe_value, value.items)) + value.brackets[1:]
    if isinstance(value, Matrix):
        return f"{value.kind} " + "; ".join(" ".join(map(describe_value, row)) for row in value.rows)
    if isinstance(value, Ratio):
        return " : ".join(map(describe_value, value.parts))
    if isinstance(value, Congruence):
        return f"{value.residue} modulo {value.modulus}"
    return f"the words {value.text!r}"


_ENDS = {True: "with it", False: "without it"}


def _describe_node(node: Node | None) -> str:
    return "…" if node is None else format_expression(node)


def _describe_quantity(value: Quantity) -> str:
    number = str(value.value) if value.value is not None else format_expression(value.node)
    rounding = "" if value.ulp is None else f" (to {value.ulp})"
    unit = (
        ""
        if value.unit is None
        else " × " + " ".join(f"{name}^{exponent}" for name, exponent in value.unit.dims)
    )
    scale = "" if value.unit is None or value.unit.scale == 1 else f" × {float(value.unit.scale):.4g}"
    percent, magnitude = " %" * value.percent, f" × {value.magnitude}" if value.magnitude != 1 else ""
    return f"{number}{percent}{magnitude}{rounding}{scale}{unit}{' ' * bool(value.noun)}{value.noun}"

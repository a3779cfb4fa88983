"""Vectors and matrices: columns, angle brackets and unit vectors are one; a determinant is no matrix."""

from __future__ import annotations

from fractions import Fraction

from openvlt.verify.parse.answer import Group, Matrix, Quantity, Relation, Value
from openvlt.verify.parse.expression import Node, exact

_UNITS: dict[Node, int] = {("const", "i"): 0, ("sym", "i"): 0, ("sym", "j"): 1, ("sym", "k"): 2}


def as_matrix(value: Value) -> Matrix | None:
    """A matrix, also one written as a list of rows (`[[1, 2], [3, 4]]`); None for other values."""
    if isinstance(value, Relation) and value.value is not None:
        return as_matrix(value.value)
    if isinstance(value, Group):
        rows = [row.items for row in value.items if isinstance(row, Group) and row.brackets in ("[]", "()")]
        return Matrix(tuple(rows)) if len(rows) > 1 and len(rows) == len(value.items) else None
    return value if isinstance(value, Matrix) else None


def as_tuple(value: Value, size: int) -> tuple[Value, ...] | None:
    """The components of a vector of `size`: a row, a column, a tuple or a sum of unit vectors; else None."""
    if isinstance(value, Matrix) and value.kind == "matrix":
        if len(value.rows) == 1:
            return value.rows[0]
        return tuple(row[0] for row in value.rows) if all(len(row) == 1 for row in value.rows) else None
    if isinstance(value, Group) and value.brackets in ("()", "[]", "<>") and value.joint == ",":
        return value.items
    return unit_components(value.node, size) if isinstance(value, Quantity) else None


def unit_components(node: Node, size: int) -> tuple[Value, ...] | None:
    """The coefficients of `2i - j + 3k`; None for an expression that isn't a sum of unit vectors."""
    zero: Node = ("num", Fraction(0))
    found = [zero] * size
    terms = node[1:] if node[0] == "add" else (node,)
    for term in terms:
        factors = _factors(term)
        units = [_UNITS[factor] for factor in factors if factor in _UNITS]
        if len(units) != 1 or units[0] >= size or found[units[0]] != zero:
            return None
        found[units[0]] = ("mul", *(factor for factor in factors if factor not in _UNITS))
    if ("sym", "j") not in [factor for term in terms for factor in _factors(term)]:
        return None
    return tuple(Quantity(coefficient, exact(coefficient)) for coefficient in found)


def _factors(term: Node) -> tuple[Node, ...]:
    if term[0] != "mul":
        return (term,)
    return tuple(factor for part in term[1:] for factor in _factors(part))

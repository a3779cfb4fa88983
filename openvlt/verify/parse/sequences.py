"""Lists with an ellipsis: `1, 2, …, 10` is written out, `1, 2, …, n` keeps the pattern of its start."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from openvlt.verify.parse.answer import Quantity, Value, Words

ELLIPSIS = Words("...")
MAX_TERMS_WRITTEN = 100


def write_out(items: tuple[Value, ...]) -> tuple[Value, ...]:
    """The items with what an ellipsis between integers in arithmetic progression stands for."""
    if items.count(ELLIPSIS) != 1:
        return items
    at = items.index(ELLIPSIS)
    head, tail = _values(items[:at]), _values(items[at + 1 :])
    if not head or not tail or len(tail) != 1:
        return items
    step = head[1] - head[0] if len(head) > 1 else Fraction(1)
    if not is_arithmetic(head) or not step or (count := (tail[0] - head[0]) / step).denominator != 1:
        return items
    if not len(head) <= count < MAX_TERMS_WRITTEN:
        return items
    written = [head[0] + index * step for index in range(int(count) + 1)]
    return tuple(Quantity(("num", value), value) for value in written)


def _values(items: Sequence[Value]) -> list[Fraction] | None:
    """The values of items that are all numbers; None for others."""
    values = [item.value for item in items if isinstance(item, Quantity) and item.value is not None]
    return values if len(values) == len(items) else None


def is_arithmetic(values: Sequence[Fraction]) -> bool:
    """Whether each value is the one before it plus the same step."""
    return all(c - b == b - a for a, b, c in zip(values, values[1:], values[2:], strict=False))


def extends_pattern(short: Sequence[Value], long: Sequence[Value]) -> bool:
    """Whether a longer start of a sequence only continues the arithmetic progression of a shorter one."""
    first, second = _values(short), _values(long)
    return first is not None and second is not None and len(first) > 1 and is_arithmetic(second)

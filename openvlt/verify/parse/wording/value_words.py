"""Applies the words that change a value: `half of 24` is 12, `24 squared` is 576, `5 less than 8` is 3.

The tables are closed. A number with another word that may change it (`the digit sum of 24`) is unreadable, so
that no such word is ever dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from openvlt.verify.parse.answer import Quantity
from openvlt.verify.parse.expression import Node, Undefined, Unreadable, exact
from openvlt.verify.parse.number_words import COUNT, read_number_word, read_ordinal

ReadQuantity = Callable[[str], Quantity]
"""Reads an operand; raises Unreadable."""
_LONGEST = 160

_FACTORS = {
    "half": Fraction(1, 2),
    "double": Fraction(2),
    "twice": Fraction(2),
    "triple": Fraction(3),
    "thrice": Fraction(3),
    "quadruple": Fraction(4),
    "dozen": Fraction(12),
    "negative": Fraction(-1),
    "minus": Fraction(-1),
    "opposite": Fraction(-1),
    "additive inverse": Fraction(-1),
}
_EXPONENTS = {
    "square": Fraction(2),
    "cube": Fraction(3),
    "square root": Fraction(1, 2),
    "principal square root": Fraction(1, 2),
    "cube root": Fraction(1, 3),
    "fourth root": Fraction(1, 4),
    "reciprocal": Fraction(-1),
    "inverse": Fraction(-1),
    "multiplicative inverse": Fraction(-1),
}
_CALLS: dict[str, tuple[str, tuple[Node, ...]]] = {
    "factorial": ("factorial", ()),
    "absolute value": ("abs", ()),
    "log": ("log", (("num", Fraction(10)),)),
    "logarithm": ("log", (("num", Fraction(10)),)),
    "natural log": ("ln", ()),
    "natural logarithm": ("ln", ()),
}
_AFTER = {
    "squared": "square",
    "cubed": "cube",
    "doubled": "double",
    "tripled": "triple",
    "quadrupled": "quadruple",
    "halved": "half",
    "factorial": "factorial",
    "dozen": "dozen",
}
"""The name of an operation by the word that stands after its operand."""
_SEVERAL = {
    "sum": "add",
    "product": "mul",
    "difference": "sub",
    "quotient": "div",
    "greatest common divisor": "gcd",
    "greatest common factor": "gcd",
    "highest common factor": "gcd",
    "gcd": "gcd",
    "least common multiple": "lcm",
    "lowest common multiple": "lcm",
    "lcm": "lcm",
    "maximum": "max",
    "minimum": "min",
}
_INFIX = (
    (" plus ", " minus ", " less than ", " more than "),
    (" times ", " multiplied by ", " divided by ", " over "),
    (" raised to the power of ", " to the power of ", " choose "),
)
"""Words between two operands, from the weakest to the strongest."""
_MEASURES = (
    "total|value|number|count|amount|sum total|size|length|width|height|depth|radius|diameter|distance|area|"
    "volume|perimeter|circumference|angle|measure|mass|weight|price|cost|speed|velocity|rate|age|time|"
    "temperature|probability|chance|score|capacity|ratio|slope|duration|population|profit|loss|income|"
    "percentage|average|mean|median|mode|range|maximum|minimum"
)
_NUMBER = rf"(?:[-+$€£¥\\(]{{0,3}}\d|(?:{COUNT})\b)"
_OF = re.compile(
    rf"(?:\b([a-z]+(?: value| total)?)|[\d%)}}]) of (?:the (?:number )?)?{_NUMBER}", re.IGNORECASE
)
_NAMES = "|".join(sorted((*_EXPONENTS, *_CALLS, *_FACTORS), key=len, reverse=True))
_PREFIX = re.compile(rf"(?:the |an? )?({_NAMES}) of (?:the number )?(.+)", re.IGNORECASE)
_DIRECT = re.compile(r"(half|double|twice|triple|thrice|negative|minus) (.+)", re.IGNORECASE)
_SUFFIX = re.compile(rf"(.+?) ?({'|'.join(_AFTER)})", re.IGNORECASE)
_TO_THE = re.compile(r"(.+?) (?:raised )?to the ([a-z0-9-]+)(?: power)?", re.IGNORECASE)
_LISTED = re.compile(rf"(?:the )?({'|'.join(_SEVERAL)}) (?:of|between) (.+)", re.IGNORECASE)
_PART_OF = re.compile(r"(.+?) of (.+)", re.IGNORECASE)
_ANY = re.compile(
    rf"\b(?:{_NAMES}|{'|'.join(_AFTER)}|{'|'.join(_SEVERAL)}|of|to the|plus|less than|more than|times|"
    r"multiplied by|divided by|over|choose|reversed|inverted|negated)\b",
    re.IGNORECASE,
)
_OPERATORS = frozenset(
    word
    for name in (
        *_EXPONENTS,
        *_CALLS,
        *_FACTORS,
        *_AFTER,
        *_SEVERAL,
        *(word for row in _INFIX for word in row),
    )
    for word in name.split()
) | {"of", "reversed", "inverted", "negated"}
_WORD = re.compile(r"[a-z]+")
_CHANGED = re.compile(
    rf"\b(?:half|double|twice|triple|thrice|quadruple) {_NUMBER}|"
    rf"(?<![\w.])\d[\d.,]*\)?\$? (?:{'|'.join(_AFTER)}|reversed|inverted|negated)\b",
    re.IGNORECASE,
)


def changes_value(text: str) -> bool:
    """Whether a word beside a number may change it: `twice 24`, `24 squared`, `the digit sum of 24`."""
    if _CHANGED.search(text):
        return True
    return any(
        match[1] is None or re.fullmatch(_MEASURES, match[1].split()[0], re.IGNORECASE) is None
        for match in _OF.finditer(text)
        if match[1]
        not in ("out", "consists", "and", "or", "is", "are", "because", "set", "base", "coordinates")
    )


def apply_value_words(text: str, read: ReadQuantity) -> Quantity | None:
    """The quantity of a text with words that change a value; None if it has none.

    Raises Unreadable for a word beside a number that the tables don't have.
    """
    is_plain = _OPERATORS.isdisjoint(_WORD.findall(text.lower()))
    if is_plain or len(text) > _LONGEST or not _ANY.search(text) or read_number_word(text) is not None:
        return None
    try:
        found = _apply_words(text, read)
    except (Unreadable, Undefined):
        found = None
    if found is None and changes_value(text):
        raise Unreadable("a word that changes the value is not known")
    return found


def _apply_words(text: str, read: ReadQuantity) -> Quantity | None:
    match = _LISTED.fullmatch(text)
    if match:
        return _combine(_SEVERAL[match[1].lower()], re.split(r",? and |, ", match[2]), read)
    for words in _INFIX:
        at, word = max((text.lower().rfind(word), word) for word in words)
        if at > 0:
            return _join(word.strip(), read(text[:at]), read(text[at + len(word) :]))
    match = _PREFIX.fullmatch(text) or _DIRECT.fullmatch(text)
    if match:
        return _change(match[1].lower(), read(match[2]))
    match = _SUFFIX.fullmatch(text)
    if match:
        return _change(_AFTER[match[2].lower()], read(match[1]))
    match = _TO_THE.fullmatch(text)
    if match and (exponent := read_ordinal(match[2]) or _as_integer(read_number_word(match[2]))) is not None:
        return _raise(read(match[1]), Fraction(exponent))
    match = _PART_OF.fullmatch(text)
    if match:
        measure = re.fullmatch(rf"(?:the |an? )?(?:\w+ )?(?:{_MEASURES})", match[1], re.IGNORECASE)
        return read(match[2]) if measure else _take_part(read(match[1]), read(match[2]))
    return None


def _as_integer(value: Fraction | None) -> int | None:
    return None if value is None or value.denominator != 1 else int(value)


def _change(name: str, operand: Quantity) -> Quantity:
    """The operand after `half`, `square root`, `factorial`, …"""
    if name in _FACTORS:
        return _scale_by(("num", _FACTORS[name]), operand)
    if name in _EXPONENTS:
        return _raise(operand, _EXPONENTS[name])
    function, more = _CALLS[name]
    return _from_node(("call", function, _bare(operand), *more))


def _raise(base: Quantity, exponent: Fraction) -> Quantity:
    node: Node = ("pow", _bare(base), ("num", exponent))
    if exponent == Fraction(1, 2):
        node = ("call", "sqrt", _bare(base))
    elif exponent.denominator % 2 == 1 and exponent.denominator > 1:
        node = ("call", "root", _bare(base), ("num", Fraction(exponent.denominator)))
    return _from_node(node)


def _scale_by(factor: Node, operand: Quantity) -> Quantity:
    """A multiple of a quantity, with its unit."""
    node: Node = ("mul", factor, operand.node)
    return replace(operand, node=node, value=exact(node), ulp=None)


def _take_part(part: Quantity, whole: Quantity) -> Quantity:
    """A fraction or percentage of a quantity; raises Unreadable for other parts (`3 of 24`)."""
    share = _bare(part) if part.percent else part.node
    if part.unit or part.noun or not part.percent and (part.value is None or part.value.denominator == 1):
        raise Unreadable("only a fraction or a percentage is of something")
    return _scale_by(share, whole)


def _bare(operand: Quantity) -> Node:
    """The expression of a number without unit. Raises Unreadable for others."""
    if operand.unit or operand.noun or operand.direction or operand.base != 10:
        raise Unreadable("a word that changes a value beside a unit")
    if operand.percent:
        return ("pct", operand.node)
    return (
        operand.node
        if operand.magnitude == 1
        else ("mul", ("num", Fraction(operand.magnitude)), operand.node)
    )


def _from_node(node: Node) -> Quantity:
    return Quantity(node, exact(node))


def _join(word: str, left: Quantity, right: Quantity) -> Quantity:
    """The quantity of two operands with a word between them."""
    if word in ("less than", "more than"):  # 4 less than 24
        left, right = right, left
    if word in ("plus", "minus", "less than", "more than"):
        unit = left.unit if left.unit == right.unit and left.noun == right.noun else None
        if unit is not None:
            left, right = replace(left, unit=None), replace(right, unit=None)
        minus: Node = ("mul", ("num", Fraction(-1)), _bare(right))
        node: Node = ("add", _bare(left), _bare(right) if word in ("plus", "more than") else minus)
        return replace(_from_node(node), unit=unit)
    if word in ("times", "multiplied by"):
        return _scale_by(_bare(left), right)
    if word in ("divided by", "over"):
        return _scale_by(("pow", _bare(right), ("num", Fraction(-1))), left)
    if word == "choose":
        return _from_node(("call", "binom", _bare(left), _bare(right)))
    return _from_node(("pow", _bare(left), _bare(right)))


def _combine(name: str, operands: list[str], read: ReadQuantity) -> Quantity:
    """The sum, product, greatest common divisor, … of several operands."""
    if not 2 <= len(operands) <= 20:
        raise Unreadable("an operation on one number, or on more than twenty")
    nodes = [_bare(read(operand)) for operand in operands]
    if name in ("add", "mul"):
        return _from_node((name, *nodes))
    if name in ("sub", "div"):
        if len(nodes) != 2:
            raise Unreadable("a difference of more than two numbers")
        other: Node = ("pow", nodes[1], ("num", Fraction(-1)))
        if name == "sub":
            return _from_node(("call", "abs", ("add", nodes[0], ("mul", ("num", Fraction(-1)), nodes[1]))))
        return _from_node(("mul", nodes[0], other))
    return _from_node(("call", name, *nodes))

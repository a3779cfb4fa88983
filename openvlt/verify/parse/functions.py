"""Builds the nodes of powers, functions, selections and finite sums, each bounded before it is built."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from openvlt.verify.parse.expression import Node, Undefined, Unreadable, exact
from openvlt.verify.parse.lexer import FUNCTIONS, RECIPROCALS

if TYPE_CHECKING:
    from openvlt.verify.parse.grammar import Parser

MAX_TERMS, MAX_NODES = 200, 4_000
"""Terms of a finite sum or product, and nodes after it is written out."""
_CLOSING = {"(": ")", "{": "}", "[": "]", "\\{": "\\}"}
_N, _K = r"\{?\s*(\d{1,4})\s*\}?", r"\{?\s*(\d{1,4})\s*\}?"
_SELECTIONS = (  # {}_{10}C_3, 10C3, C(10,3); the total stands first
    re.compile(rf"(?:\{{\s*\}})?[_^]\s*{_N}\s*([CP])\s*_\s*{_K}"),
    re.compile(r"(?<![A-Za-z\d.])(\d{1,4})\s?([CP])\s?_?(\d{1,4})(?![\d.])"),
)
_LETTER_FIRST = (  # C_{10}^{3}, A_{5}^{2}, C(10, 3)
    re.compile(rf"(?<![A-Za-z\\])([CPA])\s*_\s*{_N}\s*\^\s*{_K}"),
    re.compile(r"(?<![A-Za-z\\])([CP])\s*\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)"),
)
_RAISED_FIRST = re.compile(rf"(?<![A-Za-z\\])([CPA])\s*\^\s*{_K}\s*_\s*{_N}")


def respell_selections(text: str) -> str:
    """The text with `\\binom` and `\\perm` for the other notations of combinations and permutations."""
    if not re.search(r"[CPA]", text):
        return text
    for pattern in _SELECTIONS:
        text = pattern.sub(lambda m: _write_selection(m[2], m[1], m[3], m[0]), text)
    for pattern in _LETTER_FIRST:
        text = pattern.sub(lambda m: _write_selection(m[1], m[2], m[3], m[0]), text)
    return _RAISED_FIRST.sub(lambda m: _write_selection(m[1], m[3], m[2], m[0]), text)


def _write_selection(kind: str, total: str, part: str, text: str) -> str:
    if int(part) > int(total):
        return text
    return rf"\{'binom' if kind == 'C' else 'perm'}{{{total}}}{{{part}}}"


def apply_function(name: str, argument: Node, base: Node | None) -> Node:
    """The node of a named function."""
    if base is not None:
        return ("call", "log", argument, base)
    if name in RECIPROCALS:
        return inverse(("call", RECIPROCALS[name], argument))
    return ("call", FUNCTIONS[name], argument)


def negate(node: Node) -> Node:
    """The node of `-node`."""
    return ("num", -node[1]) if node[0] == "num" else ("mul", ("num", Fraction(-1)), node)


def inverse(node: Node) -> Node:
    """The node of `1 / node`."""
    return ("pow", node, ("num", Fraction(-1)))


def raise_power(base: Node, exponent: Node) -> Node:
    """The node of a power; an odd root is real. Raises Unreadable if it would be too large to compute."""
    node = ("pow", base, exponent)
    try:
        value = exact(exponent)
        if exact(node) is None and value is not None and value.denominator % 2 == 1 < value.denominator < 100:
            root = ("call", "root", base, ("num", Fraction(value.denominator)))
            return root if value.numerator == 1 else ("pow", root, ("num", Fraction(value.numerator)))
    except Undefined as error:
        raise Unreadable(str(error)) from error
    return node


def parse_arguments(parser: Parser) -> list[Node]:
    """The arguments of a function between brackets, with commas between them, which never group digits."""
    closer = _CLOSING.get(parser.peek() or "")
    if closer is None:
        raise Unreadable("the arguments of a function stand in brackets")
    parser.take()
    _split_numbers(parser, closer)
    found = [parser.parse_sum()]
    while parser.peek() == ",":
        parser.take()
        found.append(parser.parse_sum())
    parser.take(closer)
    return found


def _split_numbers(parser: Parser, closer: str) -> None:
    """Splits `12,180` into two numbers up to the bracket that closes the arguments."""
    end = parser.at
    while end < len(parser.found) and parser.found[end][1] != closer:
        end += 1
    tokens: list[tuple[str, str]] = []
    for kind, token in parser.found[parser.at : end]:
        parts = token.split(",") if kind == "num" and "{" not in token else [token]
        for index, part in enumerate(parts):
            tokens += [("op", ",")] * bool(index) + [(kind, part.strip())]
    parser.found[parser.at : end] = tokens


def parse_series(parser: Parser, name: str) -> Node:
    """A finite sum or product, written out: `\\sum_{k=1}^{10} k^2`. Raises Unreadable for others."""
    bounds: dict[str, Node] = {}
    letter = ""
    for _ in range(2):
        mark = parser.take("_", "^")
        if mark == "_":
            parser.take("{")
            letter = parser.take()
            parser.take("=")
            bounds[mark] = parser.parse_sum()
            parser.take("}")
        else:
            bounds[mark] = parser.parse_group()
    body = parser.parse_product()
    if len(bounds) < 2 or not letter.isalpha():
        raise Unreadable("a sum without bounds")
    low, high = exact(bounds["_"]), exact(bounds["^"])
    if low is None or high is None or low.denominator != 1 or high.denominator != 1:
        raise Unreadable("a sum whose bounds are no integers")
    count = int(high - low) + 1
    if not 1 <= count <= MAX_TERMS or count * _count_nodes(body) > MAX_NODES:
        raise Unreadable("a sum of no term or of too many")
    terms = [_insert(body, letter, low + index) for index in range(count)]
    return terms[0] if count == 1 else ("add" if name == "sum" else "mul", *terms)


def _count_nodes(node: Node) -> int:
    return 1 + sum(_count_nodes(part) for part in node[1:] if isinstance(part, tuple))


def _insert(node: Node, letter: str, value: Fraction) -> Node:
    """The body of a sum with a number for its index, which may be the letter of a constant."""
    if node in (("sym", letter), ("const", letter)):
        return ("num", value)
    return tuple(_insert(part, letter, value) if isinstance(part, tuple) else part for part in node)

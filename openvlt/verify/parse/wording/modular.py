"""Reads digits in a base (`52_8`) and congruences (`x \\equiv 3 \\pmod 7`)."""

from __future__ import annotations

import re
from fractions import Fraction

from openvlt.verify.parse.answer import Congruence, Quantity
from openvlt.verify.parse.expression import Unreadable

_BASES = {
    name: n
    for n, name in enumerate(
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
        "sixteen".split(),
        2,
    )
} | {"binary": 2, "octal": 8, "decimal": 10, "hex": 16, "hexadecimal": 16}
_BASE = rf"\d{{1,2}}|{'|'.join(sorted(_BASES, key=len, reverse=True))}"
_BASED = re.compile(
    rf"\(?([0-9][0-9A-Fa-f]{{0,199}}|[A-F][0-9A-F]{{1,60}}(?=\)?\s*_\s*\{{?\s*16))\)?\s*(?:_\s*\{{?\s*({_BASE})\s*\}}?|"
    rf"[,(]?\s*(?:in )?(?:base[ -]?({_BASE})|(binary|octal|decimal|hex|hexadecimal))\s*\)?)"
)
_PREFIXED = re.compile(r"(0x[0-9A-F]{1,60}|0b[01]{1,200}|0o[0-7]{1,80})", re.IGNORECASE)
_CONGRUENCE = re.compile(
    r"(?:([A-Za-z])\s*(?:\\equiv|=)\s*)?(-?\d{1,40})\s*,?\s*\(?\s*\\?[pb]?mod(?:ulo)?\s*\{?\s*(\d{1,40})\s*\}?\s*\)?"
)


def read_based(text: str) -> Quantity | None:
    """A number with the base of its digits: `52_8`, `(1011)_2`, `1F in base 16`; None for other texts."""
    prefixed = _PREFIXED.fullmatch(text)
    if prefixed:
        value = Fraction(int(prefixed[1], 0))
        return Quantity(("num", value), value, base={"x": 16, "o": 8, "b": 2}[text[1].lower()])
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    name = match[2] or match[3] or match[4]
    base = int(name) if name.isdecimal() else _BASES[name]
    if not 2 <= base <= 16 or any(int(digit, 16) >= base for digit in match[1]):
        raise Unreadable("a base that doesn't have these digits")
    value = Fraction(int(match[1], base))
    return Quantity(("num", value), value, base=base)


def read_congruence(text: str) -> Congruence | None:
    """A class of residues: `x \\equiv 3 \\pmod 7`, `3 (mod 7)`, `17 mod 5`; None for other texts."""
    match = _CONGRUENCE.fullmatch(text)
    if match is None or int(match[3]) == 0:
        return None
    return Congruence(int(match[2]) % int(match[3]), int(match[3]), match[1] or "")

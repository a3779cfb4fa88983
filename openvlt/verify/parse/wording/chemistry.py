"""Reads chemical formulas and reactions, where case and order count and charges have many spellings."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_LONGEST = 200
_ELEMENTS = (
    "He Li Be Ne Na Mg Al Si Cl Ar Ca Sc Ti Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Zr Nb Mo Tc Ru Rh "
    "Pd Ag Cd In Sn Sb Te Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta Re Os Ir Pt Au Hg Tl "
    "Pb Bi "
    "Po At Rn Fr Ra Ac Th Pa Np Pu Am H B C N O F P S K V Y I W U"
).split()
_ELEMENT = "|".join(_ELEMENTS)
_CAPITALS = frozenset("CO NO HF HI KI KF OH CN HCN KCN KOH HOF NOF".split())
"""Formulas of capital letters alone; any others may name points."""
_ALONE = frozenset("H2 N2 O2 O3 F2 Cl2 Br2 I2 P4 S8".split())
"""Formulas of one element without a charge; any others may be symbols with a subscript."""
_BODY = re.compile(
    rf"(?:\^\d{{1,3}}(?:_\d{{1,3}})?)?(?:(?:{_ELEMENT})(?:[2-9]|[1-9]\d{{1,2}})?|[(\[]|[)\]](?:[1-9]\d?)?)+"
)
_HYDRATE = re.compile(r"(.+?)[.*](\d{0,2})(H2O)")
_CHARGE = re.compile(r"\^?\(?(?:(\d{0,2})([-+])|([-+])(\d{1,2}))\)?$")
_ROMAN = {"I": 1, "II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6, "VII": 7}
_STATE = re.compile(r"\s*\((?:s|l|g|aq|graphite)\)|[↑↓]|\\(?:up|down)arrow")
_ARROW = re.compile(
    r"\s*(?:\\(?:x?(?:long)?rightarrow|to)(?![A-Za-z])(?:\s*\[[^\]]*\])?(?:\s*\{[^{}]*\})?|-{1,2}>|={1,2}>?|→|⟶|"
    r"(?P<both>\\(?:right)?left(?:right)?harpoons|\\rightleftharpoons|\\leftrightarrow|⇌|<=+>|<-+>))\s*"
)
_SIGNS = str.maketrans("−–·⋅•", "--***")


@dataclass(frozen=True)
class Reaction:
    """Amounts of formulas on both sides of an arrow; `both` is whether it points both ways."""

    left: frozenset[tuple[frozenset[str], int]]
    right: frozenset[tuple[frozenset[str], int]]
    both: bool


def read_formula(text: str) -> frozenset[str] | None:
    """Every reading of a formula in one spelling (`Fe3+` may be Fe^{3+} or Fe3^{+}); None for other texts."""
    if len(text) > _LONGEST:
        return None
    text = _STATE.sub("", text).replace("\\cdot", "*").translate(_SIGNS)
    text = re.sub(r"[\s{}$\\_]|\\,|mathrm|text(?=[A-Z{])|ce(?=\{)", "", text)
    roman = re.fullmatch(r"([A-Z][a-z]?)\(?(I{1,3}|IV|VI{0,2})\)", text)
    if roman and roman[1] in _ELEMENTS:
        return frozenset((f"{roman[1]}^{_ROMAN[roman[2]]}+",))
    readings = set()
    match = _CHARGE.search(text)
    if match is None:
        readings.add((text, ""))
    else:
        sign, size = match[2] or match[3], match[1] or match[4] or ""
        before = text[: match.start()]
        if match[0].startswith(("^", "(")) or not size or match[3]:
            readings.add((before, f"{size or 1}{sign}"))
        else:  # NH4+, Fe3+, SO42-
            readings |= {(before + size[:cut], f"{size[cut:] or 1}{sign}") for cut in range(len(size) + 1)}
    return frozenset(f"{body}^{charge}" for body, charge in readings if _is_body(body)) or None


def _is_body(text: str) -> bool:
    """Whether a text is element symbols with counts and matching brackets, perhaps with crystal water."""
    match = _HYDRATE.fullmatch(text)
    if match:
        return _is_body(match[1])
    return (
        _BODY.fullmatch(text) is not None
        and text.count("(") == text.count(")")
        and text.count("[") == text.count("]")
    )


def is_formula(text: str) -> bool:
    """Whether a gold answer is a formula: element symbols with a count or a charge, or in a known order."""
    bare = re.sub(r"[\s{}$\\_^]|mathrm|text", "", text)
    if read_formula(text) is None:
        return False
    letters = re.sub(r"[^A-Za-z]", "", bare)
    if re.search(r"[-+]\d?$", bare) or bare in _CAPITALS | _ALONE:
        return True
    several = letters not in _ELEMENTS
    return several and (
        bool(re.search(r"[A-Za-z)\]]\d", bare)) or len(letters) > 2 and letters != letters.upper()
    )


def read_reaction(text: str) -> Reaction | None:
    """A reaction such as `2H_2 + O_2 \\rightarrow 2H_2O`; None for other texts."""
    if len(text) > _LONGEST:
        return None
    text = text.replace("$", "")
    arrows = list(_ARROW.finditer(text))
    if len(arrows) != 1:
        return None
    left, right = _read_side(text[: arrows[0].start()]), _read_side(text[arrows[0].end() :])
    if left is None or right is None:
        return None
    readings = [reading for formulas, _ in left | right for reading in formulas]
    if not any(not reading.endswith("^") or is_formula(reading[:-1]) for reading in readings):
        return None  # P = N + W
    return Reaction(left, right, arrows[0]["both"] is not None)


def _read_side(text: str) -> frozenset[tuple[frozenset[str], int]] | None:
    amounts: Counter[frozenset[str]] = Counter()
    for part in re.split(r"\s+\+\s*|(?<=[\dA-Za-z)}])\+\s*(?=\d*\s*\\?[A-Za-z])", text.strip()):
        match = re.fullmatch(r"\s*(\d{0,3})\s*(.+?)\s*", part)
        formula = read_formula(match[2]) if match else None
        if match is None or formula is None:
            return None
        amounts[formula] += int(match[1] or 1)
    return frozenset(amounts.items())

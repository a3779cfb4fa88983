"""Finds the separators and operators of a text that stand outside all brackets, and splits the text there."""

from __future__ import annotations

import re

from openvlt.verify.parse.expression import Unreadable

Cut = tuple[int, int, str]
"""Start, end and text of a separator or operator."""
_SCAN = re.compile(
    r"\\[{}]|\\left|\\right|\\(?:langle|rangle|lfloor|rfloor|lceil|rceil)|[()\[\]{}]|[,;]|"
    r"(?<![\\A-Za-z])(?:or|and)(?![A-Za-z])|或者?|和|以及|\\(?:cup|setminus|vee|lor|wedge|land)(?![A-Za-z])|\\(?:approx|"
    r"equiv|sim|leqslant|geqslant|leq?|geq?|lt|gt|neq?|in|cong|implies|(?:Long)?Rightarrow)(?![A-Za-z])|<=|"
    r">=|==|!=|[=<>]|:"
)
_OPENING, _CLOSING = (
    frozenset(("(", "[", "{", "\\{", "\\langle")),
    frozenset((")", "]", "}", "\\}", "\\rangle")),
)


def find_cuts(text: str, *, thousands: bool = True) -> list[Cut]:
    """Every separator and operator outside brackets. Raises Unreadable if the brackets don't match.

    With `thousands` a comma may group digits (1,234), which it cannot do between the brackets of a pair.
    """
    found: list[Cut] = []
    depth = 0
    for match in _SCAN.finditer(text):
        token = match.group()
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
            if depth < 0:
                raise Unreadable("a bracket closes that was never opened")
        elif (
            depth == 0
            and not token.startswith(("\\left", "\\right"))
            and not (thousands and _is_thousands_comma(text, match))
        ):
            found.append((match.start(), match.end(), token))
    if depth:
        raise Unreadable("a bracket isn't closed")
    return found


_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})*$")


def _is_thousands_comma(text: str, match: re.Match[str]) -> bool:
    """Whether a separator is a comma with digits before it, the first not 0, and exactly three after."""
    return (
        match.group() == ","
        and _GROUPED.search(text, max(0, match.start() - 40), match.start()) is not None
        and bool(re.match(r"\d{3}(?!\d)", text[match.end() : match.end() + 4]))
    )


def split_at(text: str, cuts: list[Cut]) -> list[str]:
    """The pieces of a text between cuts."""
    starts = [0, *(end for _, end, _ in cuts)]
    ends = [*(start for start, _, _ in cuts), len(text)]
    return [text[a:b] for a, b in zip(starts, ends, strict=True)]


def strip_brackets(text: str) -> tuple[str, str] | None:
    """The brackets around a whole text and what is inside, `("[)", inside)`; None if there are none."""
    opener = next((o for o in ("\\{", "\\langle", "(", "[", "{") if text.startswith(o)), None)
    closer = next((c for c in ("\\}", "\\rangle", ")", "]", "}") if text.endswith(c)), None)
    if opener is None or closer is None or len(text) < len(opener) + len(closer):
        return None
    depth = 0
    for match in _SCAN.finditer(text):
        depth += (match.group() in _OPENING) - (match.group() in _CLOSING)
        if depth == 0 and match.group() in _CLOSING and match.end() < len(text):
            return None
    return (opener[-1] + closer[-1]).replace("ee", "<>"), text[len(opener) : -len(closer)]

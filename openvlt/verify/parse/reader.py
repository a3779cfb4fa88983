"""Reads an answer text as a typed value: a quantity, relation, range, group, matrix, ratio, or words.

Structure (lists, sets, intervals, relations) is found in the text itself, by one scan that counts brackets;
each leaf is a `Quantity`. `read_answer` never raises: a text that is not mathematics is `Words`.
"""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache

from openvlt.verify.parse.answer import Group, Quantity, Range, Ratio, Relation, Value, Words
from openvlt.verify.parse.environments import read_environment
from openvlt.verify.parse.expression import Node, Undefined, Unreadable, symbols
from openvlt.verify.parse.normalize import MAX_ANSWER_CHARS, clean, unwrap
from openvlt.verify.parse.quantity import read_quantity
from openvlt.verify.parse.separators import Cut, find_cuts, split_at, strip_brackets
from openvlt.verify.parse.sequences import ELLIPSIS, write_out
from openvlt.verify.parse.wording.bounds import read_bound
from openvlt.verify.parse.wording.modular import read_congruence
from openvlt.verify.parse.wording.phrases import read_phrase

MAX_ITEMS, MAX_LEVELS = 100, 6


_OPERATORS = {
    "=": "=",
    "==": "=",
    "\\approx": "~",
    "\\equiv": "=",
    "\\sim": "=",
    "\\cong": "=",
    "\\in": "in",
    "\\Rightarrow": "=>",
    "\\implies": "=>",
    "\\Longrightarrow": "=>",
    "<": "<",
    ">": ">",
    "<=": "<=",
    ">=": ">=",
    "\\le": "<=",
    "\\leq": "<=",
    "\\leqslant": "<=",
    "\\ge": ">=",
    "\\geq": ">=",
    "\\geqslant": ">=",
    "\\lt": "<",
    "\\gt": ">",
    "\\ne": "!=",
    "\\neq": "!=",
    "!=": "!=",
}
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_JOINTS = {
    ",": ",",
    ";": ",",
    "and": ",",
    "和": ",",
    "以及": ",",
    "or": "or",
    "或": "or",
    "或者": "or",
    "\\cup": "u",
    "\\vee": "or",
    "\\lor": "or",
    "\\wedge": ",",
    "\\land": ",",
    "\\setminus": "-",
}
_LABEL = re.compile(
    r"\\?[A-Za-z]+(?:_(?:\w|\{[^{}]{1,20}\}))?'{0,2}(?:\^\{?-1\}?)?(?:\s*\(\s*[A-Za-z0-9,\s\\]{1,12}\))?|"
    r"(?:\\(?:angle|triangle|odot|overline|measuredangle)(?:\s*\d{1,2}(?!\d))?|[A-Z\s{}']|\\?[|]|\bm\b)+|"
    r"\\[dt]?frac\s*\{\s*(?:d|\\partial)\s*\w?\s*\}\s*\{\s*(?:d|\\partial)\s*\w\s*\}|"
    r"[A-Za-z_][A-Za-z_{}()\\ ]{0,40}[\w})]|[\u4e00-\u9fff]{1,12}[A-Za-z]?"
)
_DOTS = re.compile(r"\s*(?:\\[lc]?dots|\.{3})\s*")
_TUPLE_LABEL = re.compile(r"\(\s*[A-Za-z]\w?\s*(?:,\s*[A-Za-z]\w?\s*){1,5}\)")
_POINT = re.compile(r"(?:[Pp]oint\s+)?(?:[A-Z]'?)?\s*(\([^()]*,.*\))")
_KIND = re.compile(
    r"(?:the )?(?:open |closed |half-open )?(?:interval|solution set|set|ordered (?:pair|triple)|pair|point|"
    r"vector|coordinates)(?: of)?\s+(?=[(\[{]|\\[{l])",
    re.IGNORECASE,
)
"""What a bracket holds: `the point (3, 4)`."""
_OUTWARD = re.compile(r"^([\[\]])([^\[\](){}]+)([\[\]])$")
_REALS = re.compile(
    r"(?:[A-Za-z]\s*(?:\\in|∈)\s*)?(?:\\mathbb\s*(?:\{\s*R\s*\}|R\b)|\\R\b|ℝ)(?!\s*[\^_|])(?!\s*\\(?:mid|:))|"
    r"^\W{0,3}(?:(?:the set of )?all\s+)?reals?(?:\s+numbers)?(?=\W{0,3}$|\s+(?:except|but|other than))",
)
_INFINITE = re.compile(r"(?<![A-Za-z\\])inf(?:inity)?(?![A-Za-z])", re.IGNORECASE)
_TRANSPOSED = re.compile(r"^(\([^()]*,[^()]*\)|\[[^\[\]]*,[^\[\]]*\])\s*\^\s*\{?\s*(?:T|\\top)\s*\}?$")
_REMAINDER = re.compile(r"^(\d{1,20})\s*(?:[Rr]|,?\s*(?:with )?(?:a )?remainder(?: of)?|余)\s*(\d{1,20})$")
_EXCEPT = re.compile(
    r"(?<=[)\]])\s*(?:,?\s*(?:except|excluding|without|but not|other than)(?: for)?|\\backslash)\s*"
)
_QUOTED = re.compile(r"^([\"'])([^\"']*\d[^\"']*)\1$")
_BUILDER = re.compile(
    r"\\\{\s*[A-Za-z]\s*(?:\\mid|\||:|\\in\s*\\?(?:R|mathbb\{R\})\s*(?:\\mid|\|))(.*)\\\}", re.DOTALL
)


_WORD, _MOST_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}"), 14
"""A text with more words than the longest number in words is prose."""
_NAMED_SET = re.compile(
    r"\(?((?:[A-Z]'?\s*(?:\\(?:cup|cap|setminus|backslash|triangle)(?![A-Za-z])|-)\s*){1,3}[A-Z]'?)\)?\s*=(?!=)"
)
"""What stands before a set's value: `A \\cup B =`."""
_STRUCTURED = re.compile(r"[=<>;:]|\\(?:cup|in|le|ge|pm)|\bor\b|, ")


def read_answer(text: str, *, units: bool = True) -> Value:
    """The value of an answer text, `Words` if it isn't mathematics. `units=False`: letters are symbols."""
    if len(text) > MAX_ANSWER_CHARS:
        return Words(text[:MAX_ANSWER_CHARS])
    if len(text) > _MOST_WORDS * 4 and len(_WORD.findall(text)) > _MOST_WORDS:
        return Words(clean(text))
    return _read_short(text, units) if len(text) <= 300 else _read(_respell(text), units, 0)


@lru_cache(maxsize=4096)
def _read_short(text: str, units: bool) -> Value:
    return _read(_respell(text), units, 0)


def _respell(text: str) -> str:
    """The cleaned text in usual notation, such as an interval for ]0, 1[ or for all real numbers."""
    if text.isdecimal():
        return text
    if "R" in text or "ℝ" in text or "eal" in text:
        text = _REALS.sub(r"(-\\infty, \\infty)", text)
    text = clean(text)
    text = read_phrase(text) or read_bound(text) or text
    if text[:1].isalpha() and (kind := _KIND.match(text)):
        text = text[kind.end() :]
    if text[:1] == "]" or text[-1:] == "[":
        text = _OUTWARD.sub(lambda m: ("[(")[m[1] == "]"] + m[2] + ("])")[m[3] == "["], text)
    if "inf" in text or "Inf" in text:
        text = _INFINITE.sub(r"\\infty ", text)
    if ")" in text or "]" in text:
        text = _EXCEPT.sub(r" \\setminus ", _TRANSPOSED.sub(r"\1", text))
    if text[:1].isdecimal() and text[-1:].isdecimal():
        text = _REMAINDER.sub(r"(\1, \2)", text)
    return _QUOTED.sub(r"\2", text) if text[:1] in ("'", '"') else text


def _read(text: str, units: bool, level: int) -> Value:
    try:
        if level > MAX_LEVELS:
            raise Unreadable("structures nested more than 6 deep")
        return _read_structure(text, units, level)
    except (Unreadable, Undefined, RecursionError):
        return Words(text)


def _read_structure(text: str, units: bool, level: int) -> Value:
    if not text:
        raise Unreadable("nothing there")
    if text.isdigit():
        return read_quantity(text)
    if "\\begin" in text:
        return read_environment(text, lambda part: _read(part, units, level + 1))
    text = text.lstrip("=:").strip()
    try:
        if not _STRUCTURED.search(text) and text[:1] not in "([{":
            return read_quantity(text, units=units)
    except Unreadable:
        pass
    if "=" in text and (named := _NAMED_SET.match(text)) and text[named.end() :].lstrip()[:1] in ("\\", "{"):
        value = _read(text[named.end() :].strip(), units, level + 1)
        return Relation("=", None, None, "".join(named[1].split()), value)
    cuts = find_cuts(text)
    if len({cut[2] for cut in cuts} & {",", ";"}) == 2:  # p=5, q=2; p=7, q=2
        return _read_group(split_at(text, [cut for cut in cuts if cut[2] == ";"]), "", ",", units, level)
    if "mod" in text and (congruence := read_congruence(text)) is not None:
        return congruence
    for joint in ("u", "-", "or", ","):
        at = [cut for cut in cuts if _JOINTS.get(cut[2]) == joint]
        if at and not (joint == "," and _is_number(text)):
            return _read_group(split_at(text, at), "", joint, units, level)
    if any(cut[2] in _OPERATORS for cut in cuts):
        return _read_relation(text, [cut for cut in cuts if cut[2] in _OPERATORS], units, level)
    if any(cut[2] == ":" for cut in cuts):
        parts = split_at(text, [cut for cut in cuts if cut[2] == ":"])
        return Ratio(tuple(read_quantity(part, units=units) for part in parts))
    return _read_leaf(text, units, level)


def _is_number(text: str) -> bool:
    try:
        return "," in text and " " not in text and read_quantity(text).value is not None
    except Unreadable:
        return False


def _read_leaf(text: str, units: bool, level: int) -> Value:
    """A value without separators outside brackets: a bracketed group, plus-minus, or a single quantity."""
    inner = strip_brackets(text)
    if inner is not None:
        brackets, body = inner
        builder = _BUILDER.fullmatch(text)
        if builder:
            return _read(builder[1].strip(), units, level + 1)
        at = [cut for cut in find_cuts(body, thousands=False) if cut[2] in (",", ";")]
        if at or brackets == "{}":
            return _read_group(split_at(body, at) if body.strip() else [], brackets, ",", units, level)
        if brackets in ("()", "[]") and find_cuts(body):
            return _read_structure(body, units, level + 1)
        if brackets == "[]":
            return _read_group([body], brackets, ",", units, level)
    if "\\pm" in text or "\\mp" in text:
        signs = [text.replace("\\pm", a).replace("\\mp", b) for a, b in (("+", "-"), ("-", "+"))]
        return Group(tuple(read_quantity(side, units=units) for side in signs), "{}", "or")
    if text in ("\\emptyset", "\\varnothing", "\\phi"):
        return Group((), "{}")
    point = _POINT.fullmatch(text)
    if point:
        with contextlib.suppress(Unreadable):
            return read_quantity(text, units=units)
        return _read(point[1], units, level + 1)
    return read_quantity(text, units=units)


def _read_group(pieces: list[str], brackets: str, joint: str, units: bool, level: int) -> Group:
    if len(pieces) > MAX_ITEMS:
        raise Unreadable("a list of more than 100 items")
    items = tuple(
        ELLIPSIS if _DOTS.fullmatch(piece) else _read(unwrap(piece), units, level + 1)
        for piece in pieces
        if piece.strip()
    )
    if not brackets and any(isinstance(item, Words) and item != ELLIPSIS for item in items):
        raise Unreadable("a list with words")
    parts = tuple(part for item in items for part in _flatten(item, brackets, joint))
    return Group(write_out(parts), brackets, joint)


def _flatten(item: Value, brackets: str, joint: str) -> tuple[Value, ...]:
    """The parts that an item adds to its list: `1, 2 or 3` and `0, ±1` are lists of three values."""
    if not isinstance(item, Group) or brackets not in ("", "{}"):
        return (item,)
    plus_minus = item.joint == "or" and item.brackets
    return item.items if joint == "," and plus_minus or joint == "or" and not item.brackets else (item,)


def _read_relation(text: str, cuts: list[Cut], units: bool, level: int) -> Value:
    ops, sides = [_OPERATORS[cut[2]] for cut in cuts], [side.strip() for side in split_at(text, cuts)]
    if ops[-1] == "~" and (len(ops) > 1 or not _LABEL.fullmatch(sides[0])):  # x = 1/3 ≈ 0.33 is 1/3
        ops, sides = ops[:-1], sides[:-1]
        if not ops:
            return _read(unwrap(sides[0]), units, level + 1)
    ops = ["=" if op == "~" else op for op in ops]
    if "=>" in ops:
        return _read(unwrap(sides[-1]), units, level + 1)
    if set(ops) <= {"=", "in"}:
        return _read_equation(ops[-1], sides, units, level)
    if len(ops) == 2 and {op[0] for op in ops} in ({"<"}, {">"}):
        return _read_double(ops, sides)
    if len(ops) != 1:
        raise Unreadable("a chain of mixed relations")
    left, right = (read_quantity(side, units=units) for side in sides)
    for a, b, op in ((left, right, ops[0]), (right, left, _FLIP.get(ops[0], ops[0]))):
        if a.node[0] == "sym" and b.is_closed and op != "!=":
            below = op in ("<", "<=")
            closed = (not below and op == ">=", below and op == "<=")
            return Range(None if below else b, b if below else None, closed, a.node[1])
    return Relation(ops[0], left.node, right.node)


def _read_double(ops: list[str], sides: list[str]) -> Range:
    """The range of a double inequality: `-2 < x <= 1`."""
    low, high = read_quantity(sides[0]), read_quantity(sides[2])
    closed = (ops[0].endswith("="), ops[1].endswith("="))
    if not _LABEL.fullmatch(sides[1]):
        raise Unreadable("a double inequality around an expression")
    if ops[0] in (">", ">="):
        low, high, closed = high, low, (closed[1], closed[0])
    return Range(low, high, closed, sides[1])


def _read_equation(op: str, sides: list[str], units: bool, level: int) -> Value:
    """A labelled value (`x = 3`, `AB = 5 cm`, `f(x) = …`), a computation (`3 + 4 = 7`) or a true equation."""
    value = _read(unwrap(sides[-1]), units, level + 1)
    label = " ".join(sides[0].split())
    if op == "in":
        return _name_range(value, label)
    others = [_read_side(side, units) for side in sides[:-1]]
    left = others[0].node if others[0] is not None and len(others) == 1 else _read_node(sides[0])
    right = value.node if isinstance(value, Quantity) else None
    is_label = (
        left is not None and left[0] == "sym" or _LABEL.fullmatch(label) or _TUPLE_LABEL.fullmatch(label)
    )
    sides_read = (*others[bool(is_label) :], value)
    members = tuple(side for side in sides_read if isinstance(side, Quantity) and side.is_closed)
    if is_label:
        return Relation("=", left, right, label, value, members)
    if isinstance(value, Words):
        raise Unreadable("an equation with an unreadable side")
    if left is not None and symbols(left):
        return Relation("=", left, right, "", None, members)
    if left is not None and right is not None and symbols(right):
        label = sides[-1] if right[0] == "sym" else ""
        return Relation("=", left, right, label, others[0] if label else None, members)
    return Relation("=", left, right, "", value, members) if len(members) > 1 else value


def _read_side(text: str, units: bool) -> Quantity | None:
    with contextlib.suppress(Unreadable):
        return read_quantity(text, units=units)
    return None


def _read_node(text: str) -> Node | None:
    side = _read_side(text, False)
    return None if side is None else side.node


def _name_range(value: Value, name: str) -> Value:
    if isinstance(value, Range):
        return Range(value.low, value.high, value.closed, name)
    return value

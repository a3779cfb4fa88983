"""Gives different spellings of a text one form: Unicode variants, invisible characters, LaTeX wrapping."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_ANSWER_CHARS = 2_000
"""Longest answer text that is read; a final answer is short, so anything longer is no answer."""

_SHORT = 300

# Zero-width, bidirectional, soft-hyphen, byte-order and replacement characters: never part of an answer.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffd\ud800-\udfff]"
)
_CHARS = {
    "−": "-",
    "–": "-",
    "—": "-",
    "‐": "-",
    "‑": "-",
    "‒": "-",
    "―": "-",
    "﹣": "-",
    "➖": "-",
    "×": r"\times ",
    "✕": r"\times ",
    "⋅": r"\cdot ",
    "·": r"\cdot ",
    "∙": r"\cdot ",
    "÷": r"\div ",
    "∕": "/",
    "⁄": "/",
    "≤": r"\le ",
    "≥": r"\ge ",
    "⩽": r"\le ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≡": r"\equiv ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "≈": r"\approx ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "√": r"\sqrt ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "⇒": r"\Rightarrow ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "˚": r"^\circ ",
    "℃": r"^\circ C",
    "℉": r"^\circ F",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "′": "'",
    "″": '"',
    "，": ",",
    "。": ".",
    "、": ",",
    "；": ";",
    "：": ":",
    "∶": ":",
    "ℝ": r"\mathbb{R}",
    "（": "(",
    "）": ")",
    "【": "[",
    "】": "]",
    "％": "%",
    "﹪": "%",
    "＝": "=",
    "｛": "{",
    "｝": "}",
    "￥": "¥",
    "①": "1",
    "②": "2",
    "③": "3",
    "④": "4",
    "⑤": "5",
    "⑥": "6",
    "⑦": "7",
    "⑧": "8",
    "⑨": "9",
    "∆": r"\triangle ",
    "△": r"\triangle ",
    "∠": r"\angle ",
    "⊥": r"\perp ",
    "∥": r"\parallel ",
    "…": "...",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "δ": r"\delta ",
    "θ": r"\theta ",
    "λ": r"\lambda ",
    "μ": r"\mu ",
    "µ": r"\mu ",
    "ρ": r"\rho ",
    "σ": r"\sigma ",
    "τ": r"\tau ",
    "φ": r"\phi ",
    "ϕ": r"\phi ",
    "ω": r"\omega ",
    "Ω": r"\Omega ",
    "ε": r"\epsilon ",
    "η": r"\eta ",
    "\t": " ",
    "\r": "\n",
    "\x0c": " ",
    "\u3000": " ",
    "\u00a0": " ",
}
_SUPERSCRIPTS = {c: str(i) for i, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {"⁻": "-", "⁺": "+", "ⁿ": "n"}
_SUBSCRIPTS = {c: str(i) for i, c in enumerate("₀₁₂₃₄₅₆₇₈₉")}
_VULGAR = {c: unicodedata.normalize("NFKC", c).split("⁄") for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"}
_SUP_RUN = re.compile("[" + "".join(_SUPERSCRIPTS) + "]+")
_SUB_RUN = re.compile("[" + "".join(_SUBSCRIPTS) + "]+")
_TABLE = str.maketrans(
    _CHARS
    | {c: rf"\frac{{{n}}}{{{d}}}" for c, (n, d) in _VULGAR.items()}
    | {chr(0x24B6 + i): chr(0x41 + i) for i in range(26)}  # Ⓐ
    | {chr(0x24D0 + i): chr(0x61 + i) for i in range(26)}
    | {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F) if chr(c) not in _CHARS}
)


# A backslash that was read as an escape somewhere on the way: form feed + "rac" was \frac.
_BROKEN = (
    ("\x0crac", "\\frac"),
    ("\x0cbox", "\\fbox"),
    ("\x08oxed", "\\boxed"),
    ("\x08egin", "\\begin"),
    ("\times", "\\times"),
    ("\text{", "\\text{"),
)


def drop_invisible(text: str) -> str:
    """The text without invisible characters (zero-width, bidirectional, NUL, broken surrogates)."""
    if "\x0c" in text or "\x08" in text or "\t" in text:
        for broken, whole in _BROKEN:
            text = text.replace(broken, whole)
    return text if text.isascii() and text.isprintable() else _INVISIBLE.sub("", text)


def plain_text(text: str) -> str:
    """The text with one spelling for full-width forms, minus signs, superscripts, fractions and Greek."""
    text = drop_invisible(text)
    if text.isascii():
        return text.replace("\r", "\n").replace("\t", " ").replace("\x0c", " ")
    text = _SUP_RUN.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m.group()) + "}", text)
    text = _SUB_RUN.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m.group()) + "}", text)
    return text.translate(_TABLE)


_MATH_PAIR = re.compile(r"(\$\$?)((?:[^$]){1,400}?)\1(?!\d)")
_DELIMITERS = re.compile(
    r"(?<!\\)\\\[|\\\]|\\\(|\\\)|\$\$|\$(?!\s?[\d.])|`+|\*\*|__|\\(?:begin|end)\{(?:equation|align|gather|"
    r"math)\*?\}"
)
_DELIMITER_SIGN = re.compile(r"[\\$`*_]")
_SPACING = re.compile(
    r"(?<!\\)\\[,;:! ]|\\q?quad\b|\\(?:left|right|big|Big|bigg|Bigg|displaystyle|textstyle|limits|hfill|"
    r"hspace\{[^{}]*\})(?![A-Za-z])|~|\\\\(?=\s*$)"
)
_SEGMENT = re.compile(r"\\overline\s*\{\s*([A-Z]{2,3})\s*\}")  # of digits it is a repeating decimal
_THOUSANDS = re.compile(r"\s*\{\s*,\s*\}\s*(?=\d{3})|(?<=\d),\s*\\[!,;]\s*(?=\d{3})")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
_INNER = r"[^{}]*(?:\{[^{}]*\}[^{}]*)*"  # what braces hold, with at most one level of braces in it
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|cal|bb|bfit)|mbox|hbox|operatorname\*?|"
    r"boldsymbol|bm|rm|bf|it|emph|underline|widehat|hat|vec|overrightarrow|ce|mathop|pmb|bold)"
    rf"\s*\{{({_INNER})\}}"
)
_OLD_FONT = re.compile(r"\{\s*\\(?:rm|bf|it|cal)\s+([^{}]*)\}")
_SWITCH = re.compile(
    r"\\(?:(?:rm|bf|it|sf|tt|cal|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge)(?![A-Za-z])|"
    r"(?:text|math)?color\s*(?:\[[^\[\]]*\]\s*)?\{[^{}]*\})"
)
_OVER = re.compile(rf"\{{({_INNER})\\over(?![A-Za-z])({_INNER})\}}")
_CHOOSE = re.compile(rf"\{{({_INNER})\\choose(?![A-Za-z])({_INNER})\}}")
_POWER = re.compile(r"(?<=[\w)}\]])\*\*(?=[\w(\\{-])|(?<=[\w)}\]]) \*\* (?=[\w(\\{-])")  # **bold** isn't one
_BARE_OVER = re.compile(r"([^=$]*)\\over(?![A-Za-z])([^=$]*)")
# 0.333..., 0.1818..., 0.58333...: a cycle after other digits must occur three times (2.718281828... is e).
_CYCLE = re.compile(
    r"(?:(?<!\d)(\d{1,9}\.)(\d{1,6}?)\2+|(\d\.\d{1,12}?)(\d{1,6}?)\4{2,})\s*(?:\.{3}|\\[lc]?dots)"
)


def unwrap(text: str) -> str:
    """The text without math delimiters, emphasis, `\\text{}`, LaTeX spacing and a final full stop."""
    if "~" in text or "{" in text or "\\" in text:
        text = _unwrap_latex(text)
    if "**" in text:
        text = _POWER.sub("^", text)
    if "..." in text or "dots" in text:
        text = _CYCLE.sub(lambda m: f"{m[1] or m[3]}\\overline{{{m[2] or m[4]}}}", text)
    if "$" in text:
        text = _MATH_PAIR.sub(r" \2 ", text)
    if _DELIMITER_SIGN.search(text):
        text = _DELIMITERS.sub(" ", text)
    return " ".join(text.replace("＄", "$").split()).lstrip(" ,;:").rstrip(" .,;:")


def _unwrap_latex(text: str) -> str:
    """A text without spacing, fonts and `\\text{}`, and with `\\frac` for `\\over`."""
    if "," in text:
        text = _THOUSANDS.sub(",", text)
    if "\\overline" in text:
        text = _SEGMENT.sub(r"\1", text)
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub("\\\\", text)
    text = _SPACING.sub(" ", text).replace("\\colon", ":")
    if "\\" not in text:
        return text
    for _ in range(3):
        text, count = _TEXT_COMMAND.subn(r" \1 ", text)
        if not count:
            break
    text = _SWITCH.sub(" ", _OLD_FONT.sub(r" \1 ", text)).replace("\\$", "＄")
    if "\\over" in text:
        text, count = _OVER.subn(r"\\frac{\1}{\2}", text)
        text = text if count else _BARE_OVER.sub(r"\\frac{\1}{\2}", text)
    return _CHOOSE.sub(r"\\binom{\1}{\2}", text) if "\\choose" in text else text


def clean(text: str) -> str:
    """`unwrap(plain_text(text))`, cached for short texts because several rules read the same answer."""
    return _clean_short(text) if len(text) <= _SHORT else unwrap(plain_text(text))


@lru_cache(maxsize=16_384)
def _clean_short(text: str) -> str:
    return unwrap(plain_text(text))


def fold(text: str) -> str:
    """The form in which words are compared: clean, lower case, without article, quotes and brackets."""
    return _fold_short(text) if len(text) <= _SHORT else _fold_text(text)


@lru_cache(maxsize=16_384)
def _fold_short(text: str) -> str:
    return _fold_text(text)


def _fold_text(text: str) -> str:
    text = clean(text).casefold().replace("\\", "").strip("\"'()[]{}")
    text = " ".join(text.split())
    first, _, rest = text.partition(" ")
    return rest if rest and first in ("the", "a", "an") else text


def find_closing_brace(text: str, start: int, limit: int = MAX_ANSWER_CHARS) -> int:
    """Index of the brace that closes the one at `start`; -1 if there is none within `limit` characters."""
    depth = 0
    for index in range(start, min(len(text), start + limit)):
        char = text[index]
        if char == "{" and text[index - 1 : index] != "\\":
            depth += 1
        elif char == "}" and text[index - 1 : index] != "\\":
            depth -= 1
            if depth == 0:
                return index
    return -1

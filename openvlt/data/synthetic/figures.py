"""Generated figures: read three coloured values off a small picture, then add and subtract them.

This is the embedded model's data, and it needs no download. A figure shows one value (0 to 5) for each of
red, green and blue: as bars, as shapes to count, or as digits in a table. Levels 1 to 4 have two to five
operands (a colour may count twice). Colours keep one order in every text (red, green, blue), since finding
values in random order is what a tiny model learns slowest. Every running total is 0 or more.

The splits share no combination of the three values, whatever the kind of figure: a held-out score can't be
memorised.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw

from openvlt.errors import UserError
from openvlt.types import Problem

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220)}
LEVELS = (1, 2, 3, 4)
HIGHEST = 5
DESCRIBE = "Describe the image."

_WHITE, _GREY = (255, 255, 255), (200, 200, 200)
_TERM = re.compile(r"([+-]) (red|green|blue)")
_VALUE = re.compile(r"(red|green|blue)=(\d+)")
# Digits of 3 x 5 pixels, row by row: drawn by hand, so that pictures depend on no installed font.
_GLYPHS = (
    ("###", "#.#", "#.#", "#.#", "###"),
    (".#.", "##.", ".#.", ".#.", "###"),
    ("###", "..#", "###", "#..", "###"),
    ("###", "..#", ".##", "..#", "###"),
    ("#.#", "#.#", "###", "..#", "..#"),
    ("###", "#..", "###", "..#", "###"),
)


# --- values and splits --------------------------------------------------------------------------------------


@cache
def combinations(split: str, highest: int = HIGHEST) -> tuple[tuple[int, ...], ...]:
    """The (red, green, blue) values of one split, up to `highest`. They are the same on every machine.

    A fifth of all combinations is `val`, another fifth `test`, the rest `train`.
    """
    everything = itertools.product(range(highest + 1), repeat=len(COLOURS))
    ordered = sorted(everything, key=lambda values: hashlib.sha256(repr(values).encode()).digest())
    fifth = len(ordered) // 5
    cuts = {"test": slice(0, fifth), "val": slice(fifth, 2 * fifth), "train": slice(2 * fifth, None)}
    if split not in cuts:
        raise UserError(f"split is {split!r}; it is one of {sorted(cuts)}")
    return tuple(ordered[cuts[split]])


# --- pictures -----------------------------------------------------------------------------------------------


def _bars(draw: ImageDraw.ImageDraw, size: int, values: Mapping[str, int], rng: random.Random) -> None:
    width, unit = size // 3, (size - 4) / HIGHEST
    for step in range(1, HIGHEST, 2):
        y = size - 1 - round(step * unit)
        draw.line([0, y, size, y], fill=_GREY)
    for column, name in enumerate(values):
        left = column * width + rng.randint(1, 4)
        if values[name]:
            draw.rectangle(
                [left, size - 1 - round(values[name] * unit), left + width - 6, size - 1], fill=COLOURS[name]
            )


def _shapes(draw: ImageDraw.ImageDraw, size: int, values: Mapping[str, int], rng: random.Random) -> None:
    """Shapes to count, stacked by colour (a pictograph)."""
    width, cell = size // 3, size // HIGHEST
    radius = cell // 2 - 1
    for column, (name, count) in enumerate(values.items()):
        outline = rng.choice((draw.ellipse, draw.rectangle))
        for place in range(count):
            x = column * width + width // 2 + rng.randint(-3, 3)
            y = size - 1 - place * cell - cell // 2
            outline([x - radius, y - radius, x + radius, y + radius], fill=COLOURS[name])


def _table(draw: ImageDraw.ImageDraw, size: int, values: Mapping[str, int], rng: random.Random) -> None:
    width, header, pixel = size // 3, size // 3, size // 14
    for column, name in enumerate(values):
        left = column * width
        draw.rectangle([left, 0, left + width - 1, header], fill=COLOURS[name])
        draw.rectangle([left, header, left + width - 1, size - 1], outline=_GREY)
        left += (width - 3 * pixel) // 2 + rng.randint(-1, 1)
        top = header + (size - header - 5 * pixel) // 2 + rng.randint(-2, 2)
        for row, line in enumerate(_GLYPHS[values[name]]):
            for place in (place for place, mark in enumerate(line) if mark == "#"):
                x, y = left + place * pixel, top + row * pixel
                draw.rectangle([x, y, x + pixel - 1, y + pixel - 1], fill=(0, 0, 0))


_DRAWINGS: dict[str, Callable[[ImageDraw.ImageDraw, int, Mapping[str, int], random.Random], None]] = {
    "bars": _bars,
    "shapes": _shapes,
    "table": _table,
}
KINDS = tuple(_DRAWINGS)


def draw_figure(kind: str, values: Mapping[str, int], rng: random.Random, size: int = 56) -> Image.Image:
    """An RGB picture of `size` x `size` pixels.

    `rng` decides what the values leave open: outlines and small shifts.
    """
    image = Image.new("RGB", (size, size), _WHITE)
    _DRAWINGS[kind](ImageDraw.Draw(image), size, values, rng)
    return image


@dataclass(frozen=True)
class FigureStyle:
    """How values are shown: the kinds of picture, the highest value, and `draw(kind, values, rng, size)`."""

    name: str
    kinds: tuple[str, ...]
    highest: int
    draw: Callable[[str, Mapping[str, int], random.Random, int], Image.Image]


FIGURES = FigureStyle("figures", KINDS, HIGHEST, draw_figure)


# --- texts --------------------------------------------------------------------------------------------------


def caption(values: Mapping[str, int]) -> str:
    """The values as a caption gives them: `red=3, green=5, blue=2`."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def parse_caption(text: str) -> dict[str, int] | None:
    """The values in a caption, or None unless each colour occurs exactly once."""
    found = _VALUE.findall(text)
    if sorted(name for name, _ in found) != sorted(COLOURS):
        return None
    return {name: int(value) for name, value in found}


def parse_question(question: str) -> list[tuple[str, str]] | None:
    """The (sign, colour) terms of a question about a figure, or None for any other text."""
    stem = "What is "
    if not question.startswith(stem):
        return None
    return _TERM.findall(f"+ {question.removeprefix(stem)}") or None


def solve_question(values: Mapping[str, int], question: str) -> tuple[str, int]:
    """The equations (`3+5=8, 8-2=6`) and the result.

    Raises ValueError unless the question is about a figure.
    """
    return solve_terms([(sign, values[name]) for sign, name in _terms(question)])


def solve_terms(terms: Sequence[tuple[str, int]]) -> tuple[str, int]:
    """Equations for signed numbers, from left to right, and the result; the first sign is taken to be +."""
    total, lines = terms[0][1], []
    for sign, number in terms[1:]:
        result = total + number if sign == "+" else total - number
        lines.append(f"{total}{sign}{number}={result}")
        total = result
    return ", ".join(lines), total


def needed_values(values: Mapping[str, int], question: str) -> str:
    """The values that a question needs, in its order (`red=3, blue=2`).

    Raises ValueError as `solve_question` does.
    """
    return ", ".join(f"{name}={values[name]}" for _, name in _terms(question))


def _terms(question: str) -> list[tuple[str, str]]:
    terms = parse_question(question)
    if terms is None:
        raise ValueError(f"not a question about figures: {question!r}")
    return terms


def _question(level: int, rng: random.Random) -> str:
    """`level` + 1 operands in colour order; colours that count twice come last, in that order again."""
    names = list(COLOURS)
    if level == 1 or (level == 2 and rng.random() < 0.5):
        names.remove(rng.choice(names))
    again = rng.sample(range(len(names)), level + 1 - len(names))
    names += [names[place] for place in sorted(again)]
    return f"What is {names[0]}" + "".join(f" {rng.choice('+-')} {name}" for name in names[1:]) + "?"


# --- problems -----------------------------------------------------------------------------------------------


def sample_question(level: int, split: str, rng: random.Random, highest: int) -> tuple[dict[str, int], str]:
    """Values of the split and a question about them whose running totals are 0 or more."""
    while True:
        values = dict(zip(COLOURS, rng.choice(combinations(split, highest)), strict=True))
        question = _question(level, rng)
        if "=-" not in solve_question(values, question)[0]:
            return values, question


def generate_figures(
    amount: int,
    *,
    split: str,
    seed: int,
    kinds: Sequence[str] = KINDS,
    levels: Sequence[int] = LEVELS,
    size: int = 56,
    style: FigureStyle = FIGURES,
) -> list[Problem]:
    """`amount` problems, kinds and levels in turn (repeat a level to weigh it).

    Equal arguments give equal problems.

    In `val` and `test` no (kind, values, question) occurs twice; asking for more than there are raises
    UserError.
    """
    for got, known, what in ((kinds, style.kinds, "kind"), (levels, LEVELS, "level")):
        if not got or set(got) - set(known):
            raise UserError(f"{style.name}: {what}s are {list(got)}; choose from {list(known)}")
    turns = list(itertools.product(levels, kinds))
    problems, taken = [], set()
    for index in range(amount):
        rng = random.Random(f"{split}/{seed}/{index}")
        level, kind = turns[index % len(turns)]
        for _ in range(1000):
            values, question = sample_question(level, split, rng, style.highest)
            key = (kind, *values.values(), question)
            if split == "train" or key not in taken:
                break
        else:
            raise UserError(
                f"{style.name}: {amount} {split} problems of {kind}, level {level}: there aren't that many; "
                "ask for less"
            )
        taken.add(key)
        image = style.draw(kind, values, rng, size)
        problems.append(_problem(f"{split}-{seed}-{index}", kind, level, values, question, image, style.name))
    return problems


def _problem(
    name: str, kind: str, level: int, values: dict[str, int], question: str, image: Image.Image, source: str
) -> Problem:
    equations, result = solve_question(values, question)
    return Problem(
        id=f"{source}-{name}-{kind}-{level}",
        question=question,
        answer=str(result),
        images=(image,),
        answer_type="integer",
        source=source,
        level=level,
        meta={"kind": kind, "values": values, "caption": caption(values), "equations": equations},
    )

"""Real handwriting: scikit-learn's 1,797 scanned digits, three to a picture, tinted red, green and blue.

Questions, equations and pretraining are those of figures, with values from 0 to 9 (sums up to 45). The splits
share neither a combination of values nor a single scan. Each colour has a quadrant of its own, in reading
order; the last one stays empty.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from PIL import Image

from openvlt.data.synthetic.figures import COLOURS, FigureStyle
from openvlt.errors import UserError

HIGHEST_DIGIT = 9
KIND = "digits"
DIGIT_MIX = (0.45, 0.25, 0.30)  # ten digits make six times as many sums to learn as figures' six values
_INK = 16  # load_digits gives 0 (paper) to 16


@cache
def _scans() -> Any:
    """scikit-learn's `images` (1797, 8, 8) and `target` (1797)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("data=digits needs the package scikit-learn; run: pip install scikit-learn") from None
    return load_digits()


@cache
def digit_scans(split: str) -> dict[int, tuple[int, ...]]:
    """Digit -> rows of its scans in one split: a fifth each for `val` and `test`, always the same."""
    rows: dict[int, list[int]] = {digit: [] for digit in range(HIGHEST_DIGIT + 1)}
    for row, digit in enumerate(_scans().target.tolist()):
        rows[digit].append(row)
    places = {"test": (0, 1), "val": (1, 2), "train": (2, 5)}
    if split not in places:
        raise UserError(f"split is {split!r}; it is one of {sorted(places)}")
    chosen = {}
    for digit, numbers in rows.items():
        ordered = sorted(numbers, key=lambda row: hashlib.sha256(f"digit {row}".encode()).digest())
        first, last = (place * len(ordered) // 5 for place in places[split])
        chosen[digit] = tuple(ordered[first:last])
    return chosen


def draw_digits(
    split: str, kind: str, values: Mapping[str, int], rng: random.Random, size: int = 56
) -> Image.Image:
    """An RGB picture of `size` x `size` pixels: one scan of the split per value, at places drawn by `rng`."""
    page, cell = Image.new("RGB", (size, size), "white"), size // 2
    side = cell * 6 // 7
    for quadrant, (name, value) in enumerate(values.items()):
        scan = _scans().images[rng.choice(digit_scans(split)[value])]
        ink = Image.fromarray((scan * (255 / _INK)).astype("uint8")).resize(
            (side, side), Image.Resampling.BILINEAR
        )
        left, top = (place * cell + rng.randint(0, cell - side) for place in (quadrant % 2, quadrant // 2))
        page.paste(COLOURS[name], (left, top), ink)
    return page


def digit_style(split: str) -> FigureStyle:
    """Pictures with the scans of one split, and values from 0 to 9."""
    return FigureStyle("digits", (KIND,), HIGHEST_DIGIT, partial(draw_digits, split))

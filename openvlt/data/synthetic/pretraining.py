"""Pretraining of the embedded base model: see coloured values, calculate, reason about values given in words.

It never sees an answer to a question about a picture: putting the skills together is left to SFT and GRPO.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from PIL import Image

from openvlt.data.synthetic.figures import (
    DESCRIBE,
    FIGURES,
    KINDS,
    LEVELS,
    FigureStyle,
    caption,
    needed_values,
    sample_question,
    solve_question,
    solve_terms,
)
from openvlt.types import Problem

MIX = (0.52, 0.13, 0.35)


def _arithmetic_task(rng: random.Random, highest: int) -> tuple[str, str]:
    """Four to six small numbers to add and subtract step by step; no total exceeds the hardest question's."""
    while True:
        terms = [("+", rng.randint(0, 3 * highest))]
        terms += [(rng.choice("+-"), rng.randint(0, highest)) for _ in range(rng.randint(3, 5))]
        totals = list(itertools.accumulate(number if sign == "+" else -number for sign, number in terms))
        if min(totals) >= 0 and max(totals) <= (max(LEVELS) + 1) * highest:
            expression = str(terms[0][1]) + "".join(f" {sign} {number}" for sign, number in terms[1:])
            return f"Work out {expression}.", f"So {solve_terms(terms)[0]}."


def _algebra_task(rng: random.Random, highest: int) -> tuple[str, str]:
    """Values given in words, a question about them, and a full chain of thought with the answer."""
    values, question = sample_question(rng.choice(LEVELS), "train", rng, highest)
    equations, result = solve_question(values, question)
    thought = f"I see {needed_values(values, question)}. So {equations}."
    return f"{caption(values)}. {question}", f"<think>{thought}</think><answer>{result}</answer>"


def _caption_task(
    rng: random.Random, kinds: Sequence[str], size: int, style: FigureStyle
) -> tuple[str, str, Image.Image]:
    """A picture to describe, or a question about one; its response lists the values needed, no answer."""
    kind = rng.choice(list(kinds))
    values, question = sample_question(rng.choice(LEVELS), "train", rng, style.highest)
    image = style.draw(kind, values, rng, size)
    if rng.random() < 0.25:
        return DESCRIBE, caption(values), image
    return question, f"I see {needed_values(values, question)}.", image


def generate_pretraining(
    amount: int,
    *,
    seed: int,
    kinds: Sequence[str] = KINDS,
    mix: tuple[float, float, float] = MIX,
    size: int = 56,
    style: FigureStyle = FIGURES,
) -> Iterator[tuple[Problem, str]]:
    """(problem, response) pairs that teach to see and to calculate, not to answer questions about a picture.

    `mix` weighs captions of pictures, bare arithmetic, and arithmetic on values named in the text; only the
    first have a picture. Only `train` values occur in pictures.
    """
    for index in range(amount):
        rng = random.Random(f"pretraining/{seed}/{index}")
        task = rng.choices(("caption", "arithmetic", "algebra"), mix)[0]
        images: tuple[Image.Image, ...] = ()
        if task == "caption":
            question, response, image = _caption_task(rng, kinds, size, style)
            images = (image,)
        elif task == "arithmetic":
            question, response = _arithmetic_task(rng, style.highest)
        else:
            question, response = _algebra_task(rng, style.highest)
        name, meta = f"pretraining-{seed}-{index}", {"task": task}
        yield Problem(name, question, "", images, source="pretraining", meta=meta), response

"""What the embedded base model is pretrained on: to see coloured values, to calculate, and to reason about values named in words.

It is never shown an answer to a question about a picture: putting the skills together is left to SFT and GRPO.
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
    chain,
    draft,
    reading,
    work,
)
from openvlt.types import Problem

MIX = (0.52, 0.13, 0.35)


def _arithmetic(rng: random.Random, highest: int) -> tuple[str, str]:
    """A bare expression of four to six small numbers, worked step by step; totals stay within those of the hardest question."""
    while True:
        terms = [("+", rng.randint(0, 3 * highest))]
        terms += [(rng.choice("+-"), rng.randint(0, highest)) for _ in range(rng.randint(3, 5))]
        totals = list(itertools.accumulate(number if sign == "+" else -number for sign, number in terms))
        if min(totals) >= 0 and max(totals) <= (max(LEVELS) + 1) * highest:
            expression = str(terms[0][1]) + "".join(f" {sign} {number}" for sign, number in terms[1:])
            return f"Work out {expression}.", f"So {work(terms)[0]}."


def _algebra(rng: random.Random, highest: int) -> tuple[str, str]:
    """What a text model knows of reasoning: values given in words, a question about them, and the worked answer."""
    _, _, values, question = draft("text", rng.choice(LEVELS), "train", rng, highest)
    equations, result = chain(values, question)
    response = f"<think>I see {reading(values, question)}. So {equations}.</think><answer>{result}</answer>"
    return f"{caption(values)}. {question}", response


def _seen(
    rng: random.Random, kinds: Sequence[str], size: int, style: FigureStyle
) -> tuple[str, str, Image.Image]:
    """A picture to describe. Asked a question, the base says which of the values matter, and doesn't answer."""
    kind, _, values, question = draft(
        rng.choice(list(kinds)), rng.choice(LEVELS), "train", rng, style.highest
    )
    image = style.draw(kind, values, rng, size)
    if rng.random() < 0.25:
        return DESCRIBE, caption(values), image
    return question, f"I see {reading(values, question)}.", image


def figure_lessons(
    amount: int,
    *,
    seed: int,
    kinds: Sequence[str] = KINDS,
    mix: tuple[float, float, float] = MIX,
    size: int = 56,
    style: FigureStyle = FIGURES,
) -> Iterator[tuple[Problem, str]]:
    """(problem, response) pairs that teach to see and to calculate, but never to answer a question about a picture.

    `mix` weighs captions of pictures, bare arithmetic, and arithmetic on values named in the text (these two without picture).
    Only `train` values occur in pictures.
    """
    for index in range(amount):
        rng = random.Random(f"pretraining/{seed}/{index}")
        task = rng.choices(("caption", "arithmetic", "algebra"), mix)[0]
        images: tuple[Image.Image, ...] = ()
        if task == "caption":
            question, response, image = _seen(rng, kinds, size, style)
            images = (image,)
        else:
            question, response = (_arithmetic if task == "arithmetic" else _algebra)(rng, style.highest)
        yield (
            Problem(
                f"pretraining-{seed}-{index}", question, "", images, source="pretraining", meta={"task": task}
            ),
            response,
        )

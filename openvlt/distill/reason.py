"""A procedural text reasoner: from a caption and a question, not the picture, to a chain in the style of R1.

It replaces DeepSeek-R1-Distill where nothing can be downloaded. As there, a wrong caption gives a wrong
chain, which verification has to find. The style is drawn per chain. Most restate the values and calculate.
Some are terse: they jump to the answer, as sampled chains do now and then. Some reflect afterwards ("Wait,
..."), and a part of those end with a wrong answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from openvlt.data.synthetic.figures import needed_values, parse_caption, parse_question, solve_question

_DOUBTS = ("Wait, let me check.", "But wait, is that right?", "Wait, did I read that well?")


@dataclass(frozen=True)
class ChainStyles:
    """Probabilities of a chain's style: terse; of the others, with a reflection; of those, ending wrongly.

    With 4 chains per problem and the shortest correct one kept (the paper's rule), terse = 0.25 leaves about
    two thirds of the traces without reasoning: the model tuned on them guesses, and GRPO finds that reasoning
    pays.
    """

    terse: float = 0.25
    reflect: float = 0.3
    astray: float = 0.25


def _reflection(read: str, equations: str, result: int, astray: bool, rng: random.Random) -> tuple[str, int]:
    """The text of a reflection, and the answer that it ends with."""
    doubt = rng.choice(_DOUBTS)
    if not astray:
        return f" {doubt} {read}, so {equations}. Yes, {result}.", result
    other = result + rng.choice((-1, 1)) if result else 1
    return f" {doubt} No, {other}.", other


def write_chain(caption: str, question: str, rng: random.Random, styles: ChainStyles = ChainStyles()) -> str:
    """Writes one chain, `<think>...</think><answer>...</answer>`.

    A caption or question that can't be parsed gives a chain without an answer.
    """
    values, terms = parse_caption(caption), parse_question(question)
    if values is None or terms is None:
        return "<think>I cannot tell.</think>"
    equations, result = solve_question(values, question)
    read = needed_values(values, question)
    if rng.random() < styles.terse:
        asked = question.removeprefix("What is ").removesuffix("?")
        thought = f"So {asked}."
    else:
        thought = f"I see {read}. So {equations}."
        if rng.random() < styles.reflect:
            more, result = _reflection(read, equations, result, rng.random() < styles.astray, rng)
            thought += more
    return f"<think>{thought}</think><answer>{result}</answer>"

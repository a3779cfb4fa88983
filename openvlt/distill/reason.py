"""A procedural text reasoner: it sees a caption and a question, never the picture, and thinks aloud in the style of R1.

It stands in for DeepSeek-R1-Distill where nothing can be downloaded, and is honest in the same way: a wrong caption makes
a wrong chain, which verification has to find. Three styles, drawn per chain: most restate the values and calculate; some
are terse (they jump to the answer, as sampled chains do now and then); some doubt themselves afterwards ("Wait, ..."), and
part of the doubters end up with a wrong answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from openvlt.data.synthetic.figures import chain, parse_caption, parse_question, reading

_DOUBTS = ("Wait, let me check.", "But wait, is that right?", "Wait, did I read that well?")


@dataclass(frozen=True)
class ChainStyles:
    """Probabilities per chain: `terse` skips the reading; of the others, `reflect` doubt, and of those, `astray` go wrong.

    With 4 chains per problem and the shortest right one kept (the paper's rule), terse = 0.25 leaves about two thirds of the traces
    without reasoning: the model tuned on them guesses, and GRPO finds that reasoning pays.
    """

    terse: float = 0.25
    reflect: float = 0.3
    astray: float = 0.25


def _reflection(read: str, equations: str, result: int, astray: bool, rng: random.Random) -> tuple[str, int]:
    """A doubt, what it leads to, and the answer it ends with."""
    doubt = rng.choice(_DOUBTS)
    if not astray:
        return f" {doubt} {read}, so {equations}. Yes, {result}.", result
    other = result + rng.choice((-1, 1)) if result else 1
    return f" {doubt} No, {other}.", other


def write_chain(caption: str, question: str, rng: random.Random, styles: ChainStyles = ChainStyles()) -> str:
    """One chain, `<think>...</think><answer>...</answer>`; without the answer when caption or question can't be understood."""
    values, terms = parse_caption(caption), parse_question(question)
    if values is None or terms is None:
        return "<think>I cannot tell.</think>"
    equations, result = chain(values, question)
    read = reading(values, question)
    if rng.random() < styles.terse:
        asked = question.removeprefix("What is ").removesuffix("?")
        thought = f"So {asked}."
    else:
        thought = f"I see {read}. So {equations}."
        if rng.random() < styles.reflect:
            more, result = _reflection(read, equations, result, rng.random() < styles.astray, rng)
            thought += more
    return f"<think>{thought}</think><answer>{result}</answer>"

"""The two sources that need no files: generated figures and handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from openvlt.data.sources.base import Selection, Source, refuse_mixture
from openvlt.data.synthetic import digits, figures
from openvlt.data.synthetic.pretraining import figure_lessons
from openvlt.errors import UserError
from openvlt.types import Problem, Trace


def _levels(asked: Sequence[int] | None, there: Sequence[int]) -> Sequence[int]:
    """The levels to draw from. Raises UserError when a selection asks for one that the source was told to leave out."""
    if not asked or set(there) - set(figures.LEVELS):
        return there  # a level that nothing has is told by `generate`
    if set(asked) <= set(figures.LEVELS) and not set(asked) <= set(there):
        own = f"cycles.one.traces.levels={list(there)} cycles.one.problems.levels={list(there)}; distill.py: select.levels={list(there)}"
        raise UserError(
            f"levels {list(asked)} wanted, data.levels has {list(there)}; each stage has levels of its own, set them: {own}"
        )
    return asked


@dataclass(frozen=True)
class Figures:
    """`conf/data/figures.yaml`: generated bars, shapes and tables (see `openvlt.data.synthetic.figures`)."""

    kinds: tuple[str, ...] = figures.KINDS
    levels: tuple[int, ...] = figures.LEVELS
    size: int = 56
    lesson_amount: int = 20480

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`; without an amount, 1,000."""
        refuse_mixture(selection, "data=figures")
        return figures.generate_figures(
            1000 if selection.amount is None else selection.amount,
            split=selection.split,
            seed=seed,
            kinds=self.kinds,
            levels=_levels(selection.levels, self.levels),
            size=self.size,
        )

    def lessons(self, seed: int) -> list[Trace]:
        """What the embedded base model is pretrained on: captions, look-ups, arithmetic; never an answer to a question."""
        items = figure_lessons(self.lesson_amount, seed=seed, kinds=self.kinds, size=self.size)
        return [Trace(problem, response, "pretraining") for problem, response in items]


@dataclass(frozen=True)
class Digits:
    """`conf/data/digits.yaml`: scikit-learn's handwritten digits, three to a picture (see `openvlt.data.synthetic.digits`)."""

    levels: tuple[int, ...] = figures.LEVELS
    size: int = 56
    lesson_amount: int = 25600

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`; without an amount, 1,000."""
        refuse_mixture(selection, "data=digits")
        return digits.generate_digits(
            1000 if selection.amount is None else selection.amount,
            split=selection.split,
            seed=seed,
            levels=_levels(selection.levels, self.levels),
            size=self.size,
        )

    def lessons(self, seed: int) -> list[Trace]:
        """As `Figures.lessons`, with digits."""
        items = digits.digit_lessons(self.lesson_amount, seed=seed, size=self.size)
        return [Trace(problem, response, "pretraining") for problem, response in items]


def pretraining_traces(source: Source, seed: int) -> list[Trace]:
    """What the embedded base model learns first: the source's own lessons, figures' where it has none (your own rows)."""
    return _teacher(source).lessons(seed)


def _teacher(source: Source) -> Figures | Digits:
    return source if hasattr(source, "lessons") else Figures()


def tokenizer_corpus(source: Source) -> list[str]:
    """Texts to learn the embedded model's tokenizer from: lessons, questions and traces of the generated data."""
    first = replace(_teacher(source), lesson_amount=2000).lessons(0)
    taught = [f"{trace.problem.question}\n{trace.response}" for trace in first]
    problems = Figures().problems(Selection(amount=900), 0)
    asked = [
        f"{problem.question}\n{problem.meta['caption']}, {problem.meta['equations']}" for problem in problems
    ]
    return taught + asked + ["user\n", "assistant\n"] * 300

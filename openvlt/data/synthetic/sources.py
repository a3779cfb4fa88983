"""The two sources that need no files: generated figures and handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from openvlt.data.errors import ExcludedLevels
from openvlt.data.sources.base import Selection, Source, refuse_mixture
from openvlt.data.synthetic import digits, figures
from openvlt.data.synthetic.pretraining import MIX, generate_pretraining
from openvlt.types import Problem, Trace


@dataclass(frozen=True)
class Figures:
    """`conf/data/figures.yaml`: generated bars, shapes and tables (see `openvlt.data.synthetic.figures`)."""

    kinds: tuple[str, ...] = figures.KINDS
    levels: tuple[int, ...] = figures.LEVELS
    size: int = 56
    lesson_amount: int = 20480
    mix: ClassVar[tuple[float, float, float]] = MIX

    def style(self, split: str) -> figures.FigureStyle:
        """How the pictures of a split are drawn."""
        return figures.FIGURES

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`; without an amount, 1,000."""
        style = self.style(selection.split)
        refuse_mixture(selection, style.name)
        return figures.generate_figures(
            1000 if selection.limit is None else selection.limit,
            split=selection.split,
            seed=seed,
            kinds=self.kinds,
            levels=self._levels(selection.levels),
            size=self.size,
            style=style,
        )

    def pretraining_traces(self, seed: int) -> list[Trace]:
        """`lesson_amount` traces for the embedded base model: captions, look-ups and arithmetic."""
        pairs = generate_pretraining(
            self.lesson_amount,
            seed=seed,
            kinds=self.kinds,
            mix=self.mix,
            size=self.size,
            style=self.style("train"),
        )
        return [Trace(problem, response, "pretraining") for problem, response in pairs]

    def _levels(self, wanted: Sequence[int] | None) -> Sequence[int]:
        """The levels to draw from. Raises ExcludedLevels for one that `levels` leaves out."""
        if not wanted or set(self.levels) - set(figures.LEVELS):
            return self.levels  # generate_figures refuses a level that no question has
        if set(wanted) <= set(figures.LEVELS) and not set(wanted) <= set(self.levels):
            raise ExcludedLevels(list(wanted), list(self.levels))
        return wanted


@dataclass(frozen=True)
class Digits(Figures):
    """`conf/data/digits.yaml`: handwritten digits (see `openvlt.data.synthetic.digits`)."""

    kinds: tuple[str, ...] = field(default=(digits.KIND,), init=False)
    lesson_amount: int = 25600
    mix: ClassVar[tuple[float, float, float]] = digits.DIGIT_MIX

    def style(self, split: str) -> figures.FigureStyle:
        """As figures, from the scans of one split."""
        return digits.digit_style(split)


def pretraining_traces(source: Source, seed: int) -> list[Trace]:
    """What the embedded base model is pretrained on: the source's own traces, or those of figures."""
    return _generated_source(source).pretraining_traces(seed)


def _generated_source(source: Source) -> Figures:
    return source if isinstance(source, Figures) else Figures()


def tokenizer_corpus(source: Source) -> list[str]:
    """Texts to learn the embedded model's tokenizer from: pretraining traces, questions and equations."""
    traces = replace(_generated_source(source), lesson_amount=2000).pretraining_traces(0)
    taught = [f"{trace.problem.question}\n{trace.response}" for trace in traces]
    problems = Figures().problems(Selection(amount=900), 0)
    asked = [
        f"{problem.question}\n{problem.meta['caption']}, {problem.meta['equations']}" for problem in problems
    ]
    return taught + asked + ["user\n", "assistant\n"] * 300

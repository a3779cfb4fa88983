"""What every source of problems offers, and the two sources that need no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from openvlt.data.synthetic import digits, figures
from openvlt.data.synthetic.pretraining import pretraining
from openvlt.errors import UserError
from openvlt.types import Problem, Trace


@dataclass(frozen=True)
class Selection:
    """Which problems a stage wants. `amount` None: all there are; `levels` None: every difficulty; `sources` weighs a mixture's parts."""

    amount: int | None = None
    levels: tuple[int, ...] | None = None
    sources: Mapping[str, float] | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if self.amount is not None and self.amount < 1:
            raise UserError(f"amount={self.amount} asks for no problems; give a positive number, or null for all there are")


class Source(Protocol):
    """`problems` gives the selected problems in an order that `seed` decides; the same arguments give the same problems.

    Splits are `train`, `val` and `test`; a source without held-out rows says so when asked for them.
    """

    def problems(self, selection: Selection, seed: int) -> list[Problem]: ...


def everything(key: str) -> str:
    """How each script asks for all rows, whatever their `key` (amount, levels, sources)."""
    return f"take all rows: train.py +experiment=own, distill.py select.{key}=null, evaluate.py evaluation.selection.{key}=null"


def no_mixture(selection: Selection, where: str) -> None:
    """Raises UserError when a selection weighs the parts of what is one source."""
    if selection.sources is not None:
        wanted = f"sources={dict(selection.sources)} needs a mixture such as data=openvlthinker"
        raise UserError(f"{where} is one source; {wanted}, or {everything('sources')}")


def _levels(asked: Sequence[int] | None, there: Sequence[int]) -> Sequence[int]:
    """The levels to draw from. Raises UserError when a selection asks for one that the source was told to leave out."""
    if not asked or set(there) - set(figures.LEVELS):
        return there  # a level that nothing has is told by `generate`
    if set(asked) <= set(figures.LEVELS) and not set(asked) <= set(there):
        own = f"cycles.one.traces.levels={list(there)} cycles.one.problems.levels={list(there)}; distill.py: select.levels={list(there)}"
        raise UserError(f"levels {list(asked)} wanted, data.levels has {list(there)}; each stage has levels of its own, set them: {own}")
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
        no_mixture(selection, "data=figures")
        return figures.generate(
            1000 if selection.amount is None else selection.amount,
            split=selection.split,
            seed=seed,
            kinds=self.kinds,
            levels=_levels(selection.levels, self.levels),
            size=self.size,
        )

    def lessons(self, seed: int) -> list[Trace]:
        """What the embedded base model is pretrained on: captions, look-ups, arithmetic; never an answer to a question."""
        items = pretraining(self.lesson_amount, seed=seed, kinds=self.kinds, size=self.size)
        return [Trace(problem, response, "pretraining") for problem, response in items]


@dataclass(frozen=True)
class Digits:
    """`conf/data/digits.yaml`: scikit-learn's handwritten digits, three to a picture (see `openvlt.data.synthetic.digits`)."""

    levels: tuple[int, ...] = figures.LEVELS
    size: int = 56
    lesson_amount: int = 25600

    def problems(self, selection: Selection, seed: int) -> list[Problem]:
        """See `Source`; without an amount, 1,000."""
        no_mixture(selection, "data=digits")
        return digits.generate(
            1000 if selection.amount is None else selection.amount,
            split=selection.split,
            seed=seed,
            levels=_levels(selection.levels, self.levels),
            size=self.size,
        )

    def lessons(self, seed: int) -> list[Trace]:
        """As `Figures.lessons`, with digits."""
        items = digits.pretraining(self.lesson_amount, seed=seed, size=self.size)
        return [Trace(problem, response, "pretraining") for problem, response in items]


def check_amount(problems: Sequence[Problem], selection: Selection, where: str) -> list[Problem]:
    """The first `amount` of the problems. Raises UserError when there are fewer."""
    if selection.amount is not None and selection.amount > len(problems):
        amounts = f"{selection.amount} problems wanted, {len(problems)} there"
        raise UserError(f"{where}: {amounts}; lower the amount, add data, or {everything('amount')}")
    return list(problems[: selection.amount])


def lessons(source: Source, seed: int) -> list[Trace]:
    """What the embedded base model learns first: the source's own lessons, figures' where it has none (your own rows)."""
    return _teacher(source).lessons(seed)


def _teacher(source: Source) -> Figures | Digits:
    return source if hasattr(source, "lessons") else Figures()


def corpus(source: Source) -> list[str]:
    """Texts to learn the embedded model's tokenizer from: lessons, questions and traces of the generated data."""
    first = replace(_teacher(source), lesson_amount=2000).lessons(0)
    taught = [f"{trace.problem.question}\n{trace.response}" for trace in first]
    problems = Figures().problems(Selection(amount=900), 0)
    asked = [f"{problem.question}\n{problem.meta['caption']}, {problem.meta['equations']}" for problem in problems]
    return taught + asked + ["user\n", "assistant\n"] * 300

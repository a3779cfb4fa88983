"""What every source of problems offers, and what a stage may select of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from openvlt.data.errors import MixtureWanted
from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class Selection:
    """Which problems a stage uses.

    `amount` None: all there are, `at_most` so many; `levels` None: every difficulty; `sources` weighs the
    parts of a mixture.
    """

    amount: int | None = None
    levels: tuple[int, ...] | None = None
    sources: Mapping[str, float] | None = None
    split: str = "train"
    at_most: int | None = None

    def __post_init__(self) -> None:
        for name in ("amount", "at_most"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise UserError(
                    f"{name}={number} asks for no problems; give a positive number, or null for all there are"
                )

    @property
    def limit(self) -> int | None:
        """The largest number of problems."""
        return self.at_most if self.amount is None else self.amount


class Source(Protocol):
    """`problems` gives the selected problems in an order drawn by `seed`; equal arguments, equal problems.

    Of large files they are `LazyProblems`, read when asked for.

    Splits are `train`, `val` and `test`. A source without held-out rows raises UserError when asked for them.
    """

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]: ...


def refuse_mixture(selection: Selection, where: str) -> None:
    """Raises MixtureWanted when a selection weighs the parts of what is one source."""
    if selection.sources is not None:
        raise MixtureWanted(where, selection.sources)

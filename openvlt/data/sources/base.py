"""What every source of problems offers, and the two sources that need no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class Selection:
    """Which problems a stage wants. `amount` None: all there are; `levels` None: every difficulty; `sources` weighs a mixture's parts."""

    amount: int | None = None
    levels: tuple[int, ...] | None = None
    sources: Mapping[str, float] | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        if self.amount is not None and self.amount < 1:
            raise UserError(
                f"amount={self.amount} asks for no problems; give a positive number, or null for all there are"
            )


class Source(Protocol):
    """`problems` gives the selected problems in an order that `seed` decides; the same arguments give the same problems.

    Splits are `train`, `val` and `test`; a source without held-out rows says so when asked for them.
    """

    def problems(self, selection: Selection, seed: int) -> list[Problem]: ...


def advise_all_rows(key: str) -> str:
    """How each script asks for all rows, whatever their `key` (amount, levels, sources)."""
    return f"take all rows: train.py +experiment=own, distill.py select.{key}=null, evaluate.py evaluation.selection.{key}=null"


def refuse_mixture(selection: Selection, where: str) -> None:
    """Raises UserError when a selection weighs the parts of what is one source."""
    if selection.sources is not None:
        wanted = f"sources={dict(selection.sources)} needs a mixture such as data=openvlthinker"
        raise UserError(f"{where} is one source; {wanted}, or {advise_all_rows('sources')}")


def take_amount(problems: Sequence[Problem], selection: Selection, where: str) -> list[Problem]:
    """The first `amount` of the problems. Raises UserError when there are fewer."""
    if selection.amount is not None and selection.amount > len(problems):
        amounts = f"{selection.amount} problems wanted, {len(problems)} there"
        raise UserError(f"{where}: {amounts}; lower the amount, add data, or {advise_all_rows('amount')}")
    return list(problems[: selection.amount])

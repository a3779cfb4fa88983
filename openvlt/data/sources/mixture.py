"""Several sources as one: weights, exact shares, and what to do when a source is short."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from openvlt.data.rows.lazy import join_problems, name_source, take_problems
from openvlt.data.sources.base import Selection, Source
from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class Mixture:
    """`conf/data/openvlthinker.yaml`: several sources by name.

    A source is opened only when a selection has it.

    `selection.sources` weighs the parts (None: all alike); the amount is split exactly, largest remainders
    first. A problem's `source` is its part's name, which also stands before its id, so that ids stay unique.
    A part with fewer rows than its share is an error, or with `fill` gives all it has and the others make up
    for it.
    """

    sources: Mapping[str, Source]
    fill: bool = False

    @property
    def skipped(self) -> dict[str, str]:
        """Bad rows that the parts left out so far: row -> reason."""
        return {
            row: reason
            for part in self.sources.values()
            for row, reason in getattr(part, "skipped", {}).items()
        }

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]:
        """See `Source`; without an amount, all rows of the selected parts.

        Raises UserError when a part is short.
        """
        weights = self._weights(selection)
        if selection.amount is not None and self.fill:
            there = {name: self._part(name, None, selection, seed) for name in weights}
            amounts = fill_shares(
                selection.amount, weights, {name: len(problems) for name, problems in there.items()}
            )
            parts = [there[name][:amount] for name, amount in amounts.items()]
        elif selection.amount is not None:
            amounts = apportion(selection.amount, weights)
            parts = [self._part(name, amounts[name], selection, seed) for name in weights if amounts[name]]
        else:
            parts = [self._part(name, None, selection, seed) for name in weights]
        problems = join_problems(parts)
        order = list(range(len(problems)))
        random.Random(f"mixture/{seed}").shuffle(order)
        return take_problems(problems, order[: selection.limit])

    def _part(self, name: str, amount: int | None, selection: Selection, seed: int) -> Sequence[Problem]:
        """`amount` problems of one part, marked with its name."""
        try:
            problems = self.sources[name].problems(
                replace(selection, amount=amount, at_most=None, sources=None), seed
            )
        except UserError as error:
            raise UserError(f"source {name!r}: {error}") from error
        return name_source(problems, name)

    def _weights(self, selection: Selection) -> dict[str, float]:
        """The selected parts with their weights."""
        weights = dict.fromkeys(self.sources, 1) if selection.sources is None else dict(selection.sources)
        if not weights or set(weights) - set(self.sources):
            raise UserError(f"sources are {list(weights)}; choose from {list(self.sources)}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not sum(
            weights.values()
        ):
            raise UserError(
                f"source weights are {weights}; each is 0 or more, and at least one is more than 0"
            )
        weights = {name: weight for name, weight in weights.items() if weight}
        if selection.amount is None and len(set(weights.values())) > 1:
            raise UserError(
                f"source weights {weights} share out an amount; give one, or equal weights to take everything"
            )
        return weights


def fill_shares(amount: int, weights: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, int]:
    """As `apportion`, but short parts give all they have and the rest is shared out again."""
    if amount > sum(sizes[name] for name in weights):
        raise UserError(
            f"{amount} problems wanted, the sources have {dict(sizes)}; lower the amount or add data"
        )
    taken: dict[str, int] = {}
    waiting = dict(weights)
    while waiting:
        parts = apportion(amount - sum(taken.values()), waiting)
        short = {name: sizes[name] for name in waiting if parts[name] > sizes[name]}
        if not short:
            return {**taken, **parts}
        taken |= short
        waiting = {name: weight for name, weight in waiting.items() if name not in short}
    return taken


def apportion(amount: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`amount` in whole parts proportional to the weights: largest remainders, ties to the earlier name."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    quotas = {name: amount * weight / sum(exact.values()) for name, weight in exact.items()}
    parts = {name: math.floor(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: parts[name] - quotas[name])
    for name in by_remainder[: amount - sum(parts.values())]:
        parts[name] += 1
    return parts

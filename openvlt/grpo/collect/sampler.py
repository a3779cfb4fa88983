"""Which problems come next. `next(n, step)` gives n problems, `observe` hears how they went, `state_dict` is what it remembers: all that
the next draw depends on, which is asked for ahead of time (`openvlt.grpo.collect.prompts.PromptLoader`) and again when it is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from openvlt.data.batching import batch_rows
from openvlt.errors import UserError
from openvlt.types import Problem


class PromptSampler(Protocol):
    """Built as `sampler(problems, seed)`. Every process has its own and all of them say the same."""

    def next(self, n: int, step: int) -> list[Problem]: ...

    def observe(self, accuracy: Mapping[str, float]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Shuffled:
    """Every epoch another permutation; rows that don't fill a whole draw are left out of that epoch."""

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.problems, self.seed, self.draws = problems, seed, 0

    def next(self, n: int, step: int) -> list[Problem]:
        rows = batch_rows(len(self.problems), n, self.draws, self.seed, drop_last=True)
        self.draws += 1
        return [self.problems[row] for row in rows]

    def observe(self, accuracy: Mapping[str, float]) -> None:
        """Order doesn't depend on how it goes."""

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]


class EasyFirst(Shuffled):
    """A curriculum by `level`: each level's problems once, shuffled among themselves, then the next level; then from the beginning.

    (Curr-ReFT, RewardMap: data sets in order of difficulty.) Problems without a level come first.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(problems))
        super().__init__(
            sorted((problems[row] for row in order), key=lambda problem: problem.level or 0), seed
        )

    def next(self, n: int, step: int) -> list[Problem]:
        start = self.draws * n
        self.draws += 1
        return [self.problems[(start + place) % len(self.problems)] for place in range(n)]


class NearHalf(Shuffled):
    """Draws problems in proportion to max(floor, 4a(1 - a)), a the accuracy of their latest group: those that teach most.

    Problems not seen yet count as a = 1/2. (In the spirit of GLM-4.1V's curriculum sampling, whose exact rule isn't public.)
    """

    def __init__(self, problems: Sequence[Problem], seed: int, *, floor: float = 0.1) -> None:
        super().__init__(problems, seed)
        if not floor > 0:
            raise UserError(
                f"grpo.sampler.floor={floor}; it is above 0, so that every problem may come again"
            )
        self.floor, self.accuracy = floor, dict[str, float]()

    def next(self, n: int, step: int) -> list[Problem]:
        latest = np.array([self.accuracy.get(problem.id, 0.5) for problem in self.problems])
        worth = np.maximum(self.floor, 4 * latest * (1 - latest))
        rng = np.random.default_rng([self.seed, self.draws])
        self.draws += 1
        return [
            self.problems[row] for row in rng.choice(len(worth), size=n, replace=False, p=worth / worth.sum())
        ]

    def observe(self, accuracy: Mapping[str, float]) -> None:
        self.accuracy.update(accuracy)

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws, "accuracy": dict(self.accuracy)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws, self.accuracy = state["draws"], dict(state["accuracy"])

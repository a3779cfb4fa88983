"""Prompt samplers: which problems come next.

`next(n, step)` gives n problems, `observe` takes the accuracy of problems that were rolled out, `state_dict`
holds all that the next draw depends on. `PromptLoader` draws ahead of time, puts the state back, and draws
again when the step comes; so equal states have to give equal draws.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from openvlt.data.batching import batch_rows
from openvlt.data.rows.lazy import problem_ids, problem_levels, take_problems
from openvlt.errors import UserError
from openvlt.types import Problem


class PromptSampler(Protocol):
    """Built as `sampler(problems, seed)`, in every process: all of them have to draw the same.

    A class may have `check_settings(**settings)`, which raises UserError for settings that can't be, before a
    run.
    """

    def next(self, n: int, step: int) -> list[Problem]: ...

    def observe(self, accuracy: Mapping[str, float]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Shuffled:
    """Another permutation every epoch; problems that don't fill a whole draw are left out of that epoch."""

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.problems, self.seed, self.draws = problems, seed, 0

    def next(self, n: int, step: int) -> list[Problem]:
        rows = batch_rows(len(self.problems), n, self.draws, self.seed, drop_last=True)
        self.draws += 1
        return [self.problems[row] for row in rows]

    def observe(self, accuracy: Mapping[str, float]) -> None:
        """Does nothing: the order doesn't depend on accuracy."""

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]


class EasyFirst(Shuffled):
    """A curriculum by `level`: all problems of a level in random order, then those of the next.

    After the last it starts again. Problems without a level come first. Curr-ReFT, RewardMap: data sets in
    order of difficulty.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(problems))
        levels = problem_levels(problems)
        ranked = sorted(order.tolist(), key=lambda row: levels[row] or 0)
        super().__init__(take_problems(problems, ranked), seed)

    def next(self, n: int, step: int) -> list[Problem]:
        start = self.draws * n
        self.draws += 1
        return [self.problems[(start + place) % len(self.problems)] for place in range(n)]


class NearHalf(Shuffled):
    """Draws problems in proportion to max(floor, 4a(1 - a)), a the accuracy of their latest group.

    Problems without a group so far count as a = 1/2. (In the spirit of GLM-4.1V's curriculum sampling, whose
    exact rule isn't public.)
    """

    def __init__(self, problems: Sequence[Problem], seed: int, *, floor: float = 0.1) -> None:
        super().__init__(problems, seed)
        self.check_settings(floor=floor)
        self.floor, self.accuracy = floor, dict[str, float]()
        self.ids = problem_ids(problems)

    @staticmethod
    def check_settings(*, floor: float = 0.1) -> None:
        """Raises UserError for a floor that isn't above 0."""
        if not floor > 0:
            raise UserError(
                f"grpo.sampler.floor={floor}; it is above 0, so that every problem may come again"
            )

    def next(self, n: int, step: int) -> list[Problem]:
        latest = np.array([self.accuracy.get(name, 0.5) for name in self.ids])
        weights = np.maximum(self.floor, 4 * latest * (1 - latest))
        rng = np.random.default_rng([self.seed, self.draws])
        self.draws += 1
        rows = rng.choice(len(weights), size=n, replace=False, p=weights / weights.sum())
        return [self.problems[row] for row in rows]

    def observe(self, accuracy: Mapping[str, float]) -> None:
        self.accuracy.update(accuracy)

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws, "accuracy": dict(self.accuracy)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws, self.accuracy = state["draws"], dict(state["accuracy"])


class SamplerAhead:
    """A sampler that has drawn a rollout batch which isn't learned from yet, as a checkpoint keeps it.

    That is its state before the draw, and the accuracy that it has observed since. After a restart the same
    draw is made again, and then the same is observed: no problem is left out, or learned from twice.
    """

    def __init__(self, sampler: PromptSampler) -> None:
        self.sampler = sampler
        self.before: dict[str, Any] | None = None  # None: nothing is drawn ahead
        self.observed: dict[str, float] | None = None
        self._owed: dict[str, float] | None = None  # observed before a restart, after the draw to come

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside, the sampler draws a rollout batch ahead."""
        self.before, self.observed = copy.deepcopy(self.sampler.state_dict()), None
        yield
        owed, self._owed = self._owed, None
        if owed is not None:
            self.observe(owed)

    def finish(self) -> None:
        """Nothing is drawn ahead any more."""
        self.before = self.observed = None

    def observe(self, accuracy: Mapping[str, float]) -> None:
        """Lets the sampler observe the accuracy of the rollout batch that is learned from."""
        self.sampler.observe(accuracy)
        if self.before is not None:
            self.observed = {**(self.observed or {}), **accuracy}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        state = self.sampler.state_dict() if self.before is None else self.before
        return {"sampler": state, "observed": self.observed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint."""
        self.sampler.load_state_dict(state["sampler"])
        self._owed = state["observed"]

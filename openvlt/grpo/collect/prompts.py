"""What the policy sees of a rollout's problems: images opened, seen through views and made into prompts.

Looking takes a processor's time and none of a model's: a worker does it for the next rollout while this one is learned from (`Draws`).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openvlt.data.image_views import apply_view
from openvlt.data.prefetch import PrefetchWorker
from openvlt.data.prompts import Renderer
from openvlt.grpo.collect.ops import concat_prompts
from openvlt.grpo.collect.sampler import PromptSampler
from openvlt.types import Problem, Prompts

ViewKey = tuple[Any, float]  # an image view and its strength
Sent = tuple[
    Prompts, list[Sequence[Any]]
]  # from a worker: prompts, and each problem's images where a view changed them
PLAIN: ViewKey = (None, 0.0)


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Problems as they are seen, and their prompts."""

    problems: Sequence[Problem]
    prompts: Prompts

    def select(self, rows: Sequence[int]) -> PromptBatch:
        """These problems."""
        whole = list(rows) == list(range(len(self.problems)))
        return self if whole else PromptBatch([self.problems[row] for row in rows], self.prompts.select(rows))


def render_view(renderer: Renderer, problems: Sequence[Problem], view: ViewKey, seed: int) -> PromptBatch:
    """The problems seen through `view`, one draw per problem and `seed`."""
    function, strength = view
    seen = (
        problems
        if function is None
        else [apply_view(problem, function, strength, seed) for problem in problems]
    )
    return PromptBatch(seen, renderer.prompts(seen))


def view_key(part: Any) -> ViewKey:
    """What a plan's `Spec` or a `ViewPass` looks through."""
    return PLAIN if part.view is None else (part.view, part.strength)


def rollout_views(chain: Any) -> list[ViewKey]:
    """What a rollout looks through, by the parts of a `grpo.experience.Chain` whose schedules have their values; each once."""
    found = [PLAIN]
    for part in (*chain.rollout_plan.specs(chain.sampling.n).values(), *chain.view_passes.values()):
        if view_key(part) not in found:
            found.append(view_key(part))
    return found


class PromptCache:
    """Looks that were made ahead of time for the rollout at hand; others are made when they are asked for."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer, self.made = renderer, list[tuple[ViewKey, PromptBatch]]()

    def ahead(self, problems: Sequence[Problem], through: Sequence[ViewKey], seed: int) -> list[Sent]:
        """What `know` has to be told, in the worker: of the plain images only the prompts, the problems are known."""
        looks = [(view, render_view(self.renderer, problems, view, seed)) for view in through]
        return [
            (look.prompts, [problem.images for problem in look.problems if view != PLAIN])
            for view, look in looks
        ]

    def know(self, problems: Sequence[Problem], through: Sequence[ViewKey], sent: Sequence[Sent]) -> None:
        """Takes what a worker made of these problems."""
        for view, (prompts, images) in zip(through, sent, strict=True):
            seen = (
                [replace(problem, images=own) for problem, own in zip(problems, images, strict=True)]
                if images
                else problems
            )
            self.made.append((view, PromptBatch(seen, prompts)))

    def get(self, problems: Sequence[Problem], view: ViewKey, seed: int) -> PromptBatch:
        """The problems seen through `view`. Those that were looked at ahead of time may be any of several draws."""
        place: Mapping[str, tuple[PromptBatch, int]] = {
            problem.id: (look, row)
            for known, look in self.made
            if known == view
            for row, problem in enumerate(look.problems)
        }
        parts = []
        for look, run in itertools.groupby(problems, lambda problem: place.get(problem.id, (None, 0))[0]):
            some = list(run)
            rows = [place[problem.id][1] for problem in some] if look else []
            parts.append(look.select(rows) if look else render_view(self.renderer, some, view, seed))
        if len(parts) == 1:
            return parts[0]
        return PromptBatch(
            [problem for part in parts for problem in part.problems],
            concat_prompts([part.prompts for part in parts]),
        )


class PromptLoader:
    """The problems of each rollout as the sampler draws them, in their place what `task` makes of them.

    With a worker the next draw is made and looked at ahead of time: the sampler is asked beforehand and its state put back. Should it
    answer otherwise when the time has come, the worker's work was in vain, and nothing else. `through(step)` gives the views and the seed
    of the rollout of a step.
    """

    def __init__(
        self,
        sampler: PromptSampler,
        problems: Sequence[Problem],
        *,
        size: int,
        task: Callable[[Problem], list[Problem]] | None,
        prompt_cache: PromptCache,
        through: Callable[[int], tuple[list[ViewKey], int]],
        workers: int,
    ) -> None:
        self.sampler, self.problems, self.size, self.task, self.prompt_cache, self.through = (
            sampler,
            problems,
            size,
            task,
            prompt_cache,
            through,
        )
        self.rows = {
            id(problem): row for row, problem in enumerate(problems)
        }  # the worker has the problems: only rows are sent
        self.ahead = PrefetchWorker(self._prepared) if PrefetchWorker.is_available(workers) else None

    def take(self, step: int, *, more: bool = False) -> list[Problem]:
        """The next draw; `more`: another one of this step may follow."""
        drawn = self.sampler.next(self.size, step)
        made, sent = (self.ahead and self.ahead.result(self._order(drawn, step))) or (None, None)
        tasks = self._tasks(drawn) if made is None else made
        if sent is not None:
            self.prompt_cache.know(tasks, self.through(step)[0], sent)
        if more:
            self.begin(step)
        return tasks

    def begin(self, step: int) -> None:
        """Has what `take(step)` will give prepared, if a worker is there."""
        if self.ahead is None:
            return
        state = copy.deepcopy(self.sampler.state_dict())
        order = self._order(self.sampler.next(self.size, step), step)
        self.sampler.load_state_dict(state)
        if None not in order[0]:
            self.ahead.submit(order)

    def close(self) -> None:
        """Ends the worker."""
        if self.ahead is not None:
            self.ahead.close()

    def _order(self, drawn: Sequence[Problem], step: int) -> tuple[list[int | None], int]:
        return [self.rows.get(id(problem)) for problem in drawn], step

    def _prepared(self, order: tuple[list[int], int]) -> tuple[list[Problem] | None, list[Sent]]:
        """In the worker: the tasks, where there are any, and how they look."""
        rows, step = order
        tasks = self._tasks([self.problems[row] for row in rows])
        return None if self.task is None else tasks, self.prompt_cache.ahead(tasks, *self.through(step))

    def _tasks(self, drawn: Sequence[Problem]) -> list[Problem]:
        return (
            list(drawn) if self.task is None else [task for problem in drawn for task in self.task(problem)]
        )

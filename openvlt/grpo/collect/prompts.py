"""Prompts of a rollout batch: images opened, changed by image views, rendered.

This takes processor time and no model: a worker does it for the next rollout batch while this one is learned
from (`PromptLoader`).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openvlt.data.image_views import apply_view
from openvlt.data.prefetch import PrefetchWorker
from openvlt.data.prompts import Renderer
from openvlt.data.rows.lazy import problem_finder
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.ops import concat_prompts
from openvlt.grpo.collect.plan import ViewPass, ViewSpec
from openvlt.grpo.collect.sampler import PromptSampler
from openvlt.types import Problem, Prompts

ViewKey = tuple[Any, float]  # an image view and its strength
# what a worker sends: prompts, and each problem's images where a view changed them
RenderedView = tuple[Prompts, list[Sequence[Any]]]
PLAIN: ViewKey = (None, 0.0)


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Problems, with their images as a view changed them, and their prompts."""

    problems: Sequence[Problem]
    prompts: Prompts

    def select(self, rows: Sequence[int]) -> PromptBatch:
        """These problems."""
        if list(rows) == list(range(len(self.problems))):
            return self
        return PromptBatch([self.problems[row] for row in rows], self.prompts.select(rows))


def render_view(renderer: Renderer, problems: Sequence[Problem], view: ViewKey, seed: int) -> PromptBatch:
    """The problems and their prompts under an image view, drawn once per problem and `seed`."""
    function, strength = view
    if function is not None:
        problems = [apply_view(problem, function, strength, seed) for problem in problems]
    return PromptBatch(problems, renderer.prompts(problems))


def view_key(part: ViewSpec | ViewPass) -> ViewKey:
    """The view of a part of the plan or of a scoring pass."""
    return PLAIN if part.view is None else (part.view, part.strength)


def rollout_views(grpo: GRPO) -> list[ViewKey]:
    """All views that a rollout batch needs, each once; `grpo` has its schedules resolved."""
    parts = (*grpo.rollout_plan.specs(grpo.group_size).values(), *grpo.view_passes.values())
    views = [PLAIN]
    for part in parts:
        if view_key(part) not in views:
            views.append(view_key(part))
    return views


class PromptCache:
    """The prompts that a worker rendered for this rollout batch; others are rendered on request."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.batches: list[tuple[ViewKey, PromptBatch]] = []

    def render(self, problems: Sequence[Problem], views: Sequence[ViewKey], seed: int) -> list[RenderedView]:
        """What `add` takes, computed by the worker: prompts under each view, and the images it made."""
        batches = [(view, render_view(self.renderer, problems, view, seed)) for view in views]
        return [
            (batch.prompts, [problem.images for problem in batch.problems if view != PLAIN])
            for view, batch in batches
        ]

    def add(
        self, problems: Sequence[Problem], views: Sequence[ViewKey], rendered: Sequence[RenderedView]
    ) -> None:
        """Keeps what a worker rendered for these problems."""
        for view, (prompts, images) in zip(views, rendered, strict=True):
            shown = problems
            if images:
                shown = [replace(problem, images=own) for problem, own in zip(problems, images, strict=True)]
            self.batches.append((view, PromptBatch(shown, prompts)))

    def get(self, problems: Sequence[Problem], view: ViewKey, seed: int) -> PromptBatch:
        """The problems and their prompts under `view`, from the batches that were added, or rendered now."""
        places = {
            problem.id: (batch, row)
            for known, batch in self.batches
            if known == view
            for row, problem in enumerate(batch.problems)
        }
        parts = []
        for batch, run in itertools.groupby(problems, lambda problem: places.get(problem.id, (None, 0))[0]):
            some = list(run)
            if batch is None:
                parts.append(render_view(self.renderer, some, view, seed))
            else:
                parts.append(batch.select([places[problem.id][1] for problem in some]))
        if len(parts) == 1:
            return parts[0]
        return PromptBatch(
            [problem for part in parts for problem in part.problems],
            concat_prompts([part.prompts for part in parts]),
        )

    def take(self) -> PromptCache:
        """A cache that gets all batches of this one."""
        taken = PromptCache(self.renderer)
        taken.batches, self.batches = self.batches, taken.batches
        return taken

    def clear(self) -> None:
        """Forgets all batches."""
        self.batches.clear()


class PromptLoader:
    """Gives the problems of each rollout batch: the sampler's, or the tasks that `build_tasks` makes of them.

    With a worker the next draw is made and rendered ahead of time: the sampler draws, and its state is put
    back. Should it draw otherwise when the step comes, the worker's result is not used. `views(step)` gives
    the views and the seed of the rollout batch of a step.
    """

    def __init__(
        self,
        sampler: PromptSampler,
        problems: Sequence[Problem],
        *,
        size: int,
        build_tasks: Callable[[Problem], list[Problem]] | None,
        prompt_cache: PromptCache,
        views: Callable[[int], tuple[list[ViewKey], int]],
        workers: int,
    ) -> None:
        self.sampler, self.size = sampler, size
        self.build_tasks, self.prompt_cache, self.views = build_tasks, prompt_cache, views
        # the worker has the problems already: only their rows are sent
        self.find_row, self.open_row = problem_finder(problems)
        self.worker = PrefetchWorker(self._render) if PrefetchWorker.is_available(workers) else None

    def next(self, step: int, *, prefetch_more: bool = False) -> list[Problem]:
        """The next draw for `step`; `prefetch_more`: another one for the same step may follow."""
        drawn = self.sampler.next(self.size, step)
        result = self.worker.result(self._order(drawn, step)) if self.worker is not None else None
        tasks, rendered = result or (None, None)
        if tasks is None:
            tasks = self._tasks(drawn)
        if rendered is not None:
            self.prompt_cache.add(tasks, self.views(step)[0], rendered)
        if prefetch_more:
            self.prefetch(step)
        return tasks

    def prefetch(self, step: int) -> None:
        """Has the worker, if there is one, render what `next(step)` will give."""
        if self.worker is None:
            return
        state = copy.deepcopy(self.sampler.state_dict())
        rows, step = self._order(self.sampler.next(self.size, step), step)
        self.sampler.load_state_dict(state)
        if None not in rows:
            self.worker.submit((rows, step))

    def close(self) -> None:
        """Ends the worker."""
        if self.worker is not None:
            self.worker.close()

    def _order(self, drawn: Sequence[Problem], step: int) -> tuple[list[int | None], int]:
        """What the worker is sent: the rows of these problems (None: not one of `problems`), and the step."""
        return [self.find_row(problem) for problem in drawn], step

    def _render(self, order: tuple[list[int], int]) -> tuple[list[Problem] | None, list[RenderedView]]:
        """In the worker: the tasks, where there are any, and their prompts under every view."""
        rows, step = order
        tasks = self._tasks([self.open_row(row) for row in rows])
        rendered = self.prompt_cache.render(tasks, *self.views(step))
        return (None if self.build_tasks is None else tasks), rendered

    def _tasks(self, drawn: Sequence[Problem]) -> list[Problem]:
        if self.build_tasks is None:
            return list(drawn)
        return [task for problem in drawn for task in self.build_tasks(problem)]

"""The training loop of GRPO: rollout batches, their updates, and prompts rendered ahead of time."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.data.sources.selection import filter_problems
from openvlt.errors import UserError
from openvlt.findings import rollout_findings
from openvlt.grpo.ahead import RolloutsAhead
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.experience import Experience
from openvlt.grpo.collect.prompts import PromptLoader, ViewKey, rollout_views
from openvlt.grpo.collect.sampler import PromptSampler, SamplerAhead
from openvlt.grpo.collect.transcripts import Transcripts
from openvlt.grpo.module import GRPOModule, Stateful
from openvlt.grpo.parts.traits import has_trait
from openvlt.model.load import VLM
from openvlt.rollout.base import rest_servers
from openvlt.trackers.recorder import StageRecorder
from openvlt.types import GRPOBatch, Problem, ScoredRollouts


def train_grpo(
    grpo: GRPO,
    vlm: VLM,
    problems: Sequence[Problem],
    *,
    reference: VLM | None,
    folder: Path,
    seed: int,
    title: str = "grpo",
    recorder: StageRecorder | None = None,
) -> None:
    """Trains `vlm` in place, resuming from `folder/last.ckpt`.

    `reference` may be None unless `grpo.needs_reference`, and with an adapter. Raises UserError when a
    rollout batch needs more problems than there are.
    """
    grpo = replace(grpo, resampling=copy.deepcopy(grpo.resampling))  # a replay buffer is one run's
    problems = _select_problems(grpo, problems, title)
    grpo.fit.prepare(vlm, reference)
    experience, sampler = Experience(grpo, vlm, reference), grpo.sampler(problems, seed)
    resampling = {"resampling": grpo.resampling} if isinstance(grpo.resampling, Stateful) else {}
    memory = SamplerAhead(sampler) if grpo.ahead else sampler
    module = GRPOModule(vlm, grpo, {"sampler": memory, **resampling})
    transcripts = Transcripts(
        folder, grpo.transcripts, recorder, seed=seed, extraction=grpo.reward.extraction
    )
    loader = prompt_loader(grpo, experience, sampler, problems, seed)
    seed_at = partial(rollout_seed, grpo, seed)
    ahead = RolloutsAhead(experience, loader, memory, seed_at) if isinstance(memory, SamplerAhead) else None
    collect = partial(_collect, experience, loader, seed_at) if ahead is None else ahead.collect
    waiting, told = list[GRPOBatch](), set[str]()  # batches of the latest rollout, one per update; findings

    def next_batch(step: int) -> GRPOBatch:
        if step % grpo.updates == 0:
            if not waiting:
                transcripts.drop_after(step)
            rollouts, waiting[:] = collect(step, module.version)
            memory.observe(experience.accuracy)
            _warn_once(waiting[0].metrics, told, f"{title}, step {step + 1}")
            if (to_come := step + grpo.updates * (1 + grpo.ahead)) < grpo.steps:
                loader.prefetch(to_come)
            transcripts.add(rollouts, step)
        return waiting[step % grpo.updates]

    vlm.model.train()
    with contextlib.closing(ahead or loader):
        grpo.fit.run(module, next_batch, folder, title=title, boundary=grpo.updates, recorder=recorder)
    transcripts.close()


def _select_problems(grpo: GRPO, problems: Sequence[Problem], title: str) -> Sequence[Problem]:
    """The problems that the filter keeps. Raises UserError where a rollout batch needs more."""
    problems = filter_problems(problems, grpo.problem_filter)
    if len(problems) < grpo.prompts_per_rollout:
        raise UserError(
            f"{title}: grpo.prompts_per_rollout={grpo.prompts_per_rollout} is larger than the data "
            f"({len(problems)} problems); lower it or give more problems"
        )
    return problems


def _collect(
    experience: Experience, loader: PromptLoader, seed_at: Callable[[int], int], step: int, version: int
) -> tuple[ScoredRollouts, list[GRPOBatch]]:
    """The rollouts of optimiser step `step`, generated now, and one batch per update."""
    grpo = experience.grpo
    draw = partial(loader.next, step, prefetch_more=has_trait(grpo.resampling, "draws_again"))
    collected = experience.collect(draw(), seed=seed_at(step), version=version, step=step, more=draw)
    rest_servers(grpo.generator)
    return collected


def _warn_once(metrics: Mapping[str, Any], told: set[str], where: str) -> None:
    """Prints what the numbers of a rollout batch show and `told` doesn't hold yet, on the main rank."""
    fresh = {rule: text for rule, text in rollout_findings(metrics).items() if rule not in told}
    told.update(fresh)
    if distributed.is_main():
        for sentence in fresh.values():
            print(f"warning: {where}: {sentence}", flush=True)


def prompt_loader(
    grpo: GRPO, experience: Experience, sampler: PromptSampler, problems: Sequence[Problem], seed: int
) -> PromptLoader:
    """The loader of a run: problems by the sampler, tasks by the task builder, views by the rollout plan."""

    def views(step: int) -> tuple[list[ViewKey], int]:
        return rollout_views(grpo.at_step(step)), rollout_seed(grpo, seed, step)

    return PromptLoader(
        sampler,
        problems,
        size=grpo.prompts_per_rollout,
        build_tasks=None if grpo.task_builder is None else partial(build_tasks, grpo, seed=seed),
        prompt_cache=experience.prompt_cache,
        views=views,
        workers=grpo.fit.workers,
    )


def rollout_seed(grpo: GRPO, seed: int, step: int) -> int:
    """The seed of the rollout batch that optimiser step `step` uses."""
    return seed * 1_000_003 + step // grpo.updates


def build_tasks(grpo: GRPO, problem: Problem, *, seed: int) -> list[Problem]:
    """The problems that the task builder makes of one; the problem itself without a task builder."""
    if grpo.task_builder is None:
        return [problem]
    return grpo.task_builder(problem, random.Random(f"task/{seed}/{problem.id}"))

"""Generation: from problems to rollouts, by the rollout plan, and texts for reward terms that ask a model."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch

from openvlt import distributed
from openvlt.data.prompts import Renderer, pad_right
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.ops import stack_behaviour_logp
from openvlt.grpo.collect.plan import ViewSpec, row_origin, tag_with_view
from openvlt.grpo.collect.prompts import PLAIN, PromptBatch, PromptCache, view_key
from openvlt.grpo.collect.scoring import Models
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.vision_features import store_vision_features
from openvlt.rollout.base import AheadGenerator, GenerationRequest, Sampling
from openvlt.rollout.distributed import begin_on_ranks, generate_on_ranks
from openvlt.types import Completion, Origin, Problem, Prompts, Rollouts


class _Row(NamedTuple):
    """A completion, where it comes from, and the name of the view it was generated from."""

    completion: Completion
    origin: Origin
    view: str


def generate_rollouts(
    grpo: GRPO,
    vlm: VLM,
    prompt_cache: PromptCache,
    problems: Sequence[Problem],
    *,
    seed: int,
    version: int,
    draw: int = 0,
) -> Rollouts:
    """Completions of each problem with the log-probabilities they were sampled with, and its injected texts.

    `draw` counts the draws of one rollout batch (resampling): a problem that comes again gets other
    completions, from the same draw of an image view. `grpo` has its schedules resolved.
    """
    sampling_seed = random.Random(f"draw/{seed}/{draw}").getrandbits(62) if draw else seed
    plain = prompt_cache.get(problems, PLAIN, seed)
    prompts = add_vision_features(vlm, plain.prompts)
    specs, shown = grpo.rollout_plan.specs(grpo.group_size), PromptBatch(problems, prompts)
    requests = _requests(grpo, specs, prompt_cache, shown, seed, sampling_seed)
    answers = [generate_on_ranks(grpo.generator, vlm, *request) for request in requests]
    groups = _join_views(grpo, specs, prompt_cache.renderer, problems, answers)
    return _stack(vlm, problems, prompts, groups, version)


class PendingRollouts:
    """A rollout batch that servers generate while another one is learned from.

    They have the weights of `vlm` at this moment, which are those of `version`. `prompt_cache` is its own.
    """

    def __init__(
        self,
        grpo: GRPO,
        vlm: VLM,
        prompt_cache: PromptCache,
        problems: Sequence[Problem],
        *,
        seed: int,
        version: int,
    ) -> None:
        self.grpo, self.vlm, self.prompt_cache, self.problems = grpo, vlm, prompt_cache, problems
        self.version, self.waited = version, 0.0
        self.specs = grpo.rollout_plan.specs(grpo.group_size)
        self.shown = prompt_cache.get(problems, PLAIN, seed)
        requests = list(_requests(grpo, self.specs, prompt_cache, self.shown, seed, seed))
        self.pending = begin_on_ranks(cast(AheadGenerator, grpo.generator), vlm, requests)
        self._rollouts: Rollouts | None = None

    @property
    def seconds(self) -> float:
        """How long the completions took to generate."""
        return self.pending.seconds

    def wait(self) -> Rollouts:
        """The rollout batch. Raises UserError for a completion whose age can't be corrected for."""
        if self._rollouts is None:
            began = time.perf_counter()
            answers = self.pending.wait()
            self.waited = time.perf_counter() - began
            for completion in (one for completions in answers for one in completions):
                if len(completion.logp) != len(completion.token_ids):
                    raise UserError(
                        "rollout.ahead=1 needs the probability that each token was sampled with, and the "
                        "generator gives none; set rollout.ahead=0"
                    )
            renderer = self.prompt_cache.renderer
            groups = _join_views(self.grpo, self.specs, renderer, self.problems, answers)
            prompts = add_vision_features(self.vlm, self.shown.prompts)
            self._rollouts = _stack(self.vlm, self.problems, prompts, groups, self.version)
        return self._rollouts

    def cancel(self) -> None:
        """Gives it up."""
        self.pending.cancel()


def _requests(
    grpo: GRPO,
    specs: Mapping[str, ViewSpec],
    prompt_cache: PromptCache,
    plain: PromptBatch,
    seed: int,
    sampling_seed: int,
) -> Iterator[GenerationRequest]:
    """What is asked for each view of the rollout plan, one after the other."""
    for name, spec in specs.items():
        shown = plain
        if spec.view is not None:
            shown = prompt_cache.get(plain.problems, view_key(spec), seed)
        tagged = [tag_with_view(problem, name) for problem in shown.problems]
        yield GenerationRequest(tagged, shown.prompts, replace(grpo.sampling, n=spec.n), sampling_seed)


def _join_views(
    grpo: GRPO,
    specs: Mapping[str, ViewSpec],
    renderer: Renderer,
    problems: Sequence[Problem],
    answers: Sequence[Sequence[Completion]],
) -> list[list[_Row]]:
    """The rows of each problem: its completions from every view, and its injected texts."""
    groups: list[list[_Row]] = [[] for _ in problems]
    for (name, spec), completions in zip(specs.items(), answers, strict=True):
        for number, completion in enumerate(completions):
            group = number // spec.n
            groups[group].append(_Row(completion, row_origin(problems[group], spec), name))
    for group, problem in zip(groups, problems, strict=True):
        for text in grpo.rollout_plan.inject(problem):
            completion = injected_completion(renderer, text)
            group.append(_Row(completion, Origin.INJECTED, "given"))
    return groups


def _stack(
    vlm: VLM, problems: Sequence[Problem], prompts: Prompts, groups: list[list[_Row]], version: int
) -> Rollouts:
    """The rows of all groups in one batch, padded on the right."""
    rows = [row for group in groups for row in group]
    completions = [row.completion for row in rows]
    ids_NT, mask_NT = pad_right([completion.token_ids for completion in completions], vlm.pad_id)
    sizes = torch.tensor([len(group) for group in groups])
    return Rollouts(
        problems=tuple(problems),
        completions=tuple(completions),
        prompts=prompts,
        ids_NT=ids_NT,
        mask_NT=mask_NT,
        group_N=torch.arange(len(problems)).repeat_interleave(sizes),
        origin_N=torch.tensor([row.origin for row in rows]),
        view=tuple(row.view for row in rows),
        policy_version=version,
        behaviour_logp_NT=stack_behaviour_logp(completions, mask_NT),
    )


def add_vision_features(vlm: VLM, prompts: Prompts) -> Prompts:
    """The prompts with the features of a frozen vision tower; unchanged with several ranks.

    There each rank runs the tower on its own share of the prompts.
    """
    return store_vision_features(vlm, prompts) if distributed.world_size() == 1 else prompts


def injected_completion(renderer: Renderer, text: str) -> Completion:
    """A given text as a finished completion."""
    ids_NT, _ = renderer.responses([text])
    return Completion(tuple(ids_NT[0].tolist()), text, True)


def text_generator(
    grpo: GRPO, models: Models, renderer: Renderer
) -> Callable[[Sequence[Problem], str], list[str]]:
    """`generate(problems, model)`: greedy responses for reward terms that ask the policy or the reference."""
    sampling = Sampling(1, grpo.max_new_tokens, greedy=True)

    def generate(problems: Sequence[Problem], model: str) -> list[str]:
        prompts = renderer.prompts(problems)
        with models.borrow(model) as vlm:
            completions = generate_on_ranks(grpo.generator, vlm, problems, prompts, sampling, 0)
        return [completion.text for completion in completions]

    return generate

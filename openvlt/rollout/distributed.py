"""Generation on all ranks: each generates for its share of the problems and gets all completions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from openvlt import distributed
from openvlt.model.load import VLM
from openvlt.model.shard import whole_weights
from openvlt.rollout.base import (
    AheadGenerator,
    GenerationRequest,
    Generator,
    PendingCompletions,
    Sampling,
    ServedGenerator,
)
from openvlt.types import Completion, Problem, Prompts


def generate_on_ranks(
    generator: Generator,
    vlm: VLM,
    problems: Sequence[Problem],
    prompts: Prompts,
    sampling: Sampling,
    seed: int,
) -> list[Completion]:
    """Returns what `Generator.generate` returns; the number of ranks makes no difference.

    That is so because a completion doesn't depend on the others in its batch.
    """
    mine, block = distributed.take_share(range(len(problems))), whole_weights(vlm.model)
    if isinstance(generator, ServedGenerator):
        generator.sync(vlm)
        block = contextlib.nullcontext()  # this process needs none of the others' shards meanwhile
    with block:  # also on a rank without a problem: all gather the weights together
        if len(mine) == len(problems):
            part = generator.generate(vlm, problems, prompts, sampling, seed)
        else:
            own = [problems[row] for row in mine]
            part = generator.generate(vlm, own, prompts.select(mine), sampling, seed) if own else []
    return distributed.all_gather(part)


def begin_on_ranks(
    generator: AheadGenerator, vlm: VLM, requests: Sequence[GenerationRequest]
) -> PendingCompletions:
    """Starts what `generate_on_ranks` does for each request, with the present weights, and returns at once.

    Ranks exchange messages here and in `wait`, which all of them call; in between none does.
    """
    generator.sync(vlm)
    return _SharedCompletions(generator.begin(vlm, [_own_part(request) for request in requests]))


def _own_part(request: GenerationRequest) -> GenerationRequest:
    mine = distributed.take_share(range(len(request.problems)))
    if len(mine) == len(request.problems):
        return request
    own = [request.problems[row] for row in mine]
    return request._replace(problems=own, prompts=request.prompts.select(mine))


@dataclass(frozen=True)
class _SharedCompletions:
    """Completions of which this process waits for its share."""

    own: PendingCompletions

    @property
    def seconds(self) -> float:
        return self.own.seconds

    def wait(self) -> list[list[Completion]]:
        parts = distributed.all_gather([self.own.wait()])
        return [[one for share in shares for one in share] for shares in zip(*parts, strict=True)]

    def cancel(self) -> None:
        self.own.cancel()

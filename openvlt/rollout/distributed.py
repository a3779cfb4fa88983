"""Generation on all ranks: each generates for its share of the problems and gets all completions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from openvlt import distributed
from openvlt.model.load import VLM
from openvlt.model.shard import whole_weights
from openvlt.rollout.base import Generator, Sampling, ServedGenerator
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

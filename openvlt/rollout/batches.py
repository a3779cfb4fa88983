"""Generation for many problems in batches: for evaluation, benchmarks, difficulty filter and distillation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling, rest_servers
from openvlt.rollout.distributed import generate_on_ranks
from openvlt.types import Completion, Problem


def generate_in_batches(
    generator: Generator,
    vlm: VLM,
    problems: Iterable[Problem],
    style: PromptStyle,
    sampling: Sampling,
    *,
    batch: int,
    seed: int,
) -> Iterator[tuple[list[Problem], list[Completion]]]:
    """Yields up to `batch` problems at a time with their completions, `sampling.n` each, problem by problem.

    Every rank generates its share of a batch and gets all completions. Problems are taken as they are needed,
    so that memory does not grow with their number.
    """
    renderer, waiting = Renderer(vlm.processor, style), iter(problems)
    while part := list(islice(waiting, batch)):
        yield part, generate_on_ranks(generator, vlm, part, renderer.prompts(part), sampling, seed)
    rest_servers(generator)

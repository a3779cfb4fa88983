"""The interface of every generator: problems in, completions out, no state shared with training."""

from __future__ import annotations

import contextlib
import hashlib
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from openvlt.errors import UserError
from openvlt.model.hf_types import HFModel, ModelConfig
from openvlt.model.load import VLM
from openvlt.model.shard import whole_weights
from openvlt.types import Completion, Problem, Prompts


@dataclass(frozen=True)
class Sampling:
    """How to decode: `n` completions per problem. With `greedy`, temperature, top_p and top_k have no effect.

    top_p 1 and top_k 0 mean no truncation. `stop` are strings that end a completion as a stop token does;
    they stay in its text. Raises UserError for several completions that could not differ.
    """

    n: int = 1
    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    greedy: bool = False
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"Sampling: n={self.n} and max_new_tokens={self.max_new_tokens} must be at least 1"
            )
        if self.temperature <= 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"Sampling: temperature={self.temperature} must be above 0 (greedy=true for argmax), "
                f"top_p={self.top_p} in (0, 1], top_k={self.top_k} at least 0"
            )
        if self.n > 1 and not self.random:
            raise UserError(
                f"{self.n} samples of a problem would all be the same; "
                "set sampling.greedy=false and top_k=0, or ask for one"
            )
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"Sampling: stop={self.stop!r} must be a list of strings, none empty")

    @property
    def random(self) -> bool:
        """Whether two completions of a problem can differ."""
        return not self.greedy and self.top_k != 1


class Generator(Protocol):
    """What generates completions; see `PrefixGenerator` and `HFGenerator`."""

    def generate(
        self, vlm: VLM, problems: Sequence[Problem], prompts: Prompts, sampling: Sampling, seed: int
    ) -> list[Completion]:
        """Generates `sampling.n` completions per problem, problem by problem.

        A row's random draws depend on `seed`, its problem's id and its number there. So a completion doesn't
        depend on the others in its batch.
        """
        ...


@runtime_checkable
class ServedGenerator(Protocol):
    """A generator whose weights lie elsewhere: it is given those of the model before it generates."""

    def check(self, config: ModelConfig) -> None:
        """Raises UserError, before a run begins, when it can't work for a model with this config."""
        ...

    def sync(self, vlm: VLM) -> None:
        """Brings the weights to where they are used; all processes take part."""
        ...

    def rest(self) -> None:
        """Gives memory back until the next `sync`; all processes take part."""
        ...


class GenerationRequest(NamedTuple):
    """What `Generator.generate` is asked for, without the model."""

    problems: Sequence[Problem]
    prompts: Prompts
    sampling: Sampling
    seed: int


class PendingCompletions(Protocol):
    """Completions that are being generated: either `wait` for them, or `cancel`."""

    @property
    def seconds(self) -> float:
        """How long they took to generate; known after `wait`."""
        ...

    def wait(self) -> list[list[Completion]]:
        """The completions of each request. Raises what generating them raised."""
        ...

    def cancel(self) -> None:
        """Gives them up, without waiting for them; afterwards it does nothing."""
        ...


@runtime_checkable
class AheadGenerator(ServedGenerator, Protocol):
    """A served generator that can generate while the model learns, with the weights of the last `sync`."""

    @property
    def ahead(self) -> int:
        """How many rollout batches are generated ahead of the one that is learned from: 0 or 1."""
        ...

    def begin(self, vlm: VLM, requests: Sequence[GenerationRequest]) -> PendingCompletions:
        """Starts to generate what `generate` would give for each request, and returns at once.

        Until the result has come or is cancelled, `sync` refuses other weights. What works beside this thread
        uses neither the model nor messages between processes.
        """
        ...


def rollouts_ahead(generator: Generator) -> int:
    """How many rollout batches a generator works ahead; 0 for one that needs the model itself."""
    return generator.ahead if isinstance(generator, AheadGenerator) else 0


def check_servers(generator: Generator, build_model: Callable[[], HFModel]) -> None:
    """Raises UserError when a generator's servers, where it has some, can't be used for the model."""
    if isinstance(generator, ServedGenerator):
        generator.check(build_model().config)


def check_judge(generator: object, judge: object) -> None:
    """Raises UserError for a judge at a server that the generator fills with the weights of a policy."""
    own = {_host_and_port(url) for url in getattr(generator, "urls", ())}
    for endpoint in getattr(judge, "endpoints", ()):
        if _host_and_port(endpoint.url) in own:
            raise UserError(
                f"the judge at {endpoint.url} is one of rollout.urls, which hold the policy's weights: it "
                "would change with every update; start a server of its own for it: python -m openvlt.serving "
                "<the judge's folder> --port <another>"
            )


def _host_and_port(url: str) -> tuple[str, int | None]:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    return "127.0.0.1" if host == "localhost" else host, parts.port


def rest_servers(generator: Generator) -> None:
    """Lets a generator's servers give their memory back, where it has some; all processes take part."""
    if isinstance(generator, ServedGenerator):
        generator.rest()


@contextlib.contextmanager
def generating(model: HFModel) -> Iterator[None]:
    """Inside, the model is in eval mode, with its cache and without gradients; after, all is as before.

    The weights of a sharded model are whole inside: all processes enter and leave it together.
    """
    modes, config = [(part, part.training) for part in model.modules()], model.config.get_text_config()
    use_cache = config.use_cache
    model.eval()
    config.use_cache = True
    try:
        # not inference_mode: tensors that the model caches under it could not be used in training later
        with torch.no_grad(), whole_weights(model):
            yield
    finally:
        config.use_cache = use_cache
        # each part its own: a frozen tower may be in eval mode inside a training model
        for part, training in modes:
            part.training = training


def row_uniforms(problems: Sequence[Problem], sampling: Sampling, seed: int) -> np.ndarray:
    """Uniform draws (N, max_new_tokens) in [0, 1), one stream per row.

    A stream's key is the seed, the problem's id and the row's number among the problem's rows.
    """
    rows = []
    for problem in problems:
        for sample in range(sampling.n):
            key = hashlib.blake2b(f"{seed}|{problem.id}|{sample}".encode(), digest_size=16).digest()
            bits = np.random.Philox(key=np.frombuffer(key, dtype=np.uint64))
            rows.append(np.random.Generator(bits).random(sampling.max_new_tokens))
    return np.stack(rows)

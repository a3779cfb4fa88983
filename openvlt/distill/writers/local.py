"""A model in this process as a writer of captions and chains."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from openvlt.config.validate import check_positive
from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.distill.writers.base import CAPTION_TEMPLATE, Question
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling
from openvlt.rollout.distributed import generate_on_ranks
from openvlt.serving.protocol import Reply, Usage
from openvlt.storage.ledger import content_key


@dataclass(frozen=True)
class LocalWriter:
    """A model in this process: the run's own, or `model` (any `PretrainedModel`, or a `TextModel` that reads captions).

    `batch` questions are put before the generator at a time; an answer that hit the token limit is marked unfinished.
    """

    generator: Generator
    prompt: PromptStyle
    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    batch: int = 256
    model: Any = None
    template: str = CAPTION_TEMPLATE

    def __post_init__(self) -> None:
        check_positive(self, "", "batch")
        self._sampling(1)  # raises where it can't be sampled so: now, not when the first question comes

    def _sampling(self, samples: int) -> Sampling:
        return Sampling(samples, self.max_new_tokens, self.temperature, self.top_p, greedy=self.greedy)

    @property
    def local(self) -> bool:
        return self.model is None

    @property
    def random(self) -> bool:
        return self._sampling(1).random

    def signature(self, vlm: VLM | None) -> Any:
        sampling = None if self.greedy else (self.temperature, self.top_p)
        model = fingerprint(vlm.path if self.local else self.model.path)
        return ["local", model, repr(self.prompt), self.max_new_tokens, sampling, self.template]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `Engine`; all samples of a question are written together, missing or not."""
        questions, sampling = iter(questions), self._sampling(samples)
        vlm = vlm if self.local else None
        while part := list(islice(questions, self.batch)):
            vlm = vlm or self.model.load()
            told = [question.as_prompt(self.template) for question in part]
            prompts = Renderer(vlm.processor, self.prompt).prompts(told)
            rows = iter(generate_on_ranks(self.generator, vlm, told, prompts, sampling, seed))
            for question in part:
                for sample in range(samples):
                    row = next(rows)
                    reply = Reply(row.text, row.finished, output_tokens=len(row.token_ids))
                    usage.count(reply)
                    yield question, sample, reply


def fingerprint(path: str) -> Any:
    """A model folder by its files' sizes and a sample of their bytes, so that a folder may move; a hub id by its name."""
    files = sorted(Path(path).glob("*.safetensors")) if path and Path(path).is_dir() else []
    return content_key(*((file.stat().st_size, _sample(file)) for file in files)) if files else path


def _sample(file: Path) -> str:
    """Four pieces of 64 KiB, spread over a file."""
    size, digest = file.stat().st_size, hashlib.blake2b(digest_size=16)
    with file.open("rb") as handle:
        for part in range(4):
            handle.seek(size * part // 4)
            digest.update(handle.read(65536))
    return digest.hexdigest()

"""A model in this process as a writer of captions and chains."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

from openvlt.config.validate import check_positive
from openvlt.data.prompts import PromptStyle
from openvlt.distill.writers.base import CAPTION_TEMPLATE, Question
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling
from openvlt.rollout.batches import generate_in_batches
from openvlt.serving.protocol import Reply, Usage
from openvlt.storage.ledger import content_key


@dataclass(frozen=True)
class LocalWriter:
    """The run's own model, or `model` (any `PretrainedModel`, or a `TextModel` that reads captions).

    `batch` questions are generated at a time. A reply that hit the token limit is marked unfinished.
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
        self._sampling(1)  # raises for settings that can't be: now, not when the first question comes

    def _sampling(self, samples: int) -> Sampling:
        return Sampling(samples, self.max_new_tokens, self.temperature, self.top_p, greedy=self.greedy)

    @property
    def local(self) -> bool:
        """Whether the run's own model writes."""
        return self.model is None

    @property
    def random(self) -> bool:
        """Whether two samples can differ."""
        return self._sampling(1).random

    def signature(self, vlm: VLM | None) -> Any:
        """See `TextWriter`."""
        sampling = None if self.greedy else (self.temperature, self.top_p)
        model = fingerprint(_run_model(vlm).path if self.local else self.model.path)
        return ["local", model, repr(self.prompt), self.max_new_tokens, sampling, self.template]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `TextWriter`; all samples of a question are written together, missing or not."""
        questions = iter(questions)
        if (first := next(questions, None)) is None:
            return  # a model of its own isn't loaded for nothing
        writer = _run_model(vlm) if self.local else self.model.load()
        ahead, waiting = tee(chain([first], questions))
        for prompts, completions in generate_in_batches(
            self.generator,
            writer,
            (question.as_prompt(self.template) for question in ahead),
            self.prompt,
            self._sampling(samples),
            batch=self.batch,
            seed=seed,
        ):
            rows = iter(completions)
            for question in islice(waiting, len(prompts)):
                for sample in range(samples):
                    row = next(rows)
                    reply = Reply(row.text, row.finished, output_tokens=len(row.token_ids))
                    usage.count(reply)
                    yield question, sample, reply


def _run_model(vlm: VLM | None) -> VLM:
    assert vlm is not None, "a local writer without a model of its own needs the run's"
    return vlm


def fingerprint(path: str) -> Any:
    """What identifies a model: the hub id; for a folder the sizes and a sample of the bytes of its weights.

    So a folder may move.
    """
    files = sorted(Path(path).glob("*.safetensors")) if path and Path(path).is_dir() else []
    return content_key(*((file.stat().st_size, _sample_bytes(file)) for file in files)) if files else path


def _sample_bytes(file: Path) -> str:
    """The digest of four pieces of 64 KiB, spread over a file."""
    size, digest = file.stat().st_size, hashlib.blake2b(digest_size=16)
    with file.open("rb") as handle:
        for part in range(4):
            handle.seek(size * part // 4)
            digest.update(handle.read(65536))
    return digest.hexdigest()

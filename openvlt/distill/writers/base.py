"""Who writes captions and chains: a local model, a server, a function, or nobody (the known answer). Each is asked the same way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from openvlt import distributed
from openvlt.config.validate import positive
from openvlt.data.prompts import PromptStyle, Renderer, question_text
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling
from openvlt.rollout.distributed import generate
from openvlt.serving.client import Server
from openvlt.serving.image_payload import image_url
from openvlt.serving.protocol import Ask, Reply, Usage
from openvlt.storage.ledger import content_key
from openvlt.types import Problem

TOLD = "Description:\n{caption}\n\nQuestion:\n{question}"


@dataclass(frozen=True)
class Question:
    """A problem as a writer gets it. With a `caption` the writer reads that and never the image; `missing` numbers the samples wanted."""

    problem: Problem
    caption: str | None
    missing: tuple[int, ...]

    def told(self, template: str) -> Problem:
        """What is put before a model: the problem itself, or a text of the caption and the question with its options."""
        if self.caption is None:
            return self.problem
        text = template.format(caption=self.caption, question=question_text(self.problem))
        return replace(self.problem, question=text, images=(), choices=None)


class Engine(Protocol):
    """`write` answers questions as they are done, in any order, with at least the missing samples of each.

    `signature` is what an answer depends on besides question and seed, so that other settings are other calls; where a model runs and
    who pays for it is no part of it. `local` says whether the run's own model is needed, `random` whether two samples can differ.
    """

    @property
    def local(self) -> bool: ...

    @property
    def random(self) -> bool: ...

    def signature(self, vlm: VLM | None) -> Any: ...

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]: ...


@dataclass(frozen=True)
class Local:
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
    template: str = TOLD

    def __post_init__(self) -> None:
        positive(self, "", "batch")
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
            told = [question.told(self.template) for question in part]
            prompts = Renderer(vlm.processor, self.prompt).prompts(told)
            rows = iter(generate(self.generator, vlm, told, prompts, sampling, seed))
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


@dataclass(frozen=True)
class Served:
    """A model behind a `server`. Captions are told by `template`; images are sent within the request, at most `max_pixels` large."""

    server: Server
    prompt: PromptStyle
    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    max_pixels: int | None = 1048576
    template: str = TOLD
    local: bool = field(default=False, init=False)

    @property
    def random(self) -> bool:
        asked = {"temperature": self.temperature, **self.server.options}
        return asked["temperature"] != 0 and asked.get("top_k") != 1

    def signature(self, vlm: VLM | None) -> Any:
        options = dict(self.server.options)
        return ["served", self.server.models, repr(self.prompt), self.max_new_tokens, self.temperature, self.top_p, options, self.template]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `Engine`; every sample is a request of its own, with a seed of its own, and only the missing ones are sent, by one rank."""
        if distributed.count() == 1:  # the usual case holds no reply in memory
            yield from self._ask(questions, seed, usage)
        elif distributed.is_main():
            sent = []
            for question, sample, reply in self._ask(questions, seed, usage):
                sent.append((question.problem.id, sample, reply))
                yield question, sample, reply
            distributed.agreed(sent)
        else:
            known = {question.problem.id: question for question in questions}
            for name, sample, reply in distributed.agreed(()):
                yield known[name], sample, reply

    def _ask(self, questions: Iterable[Question], seed: int, usage: Usage) -> Iterator[tuple[Question, int, Reply]]:
        asked: dict[str, tuple[Question, int]] = {}

        def asks() -> Iterator[Ask]:
            for question in questions:
                messages = self.messages(question)
                for sample in question.missing:
                    key = content_key(question.problem.id, sample)
                    asked[key] = question, sample
                    yield Ask(messages, self.options(question, sample, seed), key)

        for ask, reply in self.server.stream(asks(), usage):
            yield *asked.pop(ask.key), reply

    def options(self, question: Question, sample: int, seed: int) -> dict[str, Any]:
        """The decoding options of one request; servers that take a seed give the same answer to the same request again."""
        own = int(content_key(seed, question.problem.id, sample)[:7], 16)
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_new_tokens, "seed": own}

    def messages(self, question: Question) -> list[dict[str, Any]]:
        """The conversation in the protocol's form; plain text where there is no image."""
        told, messages = question.told(self.template), []
        for message in self.prompt.messages(told):
            images = iter(told.images)
            parts = [self._image(next(images), told.id) if part["type"] == "image" else part for part in message["content"]]
            plain = len(parts) == 1 and parts[0]["type"] == "text"
            messages.append({"role": message["role"], "content": parts[0]["text"] if plain else parts})
        return messages

    def _image(self, image: Any, row: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": image_url(image, row, self.max_pixels)}}


@dataclass(frozen=True)
class Function:
    """`function(caption, question, rng)` writes a chain: the procedural stand-in for a text reasoner, or code of your own."""

    function: Callable[[str, str, random.Random], str]
    local: bool = field(default=False, init=False)
    random: bool = field(default=True, init=False)

    def signature(self, vlm: VLM | None) -> Any:
        inner = getattr(self.function, "func", self.function)
        return ["function", f"{inner.__module__}.{inner.__qualname__}", repr(getattr(self.function, "keywords", {}))]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `Engine`. The function never sees the image: without a caption there is nothing it could read."""
        for question in questions:
            if question.caption is None:
                raise UserError("a function reasons over captions, but this distillation makes none; set distill.caption")
            for sample in question.missing:
                rng = random.Random(f"{seed}|{question.problem.id}|{sample}")
                reply = Reply(self.function(question.caption, question_text(question.problem), rng))
                usage.count(reply)
                yield question, sample, reply


@dataclass(frozen=True)
class Gold:
    """No reasoning at all: the known answer in its tags. For smoke tests on rows that nobody has written traces for."""

    local: bool = field(default=False, init=False)
    random: bool = field(default=False, init=False)

    def signature(self, vlm: VLM | None) -> Any:
        return ["gold"]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `Engine`."""
        for question in questions:
            for sample in question.missing:
                yield question, sample, Reply(f"<think></think><answer>{question.problem.answer}</answer>")


@dataclass(frozen=True)
class Known:
    """Captions that the data came with (`meta["caption"]`, generated figures have it): what a faultless captioner would say."""

    local: bool = field(default=False, init=False)
    random: bool = field(default=False, init=False)

    def signature(self, vlm: VLM | None) -> Any:
        return ["known"]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `Engine`. Raises UserError for a problem without one."""
        for question in questions:
            if "caption" not in question.problem.meta:
                raise UserError(f"row {question.problem.id!r} came without a caption; take another engine for distill.caption")
            yield question, 0, Reply(question.problem.meta["caption"])


def reasoner_wanted() -> None:
    """Stands where a configuration leaves the reasoner open. Raises UserError as soon as it is built."""
    raise UserError(
        "no value for reasoner: traces from captions need a text model that reasons; give 'reasoner={_target_: "
        "<callable (caption, question, rng) -> chain>, _partial_: true}', or take distill=served, whose reasoner is a server"
    )

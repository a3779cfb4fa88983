"""Writers without a model: a function, the gold answer, captions that came with the data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from openvlt.data.prompts import question_text
from openvlt.distill.writers.base import Question
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.serving.protocol import Reply, Usage


@dataclass(frozen=True)
class ScriptedWriter:
    """`function(caption, question, rng)` writes a chain: the procedural stand-in for a text reasoner, or code of your own."""

    function: Callable[[str, str, random.Random], str]
    local: bool = field(default=False, init=False)
    random: bool = field(default=True, init=False)

    def signature(self, vlm: VLM | None) -> Any:
        inner = getattr(self.function, "func", self.function)
        return [
            "function",
            f"{inner.__module__}.{inner.__qualname__}",
            repr(getattr(self.function, "keywords", {})),
        ]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `Engine`. The function never sees the image: without a caption there is nothing it could read."""
        for question in questions:
            if question.caption is None:
                raise UserError(
                    "a function reasons over captions, but this distillation makes none; set distill.caption"
                )
            for sample in question.missing:
                rng = random.Random(f"{seed}|{question.problem.id}|{sample}")
                reply = Reply(self.function(question.caption, question_text(question.problem), rng))
                usage.count(reply)
                yield question, sample, reply


@dataclass(frozen=True)
class GoldAnswers:
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
class GivenCaptions:
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
                raise UserError(
                    f"row {question.problem.id!r} came without a caption; take another engine for distill.caption"
                )
            yield question, 0, Reply(question.problem.meta["caption"])


def require_reasoner() -> None:
    """Stands where a configuration leaves the reasoner open. Raises UserError as soon as it is built."""
    raise UserError(
        "no value for reasoner: traces from captions need a text model that reasons; give 'reasoner={_target_: "
        "<callable (caption, question, rng) -> chain>, _partial_: true}', or take distill=served, whose reasoner is a server"
    )

"""Writers without a model: a function, the gold answers, captions that came with the data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from openvlt.data.image_places import hide_images
from openvlt.data.prompts import conversation_text
from openvlt.distill.writers.base import Question
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.serving.protocol import Reply, Usage


@dataclass(frozen=True)
class ScriptedWriter:
    """A function `(caption, question, rng) -> chain`: the reasoner of `distill.reason`, or your own code."""

    function: Callable[[str, str, random.Random], str]
    local: bool = field(default=False, init=False)
    random: bool = field(default=True, init=False)

    def signature(self, vlm: VLM | None) -> Any:
        """See `TextWriter`."""
        inner = getattr(self.function, "func", self.function)
        return [
            "function",
            f"{inner.__module__}.{inner.__qualname__}",
            repr(getattr(self.function, "keywords", {})),
        ]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `TextWriter`. Raises UserError for a question without a caption: the image is never seen."""
        for question in questions:
            if question.caption is None:
                raise UserError(
                    "a function reasons over captions, but this distillation makes none; set distill.caption"
                )
            text = conversation_text(hide_images(question.problem))
            for sample in question.missing:
                rng = random.Random(f"{seed}|{question.problem.id}|{sample}")
                reply = Reply(self.function(question.caption, text, rng))
                usage.count(reply)
                yield question, sample, reply


@dataclass(frozen=True)
class GoldAnswers:
    """The gold answer in its tags, without reasoning: for smoke tests on rows without traces."""

    local: bool = field(default=False, init=False)
    random: bool = field(default=False, init=False)

    def signature(self, vlm: VLM | None) -> Any:
        """See `TextWriter`."""
        return ["gold"]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `TextWriter`."""
        for question in questions:
            for sample in question.missing:
                yield question, sample, Reply(f"<think></think><answer>{question.problem.answer}</answer>")


@dataclass(frozen=True)
class GivenCaptions:
    """Captions that came with the problems in `meta["caption"]`, as those of generated figures do."""

    local: bool = field(default=False, init=False)
    random: bool = field(default=False, init=False)

    def signature(self, vlm: VLM | None) -> Any:
        """See `TextWriter`."""
        return ["known"]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `TextWriter`. Raises UserError for a problem without a caption."""
        for question in questions:
            if "caption" not in question.problem.meta:
                raise UserError(
                    f"row {question.problem.id!r} came without a caption; "
                    "take another writer for distill.caption"
                )
            yield question, 0, Reply(question.problem.meta["caption"])


def require_reasoner() -> None:
    """Raises UserError: the `_target_` of a reasoner that the user has to choose."""
    raise UserError(
        "no value for reasoner: traces from captions need a text model that reasons; "
        "give 'reasoner={_target_: <callable (caption, question, rng) -> chain>, _partial_: true}', "
        "or take distill=served, whose reasoner is a server"
    )

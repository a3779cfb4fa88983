"""Who writes captions and chains: a local model, a server, a function, or nobody (the known answer). Each is asked the same way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from openvlt.data.prompts import question_text
from openvlt.model.load import VLM
from openvlt.serving.protocol import Reply, Usage
from openvlt.types import Problem

CAPTION_TEMPLATE = "Description:\n{caption}\n\nQuestion:\n{question}"


@dataclass(frozen=True)
class Question:
    """A problem as a writer gets it. With a `caption` the writer reads that and never the image; `missing` numbers the samples wanted."""

    problem: Problem
    caption: str | None
    missing: tuple[int, ...]

    def as_prompt(self, template: str) -> Problem:
        """What is put before a model: the problem itself, or a text of the caption and the question with its options."""
        if self.caption is None:
            return self.problem
        text = template.format(caption=self.caption, question=question_text(self.problem))
        return replace(self.problem, question=text, images=(), choices=None)


class TextWriter(Protocol):
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

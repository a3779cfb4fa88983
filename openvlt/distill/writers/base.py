"""What writers of captions and chains have in common: the question they get, and how they are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from openvlt.data.image_places import hide_images
from openvlt.data.prompts import question_text
from openvlt.model.load import VLM
from openvlt.serving.protocol import Reply, Usage
from openvlt.types import Problem

CAPTION_TEMPLATE = "Description:\n{caption}\n\nQuestion:\n{question}"


@dataclass(frozen=True)
class Question:
    """A problem for a writer, and the numbers of its `missing` samples.

    With a `caption` the writer reads that and never sees the image.
    """

    problem: Problem
    caption: str | None
    missing: tuple[int, ...]

    def as_prompt(self, template: str) -> Problem:
        """The problem that a model is shown: itself, or a text of caption, question and options."""
        if self.caption is None:
            return self.problem
        hidden = hide_images(self.problem)
        text = template.format(caption=self.caption, question=question_text(hidden))
        return replace(hidden, question=text, choices=None)


class TextWriter(Protocol):
    """A writer of captions or chains: a local model, a server, a function, or given texts.

    `local`: whether it needs the run's own model. `random`: whether two samples can differ.
    """

    @property
    def local(self) -> bool: ...

    @property
    def random(self) -> bool: ...

    def signature(self, vlm: VLM | None) -> Any:
        """What a reply depends on besides question and seed, as part of its ledger key.

        Where a model runs and who pays for it are left out.
        """
        ...

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """Yields (question, sample number, reply) as they are done, in any order; adds each reply to `usage`.

        Every question gets at least its missing samples, at most all `samples`. `vlm` is the run's own model.
        """
        ...

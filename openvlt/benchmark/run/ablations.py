"""Input ablations: what a model is shown of a row, all of it or less, to learn what a score is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from PIL import Image

from openvlt import distributed
from openvlt.benchmark.prompts import fill_template
from openvlt.benchmark.run.answers import AnswerGenerator
from openvlt.data.image_places import hide_images
from openvlt.data.images import image_size
from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.types import Problem


class InputAblation(Protocol):
    """From prompts to the prompts that are asked. `name` stands beside the score, unless it is "whole".

    `needs_images` is False for one that shows none.

    `generator` is for an ablation that asks the model itself; `folder` is the run's, for what it writes.
    """

    name: ClassVar[str]
    needs_images: ClassVar[bool]

    def __call__(
        self, vlm: VLM, problems: Sequence[Problem], generator: AnswerGenerator, folder: Path
    ) -> list[Problem]: ...


@dataclass(frozen=True)
class WholeInput:
    """The row as it is."""

    name: ClassVar[str] = "whole"
    needs_images: ClassVar[bool] = True

    def __call__(
        self, vlm: VLM, problems: Sequence[Problem], generator: AnswerGenerator, folder: Path
    ) -> list[Problem]:
        return list(problems)


@dataclass(frozen=True)
class TextOnly:
    """No image: what the words, and guessing, give."""

    name: ClassVar[str] = "text only"
    needs_images: ClassVar[bool] = False

    def __call__(
        self, vlm: VLM, problems: Sequence[Problem], generator: AnswerGenerator, folder: Path
    ) -> list[Problem]:
        return [hide_images(problem) for problem in problems]


@dataclass(frozen=True)
class BlankImage:
    """White images of the same size: as many image tokens, and nothing to see."""

    name: ClassVar[str] = "blank image"
    needs_images: ClassVar[bool] = True

    def __call__(
        self, vlm: VLM, problems: Sequence[Problem], generator: AnswerGenerator, folder: Path
    ) -> list[Problem]:
        """Reads only the headers of image files, and writes one white image per size to `folder/blank`."""
        sizes = [[image_size(image, problem.id) for image in problem.images] for problem in problems]
        place = folder / "blank"
        if distributed.is_main():
            place.mkdir(parents=True, exist_ok=True)
            for size in {size for row in sizes for size in row}:
                Image.new("L", size, "white").save(_blank_file(place, size))
        distributed.barrier()
        return [
            replace(problem, images=tuple(_blank_file(place, size) for size in row))
            for problem, row in zip(problems, sizes, strict=True)
        ]


def _blank_file(folder: Path, size: tuple[int, int]) -> Path:
    return folder / f"{size[0]}x{size[1]}.png"


@dataclass(frozen=True)
class CaptionThenReason:
    """The model describes the images, then answers from its description alone (Prism, arXiv 2406.14544).

    `instruction` asks for the description without showing the question; `{caption}` and `{question}` fill
    `template`.
    """

    instruction: str
    template: str
    max_new_tokens: int
    name: ClassVar[str] = "caption then reason"
    needs_images: ClassVar[bool] = True

    def __call__(
        self, vlm: VLM, problems: Sequence[Problem], generator: AnswerGenerator, folder: Path
    ) -> list[Problem]:
        requests = [
            replace(problem, question=self.instruction, choices=None, turns=())
            for problem in problems
            if problem.images
        ]
        sampling = replace(generator.sampling, n=1, max_new_tokens=self.max_new_tokens)
        rows = replace(generator, sampling=sampling).generate(
            vlm, requests, PromptStyle(), folder / "captions.jsonl", "captions"
        )
        return replace_images(problems, {row["id"]: row["response"] for row in rows}, self.template)


@dataclass(frozen=True)
class SceneText:
    """Given text in the images' place: `file` is a JSON object, id -> text (caption, scene graph, OCR)."""

    file: str
    template: str
    name: ClassVar[str] = "scene text"
    needs_images: ClassVar[bool] = True

    def __call__(
        self, vlm: VLM, problems: Sequence[Problem], generator: AnswerGenerator, folder: Path
    ) -> list[Problem]:
        try:
            texts = json.loads(Path(self.file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"view.file={self.file} can't be read ({error}); give a JSON object of texts by row id"
            ) from None
        if not isinstance(texts, dict) or (
            missing := [p.id for p in problems if p.images and not isinstance(texts.get(p.id), str)]
        ):
            row = f"no text for row {missing[0]!r}" if isinstance(texts, dict) else "it is no object"
            raise UserError(f"view.file={self.file}: {row}; give a JSON object with a text for every row")
        return replace_images(problems, texts, self.template)


def replace_images(problems: Sequence[Problem], texts: dict[str, str], template: str) -> list[Problem]:
    """Questions with a text in the place of their images."""
    return [
        replace(hidden, question=fill_template(template, question=hidden.question, caption=texts[p.id]))
        if p.images
        else p
        for p, hidden in zip(problems, map(hide_images, problems), strict=True)
    ]

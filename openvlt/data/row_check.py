"""Whether a problem can be shown to a model: its pictures are read, its prompt is counted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from openvlt.data.errors import BadRows
from openvlt.data.image_tokens import ImageSize, count_image_tokens
from openvlt.data.images import image_size, open_image
from openvlt.data.prompts import Renderer
from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class RowSize:
    """The width and height of a row's pictures, and the tokens of its longest prompt (0 without a style)."""

    images: tuple[ImageSize, ...]
    tokens: int


@dataclass(frozen=True)
class RowCheck:
    """Finds what is wrong with rows before a run begins.

    Pictures are decoded whole, several at a time, or with `decode` false only their heads are read. Each of
    the `renderers`, one per prompt style, must be able to render the problem within its limit.
    """

    renderers: Sequence[Renderer] = ()
    decode: bool = True

    def __call__(self, problems: Sequence[Problem]) -> list[UserError | None]:
        """The error of each bad problem, None for a good one."""
        return [found if isinstance(found, UserError) else None for found in self.measure(problems)]

    def measure(self, problems: Sequence[Problem]) -> list[RowSize | UserError]:
        """The sizes of each good problem, the error of a bad one."""
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside of the GIL
            found = list(pool.map(self._image_sizes, problems))
        return [
            sizes if isinstance(sizes, UserError) else self._measure_prompts(problem, sizes)
            for problem, sizes in zip(problems, found, strict=True)
        ]

    def _image_sizes(self, problem: Problem) -> list[ImageSize] | UserError:
        try:
            if self.decode:
                return [open_image(image, problem.id).size for image in problem.images]
            return [image_size(image, problem.id) for image in problem.images]
        except UserError as error:
            return error

    def _measure_prompts(self, problem: Problem, sizes: Sequence[ImageSize]) -> RowSize | UserError:
        try:
            tokens = [check_prompt(renderer, problem, sizes) for renderer in self.renderers]
        except UserError as error:
            return error
        return RowSize(tuple(sizes), max(tokens, default=0))


def require_usable(check: RowCheck, problems: Sequence[Problem]) -> None:
    """Raises BadRows, with the number and the first of them, when a problem can't be shown to a model."""
    bad = [error for error in check(problems) if error is not None]
    if bad:
        raise BadRows(len(bad), len(problems), str(bad[0]), None) from bad[0]


def check_prompt(renderer: Renderer, problem: Problem, sizes: Sequence[ImageSize]) -> int:
    """The tokens of a problem's prompt, counted without processing its images where possible.

    Raises UserError when it can't be rendered.
    """
    text = renderer.text(problem)
    image_tokens = count_image_tokens(renderer.processor, problem, sizes)
    if image_tokens is not None:  # the text holds one mark per image already
        special = not renderer.begins_itself(text)
        tokens = renderer.processor.tokenizer(text, add_special_tokens=special).input_ids
        length = len(tokens) + image_tokens - len(sizes)
        if length <= renderer.style.max_tokens:
            return length
    try:
        return int(renderer.prompts([problem]).mask_PL.sum())
    except ValueError as error:
        raise UserError(
            f"row {problem.id!r}: the model's processor refuses it ({error}); mend or remove the row"
        ) from error

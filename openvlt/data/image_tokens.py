"""How many tokens a processor makes of a picture, and which sizes it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openvlt.data.images import image_name
from openvlt.errors import UserError
from openvlt.types import Problem

ImageSize = tuple[int, int]  # width, height


def count_image_tokens(processor: Any, problem: Problem, sizes: Sequence[ImageSize]) -> int | None:
    """The tokens of a problem's images; None where the processor can't tell without processing them.

    The processor itself is asked, so that the check holds for any family of models. Raises UserError that
    names the image and its size when the processor refuses it.
    """
    count = getattr(processor, "_get_num_multimodal_tokens", None)  # vLLM asks it, too
    if count is None:
        return None
    total = 0
    for image, (width, height) in zip(problem.images, sizes, strict=True):
        try:
            total += count(image_sizes=[(height, width)]).num_image_tokens[0]
        except ValueError as error:
            raise UserError(
                f"row {problem.id!r}: {image_name(image)} is {width} x {height} pixels large, which the "
                f"model's processor refuses ({error}); pad it, or cut it into parts"
            ) from error
    return total

"""Opens images as RGB, with an error that names the row, and turns them into `data:` URLs."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from openvlt.errors import UserError
from openvlt.types import Problem

# what Pillow raises over a broken image
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def open_image(image: Path | Image.Image, row: str) -> Image.Image:
    """RGB pixels of one image.

    Raises UserError that names the row when the file is missing or can't be decoded.
    """
    with _open(image, row) as file:
        return _rgb(file)


def image_size(image: Path | Image.Image, row: str) -> tuple[int, int]:
    """Width and height; of a file, only its head is read. Raises as `open_image` does."""
    with _open(image, row) as file:
        return file.size


@contextlib.contextmanager
def _open(image: Path | Image.Image, row: str) -> Iterator[Image.Image]:
    try:
        with contextlib.nullcontext(image) if isinstance(image, Image.Image) else Image.open(image) as file:
            yield file
    except FileNotFoundError:
        raise UserError(
            f"row {row!r}: image {image} does not exist; image paths are relative to the data file"
        ) from None
    except UNREADABLE as error:
        what = "the image in the row" if isinstance(image, Image.Image) else f"image {image}"
        raise UserError(
            f"row {row!r}: {what} can't be read ({error}); replace it or remove the row"
        ) from error


def _rgb(image: Image.Image) -> Image.Image:
    """The image in RGB; transparent parts become white, as on a page, not black."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    return image.convert("RGB")


def open_images(problem: Problem) -> list[Image.Image]:
    """All images of a problem, in order."""
    return [open_image(image, problem.id) for image in problem.images]


def data_url(image: Image.Image | bytes, form: str = "PNG") -> str:
    """An image as a `data:` URL; bytes are those of a file in this form."""
    if isinstance(image, Image.Image):
        file = BytesIO()
        image.save(file, form)
        image = file.getvalue()
    return f"data:image/{form.lower()};base64,{base64.b64encode(image).decode()}"

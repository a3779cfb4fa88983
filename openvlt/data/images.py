"""Opening images: one place that turns a path into RGB and a broken file into a sentence."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from openvlt.types import Problem, UserError


def open_image(image: Path | Image.Image, row: str) -> Image.Image:
    """RGB pixels of one image. Raises UserError that names the row when the file is missing or can't be decoded."""
    try:
        if isinstance(image, Image.Image):
            return _rgb(image)
        with Image.open(image) as file:
            return _rgb(file)
    except FileNotFoundError:
        raise UserError(f"row {row!r}: image {image} does not exist; image paths are relative to the data file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = "the image in the row" if isinstance(image, Image.Image) else f"image {image}"
        raise UserError(f"row {row!r}: {what} can't be read ({error}); replace it or remove the row") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Transparent parts become white, as a page would show them, not black."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    return image.convert("RGB")


def open_images(problem: Problem) -> list[Image.Image]:
    """All images of a problem, in order."""
    return [open_image(image, problem.id) for image in problem.images]

"""The one door for pictures: opens files, encoded bytes and pictures in memory as upright RGB."""

from __future__ import annotations

import base64
import contextlib
import re
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import cast

from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from openvlt.data.errors import UnreadableImage
from openvlt.data.pixels import UNREADABLE, to_rgb, upright_size
from openvlt.errors import UserError
from openvlt.types import EncodedImage, Problem

ImageSource = Path | Image.Image | EncodedImage

# formats that Pillow decodes itself (an EPS file would start Ghostscript)
FORMATS: tuple[str, ...] = tuple("AVIF BMP DIB GIF ICO JPEG JPEG2000 PCX PNG PPM TGA TIFF WEBP".split())
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `_open` has a limit of its own


def open_image(image: ImageSource, row: str) -> Image.Image:
    """RGB pixels of one picture, upright: its first frame, transparent parts white.

    Gray of more than 8 bits is scaled (see `openvlt.data.pixels`). A JPEG over Pillow's limit (179 million
    pixels) is decoded at a half, a quarter or an eighth of its width. Raises UserError that names the row
    when the file is missing or can't be decoded.
    """
    with _open(image, row) as file:
        return to_rgb(file)


def image_size(image: ImageSource, row: str) -> tuple[int, int]:
    """Width and height as `open_image` gives them; of a file, only its head is read. Raises as it does."""
    with _open(image, row) as file:
        return upright_size(file)


@contextlib.contextmanager
def _open(image: ImageSource, row: str) -> Iterator[Image.Image]:
    """The picture as stored, at its first frame. Raises UserError over what can't be opened or decoded."""
    try:
        with contextlib.nullcontext(image) if isinstance(image, Image.Image) else _open_file(image) as file:
            if not (file.width and file.height):
                raise ValueError(f"it is {file.width} x {file.height} pixels large")
            if getattr(file, "default_image", False) and getattr(file, "n_frames", 1) > 1:
                file.seek(1)  # the frame before it is for readers without animation
            yield file
    except FileNotFoundError:
        raise UserError(
            f"row {row!r}: image {image} does not exist; image paths are relative to the data file"
        ) from None
    except UNREADABLE as error:
        raise UnreadableImage(row, image_name(image), _explain(image, error)) from error


def _open_file(image: Path | EncodedImage) -> Image.Image:
    try:
        return Image.open(_source(image), formats=FORMATS)
    except Image.DecompressionBombError as error:
        return _open_enormous(image, error)


def _open_enormous(image: Path | EncodedImage, error: Image.DecompressionBombError) -> Image.Image:
    """A JPEG over Pillow's limit, to be decoded smaller: libjpeg can, without decoding the whole of it."""
    limit = Image.MAX_IMAGE_PIXELS or 0  # Pillow decodes up to twice as many
    pixels = re.search(r"\((\d+) pixels\)", str(error))
    large = f"{int(pixels[1]) / 1e6:.0f} million pixels" if pixels else "too many pixels"
    if _head(image)[:3] != b"\xff\xd8\xff":
        raise ValueError(f"it has {large}, at most {2 * limit / 1e6:.0f} million can be decoded; shrink it")
    file = JpegImagePlugin.JpegImageFile(_source(image))
    width, height = file.size
    for scale in (2, 4, 8):
        if (width // scale) * (height // scale) <= limit:
            file.draft(cast(str, None), (width // scale, height // scale))  # None: in its own mode
            return file
    raise ValueError(
        f"it is {width} x {height} pixels large, {large}; "
        f"of a JPEG at most {64 * limit / 1e6:.0f} million can be decoded; shrink it"
    )


def _source(image: Path | EncodedImage) -> BytesIO | Path:
    return BytesIO(image.data) if isinstance(image, EncodedImage) else image


def _head(image: Path | EncodedImage) -> bytes:
    """The first bytes of a picture's file."""
    if isinstance(image, EncodedImage):
        return image.data[:512]
    with image.open("rb") as file:
        return file.read(512)


def image_name(image: ImageSource) -> str:
    """What an error calls a picture."""
    if isinstance(image, EncodedImage):
        return f"the image in the row ({len(image.data)} bytes)"
    return "the image in the row" if isinstance(image, Image.Image) else f"image {image}"


def _explain(image: ImageSource, error: Exception) -> str:
    """Why a picture can't be read: what its file holds instead of one, or else Pillow's reason."""
    if isinstance(image, Image.Image):
        return str(error) or type(error).__name__
    try:
        head = _head(image)
    except IsADirectoryError:
        return "it is a folder"
    except OSError as fault:
        return fault.strerror or str(fault)
    if not head:
        return "it is empty"
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for mark, content in _NO_PICTURES.items():
        if text.startswith(mark) or text[4:].startswith(mark):
            return content
    if b"<svg" in text:
        return "it is an SVG drawing; save it as a PNG"
    if isinstance(error, UnidentifiedImageError):
        return f"it is no picture in a known format ({', '.join(FORMATS)})"
    return str(error) or type(error).__name__


_NO_PICTURES = {  # how files begin that are saved in a picture's place
    b"version https://git-lfs": "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`",
    b"<!doctype html": "it is a web page (HTML), the download failed",
    b"<html": "it is a web page (HTML), the download failed",
    b"<svg": "it is an SVG drawing; save it as a PNG",
    b"%pdf": "it is a PDF; save its page as a PNG",
    b"%!ps": "it is PostScript; save it as a PNG",
    b"ftyphei": "it is a HEIC photo; save it as a JPEG",
    b"ftypmif1": "it is a HEIC photo; save it as a JPEG",
    b"pk\x03\x04": "it is a zip archive; unpack it",
    b'{"': "it is JSON text, perhaps a server's error",
}


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

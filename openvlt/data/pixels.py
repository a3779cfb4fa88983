"""Pixels of any kind as 8-bit RGB, upright, on white: as a page in a browser shows them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

# what Pillow raises over a broken file
UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_UPRIGHT = {  # EXIF orientation -> what turns the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright copy in RGB; transparent parts become white, as on a page, not black.

    The copy has no metadata, so that nobody turns it a second time. Raises one of UNREADABLE.
    """
    image.load()  # a PNG may hold its orientation behind the pixels
    turn = _UPRIGHT.get(orientation(image))
    if image.mode in WIDE_MODES:
        image = _narrow(image)
    if image.has_transparency_data:
        # premultiplied gray has no way to RGBA of its own
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = image.convert("RGB")
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info = {}
    return upright


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of `to_rgb(image)`. Of a file only the head is read, unless it ends in metadata."""
    if image.format == "PNG" and "exif" not in image.info and _has_late_metadata(image):
        image.load()
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none, or where the EXIF data is broken."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        # the class's own method: a PNG's would decode the picture to look behind it
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except UNREADABLE:
        return 1
    return value if value in _UPRIGHT else 1


def _has_late_metadata(image: Image.Image) -> bool:
    """Whether a PNG that isn't loaded yet has metadata behind its pixels."""
    stream = getattr(image, "fp", None)
    if stream is None:
        return False
    position, behind, found = stream.tell(), False, False
    stream.seek(8)
    while not found and len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        behind = behind or kind == b"IDAT"
        found = behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        stream.seek(length + 4, 1)
    stream.seek(position)
    return found


def _narrow(image: Image.Image) -> Image.Image:
    """8-bit gray of wider gray, by the smallest usual range that holds its largest value.

    These are 0..255 (kept as it is) and 10, 12, 14 and 16 bits (the upper 8 bits are kept); for floats also
    0..1. Raises ValueError for any other range, and for values that aren't numbers.
    """
    gray = np.asarray(image)
    low, high = gray.min(), gray.max()
    if not (low >= 0 and high <= 65535):  # also where there is a NaN
        raise ValueError(
            f"its gray values go from {low:g} to {high:g}; known are 0..255 and 0..65535, "
            "for floats also 0..1: save it with 8 or 16 bits"
        )
    if image.mode == "F" and high <= 1:
        scaled = np.rint(gray * 255)
    else:
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 2**bits)
        scaled = gray // 2 ** (bits - 8)
    if getattr(image, "tag_v2", {}).get(262) == 0:  # a TIFF in which 0 is white
        scaled = 255 - scaled
    narrow = Image.fromarray(scaled.astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        narrow.putalpha(Image.fromarray(np.where(gray == clear, 0, 255).astype(np.uint8)))
    return narrow

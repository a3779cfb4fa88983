"""Images inside a request, and text models behind the one chat path."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image

from openvlt.data.images import data_url, open_image


def image_url(image: Path | Image.Image, row: str, max_pixels: int | None) -> str:
    """An image as a `data:` URL (PNG), scaled down to at most `max_pixels`. Raises UserError where it can't be read."""
    picture = open_image(image, row)
    if max_pixels is not None and picture.width * picture.height > max_pixels:
        scale = math.sqrt(max_pixels / (picture.width * picture.height))
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    return data_url(picture)

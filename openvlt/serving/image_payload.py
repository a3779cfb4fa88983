"""Images inside a request."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image

from openvlt.data.images import data_url, open_image


def image_url(image: Path | Image.Image, row: str, max_pixels: int | None) -> str:
    """An image as a `data:` URL (PNG), at most `max_pixels` large. Raises UserError if it can't be read."""
    picture = open_image(image, row)
    if max_pixels is not None and picture.width * picture.height > max_pixels:
        scale = math.sqrt(max_pixels / (picture.width * picture.height))
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    return data_url(picture)

"""Image views: `view(image, rng, strength) -> image` of the same size, so that a prompt keeps its tokens.

Strength 0 changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from openvlt.data.images import open_images
from openvlt.errors import UserError
from openvlt.types import Problem

ImageView = Callable[[Image.Image, np.random.Generator, float], Image.Image]


@dataclass(frozen=True)
class Blackened:
    """Patches of `patch` x `patch` pixels turn black with probability `strength`.

    As in VPPO and PAPO (`random_patch_blackening`, 14 pixels).
    """

    patch: int = 14

    def __call__(self, image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
        pixels = np.array(image)
        rows, columns = (-(-size // self.patch) for size in pixels.shape[:2])
        hit = rng.random((rows, columns)) < strength
        mask = hit.repeat(self.patch, 0).repeat(self.patch, 1)[: pixels.shape[0], : pixels.shape[1]]
        pixels[mask] = 0
        return Image.fromarray(pixels)


@dataclass(frozen=True)
class Noisy:
    """Diffusion noise (NoisyRollout, `image_aug.py`): step int(`steps` x strength) of 1,000.

    The beta schedule is a sigmoid from 1e-5 to 5e-3, the ends in VCD's public code.
    """

    steps: int = 500

    def __call__(self, image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
        step = int(self.steps * strength)
        if step == 0:
            return image
        beta = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.5e-2 - 1e-5) + 1e-5
        kept = np.prod(1 - beta[: step + 1])
        pixels = np.asarray(image, dtype=np.float64) / 127.5 - 1
        noised = np.sqrt(kept) * pixels + np.sqrt(1 - kept) * rng.standard_normal(pixels.shape)
        return Image.fromarray(((noised.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8))


def apply_view(problem: Problem, view: ImageView, strength: float, seed: int) -> Problem:
    """The problem with its images seen through `view`: one draw per problem and `seed`.

    Raises UserError when a view changes the size.
    """
    rng = np.random.default_rng(random.Random(f"view/{seed}/{problem.id}").getrandbits(64))
    images = []
    for image in open_images(problem):
        changed = view(image, rng, strength)
        if changed.size != image.size:
            raise UserError(
                f"view {type(view).__name__} made {changed.size} of an image of {image.size}; "
                "a view keeps the size"
            )
        images.append(changed)
    return replace(problem, images=tuple(images))

"""Vision features: computed by the model's own tower, once per image, and kept with the prompts when the tower is frozen."""

from __future__ import annotations

import torch
from torch import Tensor

from openvlt.model.load import VLM
from openvlt.types import Prompts

FEATURES = "features"  # (image tokens, D) in `Prompts.vision`; DeepStack's layers follow as deep_0, deep_1, ...
PATCHES = 1 << 14  # patches of one pass through the tower


def image_features(vlm: VLM, prompts: Prompts) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Features (image tokens, D) of all images in reading order, and those of DeepStack's layers (empty for most families)."""
    if FEATURES in prompts.vision:
        deep = sorted(name for name in prompts.vision if name.startswith("deep_"))
        return prompts.vision[FEATURES], tuple(prompts.vision[name] for name in deep)
    output = vlm.core.get_image_features(**prompts.vision)
    deep = getattr(output, "deepstack_features", None) or ()
    return _joined(output.pooler_output), tuple(_joined(layer) for layer in deep)


def _joined(features: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat(list(features)) if isinstance(features, (tuple, list)) else features

"""Vision features: computed by the model's own tower, once per image, and kept with the prompts when the tower is frozen."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from openvlt.model.load import VLM
from openvlt.types import Prompts

FEATURES = (
    "features"  # (image tokens, D) in `Prompts.vision`; DeepStack's layers follow as deep_0, deep_1, ...
)
PATCHES = 1 << 14  # patches of one pass through the tower, when features are made for later


def pixels(prompts: Prompts) -> dict[str, Tensor]:
    """What the processor made of the images: the tower's input, without features that were stored beside it."""
    return {
        name: value
        for name, value in prompts.vision.items()
        if name != FEATURES and not name.startswith("deep_")
    }


def image_features(vlm: VLM, prompts: Prompts, *, again: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Features (image tokens, D) of all images in reading order, and those of DeepStack's layers (empty for most families)."""
    if FEATURES in prompts.vision:
        deep = sorted(
            (name for name in prompts.vision if name.startswith("deep_")), key=lambda name: int(name[5:])
        )
        return prompts.vision[FEATURES], tuple(prompts.vision[name] for name in deep)
    run = partial(vlm.core.get_image_features, **pixels(prompts))
    output = (
        checkpoint(run, use_reentrant=False) if again and torch.is_grad_enabled() and trains(vlm) else run()
    )
    deep = getattr(output, "deepstack_features", None) or ()
    return _joined(output.pooler_output), tuple(_joined(layer) for layer in deep)


def trains(vlm: VLM) -> bool:
    """Whether anything of the vision tower is learned."""
    return any(value.requires_grad for value in vlm.core.model.visual.parameters())


def with_features(vlm: VLM, prompts: Prompts) -> Prompts:
    """The prompts with their vision features, kept on the CPU for every later pass. As they came when the tower is trained, when there
    is no image, and for families that are run by their own forward."""
    model = vlm.core
    if not prompts.vision or not hasattr(model.model, "visual") or trains(vlm):
        return prompts
    made = []
    patches = prompts.vision["image_grid_thw"].prod(-1).tolist()
    ends = [0, *prompts.images_P.cumsum(0).tolist()]
    count_P = [sum(patches[first:last]) for first, last in zip(ends, ends[1:], strict=False)]
    with torch.no_grad():
        for part in _runs(count_P):
            some = prompts.select(part).to(vlm.device)
            if some.vision:
                features, deep = image_features(vlm, some)
                made.append([features.cpu(), *(layer.cpu() for layer in deep)])
    names = [FEATURES, *(f"deep_{index}" for index in range(len(made[0]) - 1))]
    stored = {name: torch.cat(column) for name, column in zip(names, zip(*made, strict=True), strict=True)}
    return replace(prompts, vision={**prompts.vision, **stored})


def _runs(count_P: list[int]) -> list[list[int]]:
    """Consecutive rows of together at most `PATCHES` patches (a larger row stands alone)."""
    runs: list[list[int]] = []
    total = 0
    for row, count in enumerate(count_P):
        if runs and total + count <= PATCHES:
            runs[-1].append(row)
            total += count
        else:
            runs.append([row])
            total = count
    return runs


def _joined(features: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat(list(features)) if isinstance(features, (tuple, list)) else features

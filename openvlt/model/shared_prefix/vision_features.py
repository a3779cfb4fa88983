"""Vision features: computed once per image, and stored with the prompts when the vision tower is frozen."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from openvlt.model.families import find_family, part_parameters, shares_prefix
from openvlt.model.load import VLM
from openvlt.types import Prompts

# name of stored features (image tokens, D) in `Prompts.vision`; DeepStack's follow as deep_0, deep_1, ...
FEATURES = "features"
MAX_IMAGE_TOKENS = 1 << 12  # of one pass through the tower, when features are computed for later


def vision_inputs(prompts: Prompts) -> dict[str, Tensor]:
    """The vision tower's inputs as the processor made them, without features stored beside them."""
    return {
        name: value
        for name, value in prompts.vision.items()
        if name != FEATURES and not name.startswith("deep_")
    }


def _tower_inputs(vlm: VLM, prompts: Prompts) -> dict[str, Tensor]:
    """The vision tower's inputs as the model takes them."""
    inputs, family = vision_inputs(prompts), find_family(vlm.core.config)
    if inputs and family.pixels_by_prompt:  # which prompt's doesn't matter: image tokens have their order
        inputs = {name: value[None] for name, value in inputs.items()}
    if inputs and family.counts_images:
        inputs["batch_num_images"] = prompts.images_P
    return inputs


def forward_inputs(vlm: VLM, prompts: Prompts, more: int = 0) -> dict[str, Tensor]:
    """What the model's own forward takes of prompts beside ids and mask; `more` text tokens follow them."""
    name, types = find_family(vlm.core.config).token_types, prompts.token_type_PL
    types = torch.nn.functional.pad(types, (0, more))
    return {**({name: types} if name and types.any() else {}), **_tower_inputs(vlm, prompts)}


def image_features(
    vlm: VLM, prompts: Prompts, *, recompute: bool = False
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Features (image tokens, D) of all images in reading order, and those of DeepStack's layers.

    Few families have DeepStack; the tuple is empty for the others. Stored features are taken where there are
    any. With `recompute` a trained tower keeps no activations and runs again in the backward pass; one that
    is cut over processes always does, so that all of them send the same messages.
    """
    if FEATURES in prompts.vision:
        names = [name for name in prompts.vision if name.startswith("deep_")]
        names.sort(key=lambda name: int(name[5:]))
        return prompts.vision[FEATURES], tuple(prompts.vision[name] for name in names)
    run = partial(vlm.core.get_image_features, **_tower_inputs(vlm, prompts))
    recompute = recompute or isinstance(getattr(vlm.core.model, "visual", None), FSDPModule)
    if recompute and torch.is_grad_enabled() and is_vision_trained(vlm):
        output = checkpoint(run, use_reentrant=False)
    else:
        output = run()
    deep = getattr(output, "deepstack_features", None) or ()
    return _concatenate(output.pooler_output), tuple(_concatenate(layer) for layer in deep)


def add_blank_features(vlm: VLM, prompts: Prompts, hidden: Tensor) -> Tensor:
    """The same values, computed in a pass with gradient with all vision weights, where processes share these.

    A process whose prompts have no image must send the messages, and have the gradients, that others do.
    """
    if not torch.is_grad_enabled() or not isinstance(vlm.model, FSDPModule):
        return hidden
    if isinstance(getattr(vlm.core.model, "visual", None), FSDPModule):  # a group of weights of its own
        return hidden if prompts.vision else hidden + _blank_features(vlm).to(hidden.dtype)
    for weight in _vision_weights(vlm):  # in one group with others; some aren't used with an image either
        hidden = hidden + (weight.sum() * 0.0).to(hidden.dtype) if weight.requires_grad else hidden
    return hidden


def _blank_features(vlm: VLM) -> Tensor:
    """Zero, computed by the vision tower from a blank image of the smallest size."""
    config = vlm.core.config.vision_config
    side = config.spatial_merge_size
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.zeros(side**2, values, device=vlm.device)
    grid = torch.tensor([[1, side, side]], device=vlm.device)
    run = partial(vlm.core.get_image_features, pixel_values=pixels, image_grid_thw=grid)
    output = checkpoint(run, use_reentrant=False)
    deep = getattr(output, "deepstack_features", None) or ()
    layers = (output.pooler_output, *deep)
    return torch.stack([_concatenate(layer).sum() * 0.0 for layer in layers]).sum()


def is_vision_trained(vlm: VLM) -> bool:
    """Whether any weight of vision tower or projector is trained."""
    return any(weight.requires_grad for weight in _vision_weights(vlm))


def _vision_weights(vlm: VLM) -> list[nn.Parameter]:
    return [weight for part in ("vision", "projector") for weight in part_parameters(vlm.core, part)]


def store_vision_features(vlm: VLM, prompts: Prompts) -> Prompts:
    """Adds vision features to the prompts, on the CPU, for every later pass.

    Returns the prompts unchanged when the tower is trained, when there is no image, and for families that run
    through their own forward.
    """
    if not prompts.vision or not shares_prefix(vlm.core) or is_vision_trained(vlm):
        return prompts
    parts = []
    with torch.no_grad():
        for rows in _split_by_tokens(prompts.token_type_PL.sum(1).tolist()):
            some = prompts.select(rows).to(vlm.device)
            if some.vision:
                features, deep = image_features(vlm, some)
                parts.append([features.cpu(), *(layer.cpu() for layer in deep)])
    names = [FEATURES, *(f"deep_{index}" for index in range(len(parts[0]) - 1))]
    columns = zip(*parts, strict=True)
    stored = {name: torch.cat(column) for name, column in zip(names, columns, strict=True)}
    return replace(prompts, vision={**prompts.vision, **stored})


def _split_by_tokens(tokens_P: list[int]) -> list[list[int]]:
    """Consecutive rows of together at most `MAX_IMAGE_TOKENS` image tokens (a larger row stands alone)."""
    runs: list[list[int]] = []
    total = 0
    for row, count in enumerate(tokens_P):
        if runs and total + count <= MAX_IMAGE_TOKENS:
            runs[-1].append(row)
            total += count
        else:
            runs.append([row])
            total = count
    return runs


def _concatenate(features: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    whole = torch.cat(list(features)) if isinstance(features, (tuple, list)) else features
    return whole.flatten(0, -2)  # some families give (parts of images, tokens of a part, D)
